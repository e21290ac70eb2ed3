"""Documents that have no vector, as a person meets them: listed with their reasons, and tried again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest

from embed_pipeline import signals
from embed_pipeline.configuration import load_indexes
from embed_pipeline.dagster_layer.component import build_definitions
from embed_pipeline.migrate import dead_letters
from embed_pipeline.migrate.opening import opened
from tests.database.cli.conftest import Place, Ran, version
from tests.database.cli.test_flow import ok

Run = Callable[..., Ran]
POISON = ({"id": "p1", "text": "poison one"}, {"id": "p2", "text": "poison two"})


@pytest.fixture
def mended(place: Place, run: Run, tmp_path: Path) -> Path:
    """v1 serves nothing yet and rejects two documents, until this file exists."""
    marker = tmp_path / "mended"
    place.declare(versions={"v1": version(options={"salt": "one", "fail_on": "poison", "mended": str(marker)})}, partitions=1)
    ok(run("load", "docs", place.write_documents(*POISON), "--json"))
    ok(run("backfill", "docs", "v1", "--json"))
    return marker


def listed(run: Run, *more: str) -> tuple[int, list[tuple[str, bool]]]:
    (found,) = ok(run("dead-letters", "docs", *more, "--json"))["versions"]
    return found["count"], [(each["doc_id"], each["still_so"]) for each in found["shown"]]


def test_letters_are_listed_and_tried_again(mended: Path, run: Run, conn: psycopg.Connection[Any]) -> None:
    assert listed(run) == (2, [("p1", True), ("p2", True)])
    told = run("dead-letters", "docs", "v1").out
    assert "told to fail on 'poison'" in told
    assert told.endswith("or run: embed-pipeline dead-letters docs v1 --retry\n")
    assert listed(run, "--limit", "1") == (2, [("p1", True)])
    assert "and 1 more" in run("dead-letters", "docs", "--limit", "1").out

    conn.execute("UPDATE docs SET text = 'poison again' WHERE id = 'p2'")
    assert listed(run) == (2, [("p1", True), ("p2", False)])

    # Tried again before anything was mended, they come back; afterwards they are written.
    assert ok(run("dead-letters", "docs", "--retry", "--json"))["queued"] == {"v1": 2}
    assert ok(run("sync", "docs", "--json"))["versions"][0]["rejected"] == 2
    assert listed(run) == (2, [("p1", True), ("p2", True)])
    mended.touch()
    assert "v1: 2 documents queued" in run("dead-letters", "docs", "v1", "--retry").out
    assert ok(run("sync", "docs", "--json"))["versions"][0]["written"] == 2
    assert listed(run) == (0, [])
    assert run("verify", "docs").code == 0
    assert run("dead-letters", "docs", "v9").code == 1


def test_a_crash_while_retrying_loses_no_letter(mended: Path, place: Place, run: Run, conn: psycopg.Connection[Any]) -> None:
    def die() -> None:
        raise KeyboardInterrupt

    signals.listen("dead_letters.requeued", die)
    with opened(load_indexes(place.config)["docs"]) as index, pytest.raises(KeyboardInterrupt):
        dead_letters.retry(index)
    assert listed(run)[0] == 2
    assert conn.execute("SELECT count(*) FROM embed_pipeline.pending").fetchone() == (0,)


def test_dagster_shows_them_on_the_dual_write_and_tries_again(mended: Path, place: Place, run: Run) -> None:
    docs = build_definitions(load_indexes(place.config)["docs"])
    with dg.DagsterInstance.ephemeral() as instance:

        def check() -> tuple[bool, dg.AssetCheckSeverity]:
            done = docs.resolve_job_def("docs_dual_write").execute_in_process(instance=instance, raise_on_error=False)
            (found,) = done.get_asset_check_evaluations()
            ended.append(done.success)
            return found.passed, found.severity

        ended: list[bool] = []
        assert check() == (False, dg.AssetCheckSeverity.WARN), "nothing is served that lacks them"
        assert check() == (False, dg.AssetCheckSeverity.WARN)
        assert ended == [False, True], "who is called for failed runs is called once, not by every dual-write"
        place.declare(gate={"min_queries": 2, "margin": 0.2, "max_dead_letters": 2}, versions=_declared(place), partitions=1)
        assert run("gate", "docs", "v1").code == 0
        assert run("cutover", "docs", "v1").code == 0
        assert check() == (False, dg.AssetCheckSeverity.ERROR), "searches miss them now"
        assert ended[-1] is False, "it is worse than it was"
        mended.touch()
        again = docs.resolve_job_def("docs_retry_dead_letters").execute_in_process(instance=instance)
        assert again.success
        assert check()[0]
        assert ended[-1]


def _declared(place: Place) -> dict[str, Any]:
    spec = load_indexes(place.config)["docs"]
    return {name: each.model_dump(mode="json", exclude_defaults=True) for name, each in spec.versions.items()}


def test_the_gate_of_the_command_line_and_of_dagster_agree(mended: Path, run: Run, place: Place) -> None:
    """The held-out set passes, and two documents can never be found: that is no pass, whoever asks."""
    definitions = build_definitions(load_indexes(place.config)["docs"])

    def by_dagster() -> dict[str, bool]:
        with dg.DagsterInstance.ephemeral() as instance:
            done = definitions.resolve_job_def("docs__v1_gate").execute_in_process(instance=instance, raise_on_error=False)
            found = done.get_asset_check_evaluations()
            assert done.success == all(each.passed for each in found)
            return {each.check_name: each.passed for each in found}

    asked = run("gate", "docs", "v1")
    assert asked.code == 1
    assert asked.out.startswith("pass: ")
    assert "FAILED  coverage" in asked.out
    assert "2 without a vector, where max_dead_letters is 0 (p1: " in asked.out
    assert "run: embed-pipeline dead-letters docs v1" in asked.out
    for name in ("provenance", "ann_recall", "held_out_recall"):
        assert f"passed  {name}" in asked.out
    assert "- FAILED `coverage`: 52 documents" in run("gate", "docs", "v1", "--markdown").out
    found = {each["name"]: each["passed"] for each in run("gate", "docs", "v1", "--json").value["checks"]}
    assert found == {"coverage": False, "provenance": True, "ann_recall": True, "held_out_recall": True}
    assert by_dagster() == found

    mended.touch()
    ok(run("dead-letters", "docs", "--retry", "--json"))
    ok(run("sync", "docs", "--json"))
    assert {each["passed"] for each in ok(run("gate", "docs", "v1", "--json"))["checks"]} == {True}
    assert set(by_dagster().values()) == {True}
