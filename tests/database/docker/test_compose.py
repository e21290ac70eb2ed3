"""`docker/compose.yaml`, the Dockerfile and what goes with them, as far as files alone can tell. Neither Docker nor a network is needed."""

from __future__ import annotations

import fnmatch
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from embed_pipeline.configuration import load_indexes
from tests.database.docker.composed import (
    FOLDER,
    ROOT,
    SECRETS,
    Loopback,
    Missing,
    as_written,
    composed,
    dockerfile,
    fill_in,
    health_of,
    services,
)
from tests.database.docker.stand_ins import postgres_of_the_containers, qdrant_that_answers

GIVEN = {name: f"secret of {name}" for name in SECRETS}
OF_DAGSTER = ("dagster-schema", "code-server", "webserver", "daemon")
OURS = (*OF_DAGSTER, "metrics")


@pytest.mark.parametrize("missing", sorted(SECRETS))
def test_nothing_starts_with_a_secret_missing(missing: str) -> None:
    with pytest.raises(Missing, match=f"set {missing} in docker/.env"):
        composed({name: value for name, value in GIVEN.items() if name != missing})
    with pytest.raises(Missing):
        composed(GIVEN | {missing: ""})


def test_every_secret_comes_from_the_environment() -> None:
    written = as_written()
    for name, service in written["services"].items():
        for variable, value in service["environment"].items():
            if re.search(r"PASSWORD|KEY|TOKEN|SECRET", variable):
                found = re.fullmatch(r"\$\{(\w+):\?set \1 in docker/\.env\}", value)
                assert found is not None, (name, variable)
                assert found[1] in SECRETS
            assert not re.search(r"://[^/@]*:[^/@]*@", str(value)), f"a password in {variable} of {name}"


def test_the_example_has_every_variable_and_no_secret() -> None:
    lines = (FOLDER / ".env.example").read_text(encoding="utf-8").splitlines()
    settings = dict(line.lstrip("#").split("=", 1) for line in lines if re.match(r"#?[A-Z_]+=", line))
    assert {name for name, value in settings.items() if value == ""} == SECRETS
    used = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", (FOLDER / "compose.yaml").read_text(encoding="utf-8")))
    used.pop("EMBED_PIPELINE_TAG")
    assert {name: value for name, value in settings.items() if value} == used, "defaults are shown as they are"


def test_git_and_the_image_leave_the_secrets_out() -> None:
    assert ".env" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in ignore
    assert not [line for line in ignore if line.startswith("!") and fnmatch.fnmatch("docker/.env", line[1:])]
    for words in dockerfile():
        assert not re.search(r"PASSWORD|API_KEY|TOKEN|SECRET|DATABASE_URL", " ".join(words)), words


def test_ports_are_published_on_this_machine_only_unless_told_otherwise() -> None:
    published = {name: service.get("ports", []) for name, service in services(GIVEN).items()}
    assert {port for ports in published.values() for port in ports} == {
        "127.0.0.1:5432:5432",
        "127.0.0.1:6333:6333",
        "127.0.0.1:3000:3000",
        "127.0.0.1:9464:9464",
    }
    assert published["code-server"] == [], "it runs what it is told, and asks for no password"
    other = services(GIVEN | {"BIND_ADDRESS": "10.0.0.1", "DAGSTER_PORT": "80"})
    assert other["webserver"]["ports"] == ["10.0.0.1:80:3000"]


def test_images_are_pinned_and_new_enough() -> None:
    images = {name: service["image"] for name, service in services(GIVEN).items()}
    pgvector = re.fullmatch(r"pgvector/pgvector:(\d+)\.(\d+)\.(\d+)-pg(\d+)-\w+", images["postgres"])
    assert pgvector is not None
    assert tuple(map(int, pgvector.groups()[:3])) >= (0, 8, 4)
    assert pgvector[4] == "18"
    qdrant = re.fullmatch(r"qdrant/qdrant:v(\d+)\.(\d+)\.(\d+)", images["qdrant"])
    assert qdrant is not None
    assert tuple(map(int, qdrant.groups())) >= (1, 19, 0)
    assert {images[name] for name in OURS} == {"embed-pipeline:local"}, "one image"


def test_everything_waits_for_what_it_needs_to_be_healthy() -> None:
    found = services(GIVEN)
    for name, service in found.items():
        ends = service["restart"] == "no"
        assert ends or {"test", "interval", "timeout", "retries", "start_period"} == set(service["healthcheck"]), name
        for needed, how in service.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if found[needed]["restart"] == "no" else "service_healthy"
            assert how == {"condition": wanted}, f"{name} waits for {needed}"
    assert set(found["code-server"]["depends_on"]) == {"postgres", "qdrant"}
    assert set(found["metrics"]["depends_on"]) == {"postgres"}
    for name in ("webserver", "daemon"):
        assert set(found[name]["depends_on"]) == {"dagster-schema", "code-server"}


def test_what_must_be_kept_is_on_volumes() -> None:
    file = composed(GIVEN)
    mounts = {name: [each.split(":") for each in service["volumes"]] for name, service in file["services"].items()}
    kept = {(name, source, target) for name, each in mounts.items() for source, target, *_ in each if "/" not in source}
    assert {source for _, source, _ in kept} == set(file["volumes"])
    # Up to 17 the data were in /var/lib/postgresql/data; mounted there, a volume of 18 stays empty.
    assert ("postgres", "postgres-data", "/var/lib/postgresql") in kept
    assert ("qdrant", "qdrant-data", "/qdrant/storage") in kept
    assert {target for name, _, target in kept if name in OURS} == {"/opt/dagster/home/storage"}
    for source, target, mode in [each for ones in mounts.values() for each in ones if "/" in each[0]]:
        assert (FOLDER / source).exists(), source
        assert mode == "ro", target


