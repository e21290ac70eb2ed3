"""`docker/compose.celery.yaml` and `docker/celery`, as far as files alone can tell."""

from __future__ import annotations

import re
import runpy
from typing import Any

import pytest
import yaml

from tests.database.docker.composed import FOLDER, SECRETS, Missing, fill_in

TEXT = (FOLDER / "compose.celery.yaml").read_text(encoding="utf-8")
WRITTEN: dict[str, Any] = yaml.safe_load(TEXT)
BASE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))


def test_a_worker_has_what_a_run_of_the_code_server_has() -> None:
    worker, server = WRITTEN["services"]["worker"], BASE["services"]["code-server"]
    of_the_server = dict(server["environment"])
    of_the_server.pop("DAGSTER_GRPC_SHUTDOWN_GRACE_PERIOD")
    assert {name: value for name, value in worker["environment"].items() if name != "CELERY_BROKER"} == of_the_server
    assert worker["volumes"] == server["volumes"]
    for name in ("read_only", "tmpfs", "cap_drop", "security_opt", "init", "restart"):
        assert worker[name] == server[name], name


def test_whoever_hands_out_or_takes_runs_knows_the_broker_and_has_its_image() -> None:
    for name in ("code-server", "webserver", "daemon", "worker"):
        service = WRITTEN["services"][name]
        assert service["environment"]["CELERY_BROKER"].startswith("redis://"), name
        assert service["image"].startswith("embed-pipeline-celery:"), name


def test_nothing_starts_without_the_password_of_the_broker() -> None:
    given = dict.fromkeys(SECRETS, "x")
    with pytest.raises(Missing, match="set REDIS_PASSWORD in docker/.env"):
        fill_in(TEXT, given)
    filled = yaml.safe_load(fill_in(TEXT, given | {"REDIS_PASSWORD": "geheim"}))
    assert filled["services"]["redis"]["command"][-1].count("$REDISCLI_AUTH") == 1, (
        "no password in the list of processes of the machine"
    )
    assert "ports" not in filled["services"]["redis"]


def test_dagsters_settings_differ_in_the_launcher_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    usual, celery = (yaml.safe_load((FOLDER / name / "dagster.yaml").read_text(encoding="utf-8")) for name in (".", "celery"))
    launcher = celery.pop("run_launcher")
    assert celery == usual
    monkeypatch.setenv("CELERY_BROKER", "redis://here")
    of_workers = runpy.run_path(str(FOLDER / "celery" / "dagster_celery_config.py"))
    assert of_workers["broker_url"] == of_workers["result_backend"] == "redis://here"
    shared = launcher["config"]["config_source"]
    assert {name: of_workers[name] for name in shared} == shared


def test_the_image_holds_what_its_file_copies() -> None:
    copied = re.findall(
        r"(?:COPY|source=)\s*(docker/celery/[\w.]+)", (FOLDER / "celery" / "Dockerfile").read_text(encoding="utf-8")
    )
    assert len(copied) == 3
    assert all((FOLDER.parent / name).is_file() for name in copied)
    ignored = (FOLDER.parent / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "!docker/celery" in ignored
