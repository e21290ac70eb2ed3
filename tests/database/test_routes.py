"""Routes: what a query goes through, who may move the pointer to which, and what each of them says of itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from embed_pipeline.catalog import serving
from embed_pipeline.catalog.route import Route
from embed_pipeline.cli.main import cli
from embed_pipeline.documents import queue
from embed_pipeline.errors import CutoverRefused, RetireRefused
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import backfill, cutover, dual_write, gate, retire
from embed_pipeline.report import status
from embed_pipeline.search import Searcher
from tests.harness.articles import DOCUMENTS, counted, fill, leave_behind
from tests.harness.fakes import asked_texts

Open = Callable[..., OpenIndex]
TEXT = "title 7\n\nbody 7"
REFINES = {"while_building": {"refine": True, "depth": 20}}
REFINED = Route("v1", "v2", 20)


@pytest.fixture
def half(open_served: Open) -> OpenIndex:
    """v1 serves; v2 has one of its two partitions."""
    index = open_served("v1", "v2", **REFINES)
    backfill.fill_partition(index, "v2", "00")
    return index


@pytest.fixture
def refined(half: OpenIndex) -> OpenIndex:
    gate.run(half, "v2", route="refine")
    cutover.cutover(half, "v2", route="refine")
    return half


def route(app: psycopg.Connection) -> tuple[Route | None, Route | None, int]:
    now = serving.read(app, "docs")
    return now.route, now.previous_route, now.generation


# What a search does


def test_only_the_route_asks_the_second_model(app: psycopg.Connection, open_served: Open, tmp_path: Path) -> None:
    """Before the flip and by hand a search embeds once; on the route twice; and what the cache keeps, not again."""
    calls = tmp_path / "calls"
    index = open_served(
        versions={"v1": declared_v1(), "v2": counted(calls, options={"calls_file": str(calls), "salt": "v2"})}, **REFINES
    )
    backfill.fill_partition(index, "v2", "00")
    gate.run(index, "v2", route="refine")
    with Searcher("docs", index.url, refresh_seconds=0, query_cache=10) as searcher:
        before = len(asked_texts(calls))
        searcher.search("before", 3)
        cutover.cutover(index, "v2", route="refine")
        searcher.search("by hand", 3, version="v1")
        assert len(asked_texts(calls)) == before
        assert searcher.search("on the route", 3).route == REFINED
        assert searcher.search("on the route", 3).route == REFINED
        assert asked_texts(calls)[before:] == ["on the route"]


def declared_v1() -> dict[str, Any]:
    return {"provider": "tests.harness.fakes:HashEmbedder", "model_name": "model-v1", "dimensions": 16, "options": {"salt": "v1"}}


def test_by_hand_stays_in_one_space(refined: OpenIndex) -> None:
    with Searcher("docs", refined.url) as searcher:
        assert searcher.search(TEXT, 3, version="v1").route == Route("v1")
        assert searcher.search(TEXT, 3, version="v2").route == Route("v2")
        assert searcher.search_vector(searcher.embed(TEXT), 3).route == Route("v1")


def test_filters_and_documents(app: psycopg.Connection, refined: OpenIndex) -> None:
    """What is filtered out stays out, and hits bring their documents; nothing is found twice."""
    app.execute("UPDATE articles SET views = id")
    with Searcher("docs", refined.url) as searcher:
        answer = searcher.search(TEXT, 10, where={"views": {"gte": 5, "lt": 40}}, with_documents=["views"], exact=True)
        assert answer.route == REFINED
        assert answer.placed > 0
        assert all(hit.document is not None and 5 <= hit.document.columns["views"] < 40 for hit in answer.hits)
        assert len({hit.doc_id for hit in answer.hits}) == 10


def test_a_machine_without_the_second_model_goes_on_without_it(
    app: psycopg.Connection, half: OpenIndex, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No search fails for want of it: the answer names the route that it took, and says why."""
    gate.run(half, "v2", route="refine")
    leave_behind(app, "v2")
    moved = cutover.cutover(half, "v2", route="refine")
    assert len(moved.left_behind) == 1
    from tests.harness import fakes

    def missing(*_: Any, **options: Any) -> Any:
        raise OSError("no such file")

    with Searcher("docs", half.url) as searcher:
        searcher.prepare("v1")
        monkeypatch.setattr(fakes.HashEmbedder, "__init__", missing)
        answer = searcher.search(TEXT, 5)
    assert (answer.route, answer.placed, answer.version, len(answer.hits)) == (Route("v1"), 0, "v1", 5)
    assert "no such file" in answer.note
    assert sum("is refined by v2, and searches of this machine are not" in each.message for each in caplog.records) == 1