def test_our_roles_run_without_rights() -> None:
    for name in OURS:
        service = services(GIVEN)[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["init"] is True, "somebody has to reap the runs"
    users = [words[1] for words in dockerfile() if words[0] == "USER"]
    assert users[-1:] == ["10001:10001"]
    assert dockerfile()[-1][0] == "CMD"


def test_the_image_is_made_of_files_that_are_there_and_let_through() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")]
    copied = [
        source for words in dockerfile() if words[0] == "COPY" and not words[1].startswith("--from") for source in words[1:-1]
    ]
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert source in allowed, source
    assert set(allowed) == {*copied, "docker/celery"}, "nothing more reaches the build, or that of docker/celery/Dockerfile"


def test_the_image_installs_what_was_tested_together() -> None:
    runs = [" ".join(words) for words in dockerfile() if words[0] == "RUN"]
    (install,) = [each for each in runs if "pip install" in each]
    assert "-c constraints.txt" in install
    wanted = [word for word in shlex.split(install)[-2:] if not word.startswith(".")]
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()}
    assert set(wanted) <= pinned


def test_dagsters_settings_are_the_projects_but_for_the_storage() -> None:
    ours, docker = (yaml.safe_load((folder / "dagster.yaml").read_text()) for folder in (ROOT, FOLDER))
    assert ours.pop("storage") != docker["storage"]
    database = docker.pop("storage")["postgres"]["postgres_db"]
    assert docker == ours
    assert database["scheme"] == "postgresql+psycopg2"
    named = {value["env"] for value in database.values() if isinstance(value, dict)}
    for name in OF_DAGSTER:
        # Runs are started with the daemon's settings, in which these names are not resolved yet.
        assert named <= set(services(GIVEN)[name]["environment"]), name


def test_runs_find_both_stores() -> None:
    found = services(GIVEN)
    runs = found["code-server"]["environment"]
    assert {"DATABASE_URL", "QDRANT_URL", "QDRANT_API_KEY"} <= set(runs)
    assert runs["QDRANT_API_KEY"] == found["qdrant"]["environment"]["QDRANT__SERVICE__API_KEY"]
    assert runs["PGPASSWORD"] == found["postgres"]["environment"]["EMBED_PIPELINE_PASSWORD"]
    ours = {"DATABASE_URL", "PGPASSWORD", "QDRANT_URL", "QDRANT_API_KEY"}
    assert found["metrics"]["environment"] == {name: runs[name] for name in ours}, "it measures what the runs work on"
    for name in ("webserver", "daemon"):
        assert not {"DATABASE_URL", "PGPASSWORD", "QDRANT_API_KEY"} & set(found[name]["environment"]), (
            f"{name} runs no code of ours"
        )


def test_the_workspace_names_the_code_server() -> None:
    (location,) = yaml.safe_load((FOLDER / "workspace.yaml").read_text())["load_from"]
    server = location["grpc_server"]
    command = services(GIVEN)["code-server"]["command"]
    assert server["host"] in services(GIVEN)
    assert str(server["port"]) == command[command.index("-p") + 1]
    assert server["location_name"] == command[command.index("--location-name") + 1]
    assert dockerfile()[-1][1:] == [
        f'{"[" * (n == 0)}"{word}"{"," if n < len(command) - 1 else "]"}' for n, word in enumerate(command)
    ]


def test_the_example_index_is_valid_and_uses_no_embedded_server(monkeypatch: pytest.MonkeyPatch) -> None:
    url = services(GIVEN)["code-server"]["environment"]["DATABASE_URL"]
    monkeypatch.setenv("DATABASE_URL", url)
    indexes = load_indexes(FOLDER / "assets")
    assert [spec.database_url for spec in indexes.values()] == [url]


def test_variables_are_filled_in_as_compose_does_it() -> None:
    filled = fill_in("${A} ${B:-b} ${C:-c} $$D ${E:?say}", {"A": "1", "C": "3", "E": "5"})
    assert filled == "1 b 3 $D 5"


def qdrant_is_healthy(port: int) -> bool:
    command = Loopback({"6333": port}, {}).words(health_of(services(GIVEN)["qdrant"]))
    return subprocess.run(command, timeout=20, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(shutil.which("bash") is None, reason="the command is one for bash")
def test_qdrant_is_healthy_when_it_says_that_it_is_ready() -> None:
    with qdrant_that_answers(200) as server:
        assert qdrant_is_healthy(server.port)
        assert server.paths == ["/readyz"]
    assert not qdrant_is_healthy(server.port), "nobody listens"
    with qdrant_that_answers(503) as server:
        assert not qdrant_is_healthy(server.port)


def test_the_databases_are_made_with_any_password(tmp_path: Path) -> None:
    passwords = {name: f'it\'s \\ {name} @/:%20 "ü"' for name in ("DAGSTER_PASSWORD", "EMBED_PIPELINE_PASSWORD")}
    with postgres_of_the_containers(tmp_path, passwords) as server:
        for role, variable in (("dagster", "DAGSTER_PASSWORD"), ("embed_pipeline", "EMBED_PIPELINE_PASSWORD")):
            place: dict[str, Any] = {"host": "127.0.0.1", "port": server.port, "user": role, "password": passwords[variable]}
            with psycopg.connect(dbname=role, **place) as conn:
                conn.execute("CREATE SCHEMA of_its_own")
            with pytest.raises(psycopg.OperationalError, match="CONNECT"):
                psycopg.connect(dbname={"dagster": "embed_pipeline", "embed_pipeline": "dagster"}[role], **place)
        with psycopg.connect(server.url("embed_pipeline")) as conn:
            assert conn.execute("SELECT '[1,2]'::vector <-> '[1,2]'").fetchone() == (0.0,)