def test_a_second_model_that_fails_fails_no_search(open_served: Open, tmp_path: Path) -> None:
    """Nor is it asked again by each search that follows."""
    calls, down = tmp_path / "calls", tmp_path / "down"
    version = counted(calls, options={"calls_file": str(calls), "raise_while": str(down), "salt": "v2"})
    index = open_served(versions={"v1": declared_v1(), "v2": version}, **REFINES)
    backfill.fill_partition(index, "v2", "00")
    gate.run(index, "v2", route="refine")
    cutover.cutover(index, "v2", route="refine")
    with Searcher("docs", index.url) as searcher:
        assert searcher.search("while it is up", 3).route == REFINED
        down.touch()
        failed = searcher.search("while it is down", 3)
        assert (failed.route, failed.placed, len(failed.hits)) == (Route("v1"), 0, 3)
        assert "the provider is down" in failed.note
        down.unlink()
        before = len(asked_texts(calls))
        assert searcher.search("a moment later", 3).route == Route("v1")
        assert len(asked_texts(calls)) == before


def test_sql_follows_the_route(app: psycopg.Connection, refined: OpenIndex) -> None:
    """The same documents in the same places as `Searcher` gives; and a refusal in one sentence where the route is another."""
    fingerprints = app.execute(
        "SELECT route, version, fingerprint, refine_version, refine_fingerprint FROM embed_pipeline.serving"
    )
    kind, version, fingerprint, other, refine_fingerprint = fingerprints.fetchone() or ()
    assert (kind, version, other) == ("refine", "v1", "v2")
    with Searcher("docs", refined.url) as searcher:
        vectors = [str(searcher.embed(TEXT, each).values.tolist()) for each in ("v1", "v2")]
        for k in (1, 5, 20, 60):
            answer = searcher.search(TEXT, k, exact=True)
            rows = app.execute(
                "SELECT doc_id, placed FROM embed_pipeline.search_refined('docs', %s, %s::vector, %s, %s::vector, %s, true)",
                (fingerprint, vectors[0], refine_fingerprint, vectors[1], k),
            ).fetchall()
            assert [doc_id for doc_id, _ in rows] == [hit.doc_id for hit in answer.hits]
            assert sum(placed for _, placed in rows) == answer.placed
    cutover.rollback(refined)
    with pytest.raises(
        psycopg.errors.InvalidParameterValue, match="index docs serves v1, which no version of this space refines"
    ):
        app.execute(
            "SELECT * FROM embed_pipeline.search_refined('docs', %s, %s::vector, %s, %s::vector)",
            (fingerprint, vectors[0], refine_fingerprint, vectors[1]),
        )


# Who may move to it


def test_a_route_needs_evidence_of_its_own(app: psycopg.Connection, half: OpenIndex) -> None:
    with pytest.raises(CutoverRefused, match="no evidence that v2 may refine what serves docs") as refused:
        cutover.cutover(half, "v2", route="refine")
    assert str(refused.value.next_step).endswith("gate docs v2 --route refine")
    result = gate.run(half, "v2", route="refine")
    assert (result.outcome, result.route) == ("pass", "refine")
    assert "v1 refined by v2" in result.sentence
    assert result.measures["filled"] == pytest.approx(0.5)
    assert result.measures["placed"] > 0
    # And that of the route is none for the version itself.
    fill(half, "v2")
    with pytest.raises(CutoverRefused, match="no evidence that v2 may serve docs"):
        cutover.cutover(half, "v2")


def test_a_worse_second_version_does_not_pass(app: psycopg.Connection, open_served: Open, tmp_path: Path) -> None:
    """Its documents are in another place than its queries look at: what it puts in order is in no order."""
    worse = declared_v1() | {"model_name": "worse", "document_prefix": "somewhere else: ", "options": {"salt": "v2"}}
    index = open_served(versions={"v1": declared_v1(), "v2": worse}, **REFINES)
    fill(index, "v2")
    result = gate.run(index, "v2", route="refine")
    assert result.outcome != "pass"
    with pytest.raises(CutoverRefused, match="did not pass v2"):
        cutover.cutover(index, "v2", route="refine")


def test_evidence_is_stale_by_a_tenth(app: psycopg.Connection, open_served: Open) -> None:
    """What a version does to documents that it has not, nobody has judged."""
    index = open_served("v1", "v2", partitions=2, **REFINES)
    gate.run(index, "v2", route="refine")
    backfill.fill_partition(index, "v2", "00")
    with pytest.raises(CutoverRefused, match=r"judged v2 while 0% of it was filled, and 50% is now"):
        cutover.cutover(index, "v2", route="refine")
    gate.run(index, "v2", route="refine")
    assert cutover.cutover(index, "v2", route="refine").route == REFINED
    assert status.status(index).next.command == "embed-pipeline backfill docs v2"
    backfill.fill_partition(index, "v2", "01")
    assert status.status(index).next.command == "embed-pipeline gate docs v2 --route refine"


def test_what_was_embedded_ahead_of_its_partition_is_not_counted(app: psycopg.Connection, open_served: Open) -> None:
    """A preview embeds just what the held-out queries find: they would see the end of the migration, and nobody else would."""
    index = open_served("v1", "v2", partitions=2, **REFINES)
    queue.enqueue(app, "docs", "v2", [str(n) for n in range(1, DOCUMENTS + 1)])
    dual_write.sync(index)
    assert index.store(index.version(app, "v2")).count(app) == DOCUMENTS
    assert gate.run(index, "v2", route="refine").measures["placed"] == 0
    backfill.fill_partition(index, "v2", "00")
    assert gate.run(index, "v2", route="refine").measures["placed"] > 0


@pytest.mark.parametrize(
    ("which", "overrides", "refused"),
    [
        ("v1", REFINES, "v1 serves docs itself, so there is nothing that could be refined by it"),
        ("v2", {}, "does not declare that a version which is not complete refines"),
    ],
)
def test_refusals(open_served: Open, which: str, overrides: dict[str, Any], refused: str) -> None:
    index = open_served("v1", "v2", **overrides)
    for ask in (lambda: gate.run(index, which, route="refine"), lambda: cutover.cutover(index, which, route="refine")):
        with pytest.raises(CutoverRefused, match=refused):
            ask()


def test_nothing_serves_yet(open_docs: Open) -> None:
    index = open_docs("v1", **REFINES)
    with pytest.raises(CutoverRefused, match="serves nothing yet, so there is nothing that could be refined by it"):
        gate.run(index, "v1", route="refine")


def test_a_retired_version_refines_nothing(half: OpenIndex) -> None:
    gate.run(half, "v2", route="refine")
    retire.retire(half, "v2", confirm="v2")
    for ask in (lambda: gate.run(half, "v2", route="refine"), lambda: cutover.cutover(half, "v2", route="refine")):
        with pytest.raises(CutoverRefused, match="v2 of docs is retired; only a live version"):
            ask()


def test_another_depth_is_another_route(app: psycopg.Connection, refined: OpenIndex, open_docs: Open) -> None:
    deeper = open_docs("v1", "v2", while_building={"refine": True, "depth": 30})
    with pytest.raises(CutoverRefused, match="judged a depth of 20, and 30 is declared now"):
        cutover.cutover(deeper, "v2", route="refine")
    gate.run(deeper, "v2", route="refine")
    assert cutover.cutover(deeper, "v2", route="refine").before == REFINED
    assert cutover.rollback(refined).route == REFINED
    with pytest.raises(CutoverRefused, match="v1 refined by v2 serves docs already"):
        cutover.cutover(refined, "v2", route="refine")


def test_what_a_route_goes_through_is_not_retired(app: psycopg.Connection, refined: OpenIndex) -> None:
    """Neither by the verb nor by hand; once nothing is refined by it, it may go, and the way back to it goes along."""
    with pytest.raises(RetireRefused, match="v2 is on the route that serves docs: v1 refined by v2"):
        retire.retire(refined, "v2", confirm="v2")
    with pytest.raises(psycopg.errors.CheckViolation, match=r"version docs\.v2 is on the route that serves"):
        app.execute("UPDATE embed_pipeline.index_versions SET state = 'retired' WHERE version = 'v2'")
    cutover.cutover(refined, "v1")
    assert route(app) == (Route("v1"), REFINED, 3)
    retire.retire(refined, "v2", confirm="v2")
    assert route(app) == (Route("v1"), None, 3)
    with pytest.raises(CutoverRefused, match="nothing to roll docs back to"):
        cutover.rollback(refined)


JUDGED = "(SELECT max(id) FROM embed_pipeline.gate_evidence)"
MOVE = "UPDATE embed_pipeline.serving_pointer SET generation = generation + 1, move = '{move}', previous_version = version, {to}"


@pytest.mark.parametrize(
    ("statement", "refused"),
    [
        ("UPDATE embed_pipeline.serving_pointer SET refine_version = 'v2', refine_depth = 20", "moved by hand"),
        (
            MOVE.format(move="cutover", to="refine_version = 'v2', refine_depth = 20, evidence_id = NULL"),
            "no fresh, passing evidence",
        ),
        (
            MOVE.format(move="cutover", to=f"refine_version = 'v2', refine_depth = 10, evidence_id = {JUDGED}"),
            "no fresh, passing evidence",
        ),
        (
            MOVE.format(move="cutover", to=f"refine_version = 'v2', refine_depth = 20, mark = 99, evidence_id = {JUDGED}"),
            "moved by hand",
        ),
        (
            MOVE.format(move="rollback", to="refine_version = 'v2', refine_depth = 20"),
            "v1 refined by v2 is not the route that served before",
        ),
    ],
)
def test_by_hand_no_route_is_taken_without_its_evidence(
    app: psycopg.Connection, half: OpenIndex, statement: str, refused: str
) -> None:
    gate.run(half, "v2", route="refine")
    with pytest.raises(psycopg.errors.CheckViolation, match=refused):
        app.execute(statement)  # type: ignore[arg-type]
    assert route(app) == (Route("v1"), None, 1)


def test_by_hand_evidence_of_the_version_is_none_of_its_route(app: psycopg.Connection, half: OpenIndex) -> None:
    fill(half, "v2")
    gate.run(half, "v2")
    with pytest.raises(psycopg.errors.CheckViolation, match="no fresh, passing evidence for v1 refined by v2"):
        app.execute(MOVE.format(move="cutover", to=f"refine_version = 'v2', refine_depth = 20, evidence_id = {JUDGED}"))  # type: ignore[arg-type]


# What they say of themselves


def test_the_audit_hears_of_every_route(app: psycopg.Connection, refined: OpenIndex) -> None:
    cutover.rollback(refined, "it was too slow")
    rows = app.execute(
        "SELECT version, reason, evidence_id IS NOT NULL, detail FROM embed_pipeline.events WHERE event = 'route' ORDER BY id"
    ).fetchall()
    none = {"queries": None, "adapter": None}
    direct, both = {"version": "v1", "refine": None, "depth": None} | none, {"version": "v1", "refine": "v2", "depth": 20} | none
    assert rows == [
        ("v1", "", True, {"move": "cutover", "generation": 2, "route": both, "before": direct}),
        ("v1", "it was too slow", False, {"move": "rollback", "generation": 3, "route": direct, "before": both}),
    ]


def test_command_line(half: OpenIndex, tmp_path: Path) -> None:
    """gate, cutover, search, status, rollback: each names the route, in text and as JSON."""
    file = tmp_path / "defs.yaml"
    file.write_text(json.dumps({"type": "embed_pipeline.EmbeddingIndex", "attributes": as_declared(half)}))

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(cli, [*arguments, "--config", str(file)], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    assert "v1 refined by v2" in (gated := run("gate", "docs", "v2", "--route", "refine"))
    assert "50.0% of v2 is filled" in gated
    assert "cutover docs v2 --route refine" in run("status", "docs")
    assert "v1 refined by v2 serves docs (generation 2), v1 did before" in run("cutover", "docs", "v2", "--route", "refine")
    assert "placed by v2" in run("search", "docs", TEXT)
    assert "docs: serves v1 refined by v2 (generation 2); " in (shown := run("status", "docs"))
    assert ", v1 before; " in shown
    assert "refine gate of v2: pass" in shown
    found = json.loads(run("status", "docs", "--json"))
    found = found[0] if isinstance(found, list) else found
    assert found["serving"]["route"] == {
        "version": "v1",
        "refine": "v2",
        "depth": 20,
        "queries": None,
        "adapter": None,
        "kind": "refine",
    }
    assert json.loads(run("search", "docs", TEXT, "--json"))["route"]["kind"] == "refine"
    assert "v1 serves docs (generation 3), v1 refined by v2 did before" in run("rollback", "docs")


def as_declared(index: OpenIndex) -> dict[str, Any]:
    return index.spec.model_dump(mode="json", exclude_unset=True)
