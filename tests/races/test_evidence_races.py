"""What a verdict was about, and what moves after it: the rule, the documents, the version that it was compared with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from embed_pipeline.catalog import evidence
from embed_pipeline.documents.queue import EVERYTHING
from embed_pipeline.errors import CutoverRefused, GateRefused
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import ann_index, cutover, dual_write, gate
from embed_pipeline.migrate.opening import open_index
from tests.harness.articles import DOCUMENTS, QUERIES, at, fill, settle
from tests.races.hands import claim, distribute, working

Open = Callable[..., OpenIndex]


def refused(index: OpenIndex) -> str:
    with pytest.raises(CutoverRefused) as problem:
        cutover.cutover(index, "v2")
    assert problem.value.fields["reason"] == "evidence_stale"
    return problem.value.message


@pytest.mark.parametrize(("setting", "declared", "said"), [
    ("margin", 0.001, "gate.margin was 0.2 and is 0.001 now"),
    ("floor", 0.5, "gate.floor was not set and is 0.5 now"),
    ("metric", "RR@10", "gate.metric was recall@10 and is RR@10 now"),
    ("min_ann_recall", 0.99, "gate.min_ann_recall was 0.95 and is 0.99 now"),
])  # fmt: skip
def test_rule_that_changes_after_the_gate(judged: OpenIndex, setting: str, declared: object, said: str) -> None:
    """A verdict by one rule is none by another: nobody may judge loosely and serve strictly."""
    spec = judged.spec.model_copy(update={"gate": judged.spec.gate.model_copy(update={setting: declared})})
    index = open_index(spec)
    try:
        assert refused(index) == f"The evidence for v2 of docs is stale: its rule has changed: {said}."
        assert evidence_outcome(index) == "pass"
    finally:
        index.close()


def evidence_outcome(index: OpenIndex) -> str:
    with index.connection() as conn:
        found = evidence.latest(conn, "docs", "v2")
    assert found is not None
    return found.outcome


def test_documents_that_are_rewritten_after_the_gate(app: psycopg.Connection, judged: OpenIndex) -> None:
    """As many as before, and other ones. How often one was written does not count: one edited twenty times is one."""
    for n in range(20):
        app.execute("UPDATE articles SET body = 'edit ' || %s WHERE id = %s", (n, DOCUMENTS))
    app.execute("UPDATE articles SET views = views + 1")
    settle(judged)
    app.execute("UPDATE articles SET body = 'another' WHERE id > %s AND id <= %s", (QUERIES, QUERIES + 3))
    assert refused(judged).endswith(
        "stale: 6.7% of the documents have changed, come or gone since, and gate.max_row_change allows 5.0%."
    )
    app.execute("UPDATE articles SET body = 'body ' || id WHERE id <= %s", (QUERIES + 3,))
    assert cutover.cutover(judged, "v2").version == "v2"


def test_judged_document_that_is_rewritten_after_the_gate(app: psycopg.Connection, judged: OpenIndex) -> None:
    app.execute("UPDATE articles SET body = 'another' WHERE id = 7")
    assert refused(judged).endswith("stale: 1 of the 30 judged documents have another text since, or are gone: 7.")


def test_a_judged_document_that_is_announced_before_the_flip_holds_up_no_cutover(
    app: psycopg.Connection, judged: OpenIndex
) -> None:
    """An application that goes on writing the judged documents: the library has read their texts, and what comes then the dual-write brings."""

    def goes_on() -> None:
        app.execute("UPDATE articles SET body = body || ' again' WHERE id = 7")
        distribute(judged)

    at("cutover.covered", goes_on)
    assert cutover.cutover(judged, "v2").version == "v2"


def test_documents_that_are_rewritten_while_the_cutover_drains(app: psycopg.Connection, judged: OpenIndex) -> None:
    """The evidence was fresh when the cutover began."""
    at("cutover.drained", lambda: app.execute("UPDATE articles SET body = 'another' WHERE id > %s", (QUERIES,)))
    assert "50.0% of the documents have changed" in refused(judged)


def test_baseline_that_is_searched_otherwise_after_the_gate(app: psycopg.Connection, judged: OpenIndex) -> None:
    app.execute(
        "UPDATE embed_pipeline.index_versions SET settings = jsonb_set(settings, '{hnsw,ef_search}', to_jsonb(800)) WHERE version = 'v1'"
    )
    assert refused(judged).endswith("v1, which it compared with, is searched otherwise: hnsw.ef_search was 100 and is 800 now.")
    app.execute(
        "UPDATE embed_pipeline.index_versions SET settings = jsonb_set(settings, '{hnsw,ef_search}', to_jsonb(100)) WHERE version = 'v1'"
    )
    app.execute("DROP INDEX embed_pipeline.docs__v1__hnsw")
    ann_index.build(judged, "v1")
    assert "v1, which it compared with, is searched otherwise: ann_index was " in refused(judged)


def test_both_versions_are_judged_at_one_mark(app: psycopg.Connection, open_served: Open) -> None:
    """Changes of judged documents wait for the version that serves alone: its old vectors would be judged by what the texts are now."""
    index = open_served("v1", "v2")
    app.execute("UPDATE articles SET body = 'edited' WHERE id <= 20")
    distribute(index)
    fill(index, "v2")
    with working(index, "v2") as work:
        work.until(EVERYTHING, None)
    assert app.execute("SELECT version, count(*) FROM embed_pipeline.queue GROUP BY version").fetchall() == [("v1", 20)]
    gate.run(index, "v2")
    assert app.execute("SELECT count(*) FROM embed_pipeline.queue").fetchone() == (0,)


@pytest.mark.parametrize("held", ["v1", "v2"])
def test_gate_judges_nothing_while_documents_wait(
    app: psycopg.Connection, judged: OpenIndex, monkeypatch: pytest.MonkeyPatch, held: str
) -> None:
    """Another worker has a change of one of the two versions, and counts on."""
    monkeypatch.setattr(dual_write, "STALL_SECONDS", 0.3)
    app.execute("UPDATE articles SET body = 'held' WHERE id = 1")
    distribute(judged)
    claim(judged, held)
    before = app.execute("SELECT count(*) FROM embed_pipeline.gate_evidence").fetchone()
    with pytest.raises(
        GateRefused, match=rf"1 documents of {held} have waited .* First: 1 \(1 attempts, claimed by pid"
    ) as problem:
        gate.run(judged, "v2")
    assert problem.value.fields == {"reason": "documents_wait", "version": held, "waiting": 1}
    assert app.execute("SELECT count(*) FROM embed_pipeline.gate_evidence").fetchone() == before


def test_what_was_judged_is_kept_for_the_newest_evidence(app: psycopg.Connection, judged: OpenIndex) -> None:
    """And nobody rewrites it: texts that fit the documents of today would make old evidence fresh."""
    gate.run(judged, "v2")
    kept = app.execute(
        "SELECT e.version, count(*), count(*) FILTER (WHERE j.judged), count(*) FILTER (WHERE j.sampled), count(DISTINCT e.id) "
        "FROM embed_pipeline.judged_documents j JOIN embed_pipeline.gate_evidence e ON e.id = j.evidence_id GROUP BY 1 ORDER BY 1"
    ).fetchall()
    assert kept == [("v1", 60, 30, 60, 1), ("v2", 60, 30, 60, 1)]
    with pytest.raises(psycopg.errors.CheckViolation, match="append-only"):
        app.execute("UPDATE embed_pipeline.judged_documents SET source_hash = source_hash")
    app.execute("DELETE FROM embed_pipeline.judged_documents WHERE doc_id = '7'")
    assert refused(judged).endswith("what it knows of the documents that it judged is not complete any more.")


def test_first_version_is_bound_to_its_rule_too(app: psycopg.Connection, open_filled: Open, holdout: Path) -> None:
    index = open_filled("v1", gate={"min_queries": 2, "floor": 0.1})
    gate.run(index, "v1")
    strict = open_filled("v1", gate={"min_queries": 2, "floor": 0.9})
    with pytest.raises(CutoverRefused, match=r"gate\.floor was 0\.1 and is 0\.9 now") as problem:
        cutover.cutover(strict, "v1")
    assert problem.value.fields["reason"] == "evidence_stale"
    serve_again = open_filled("v1", gate={"min_queries": 2, "floor": 0.1})
    assert cutover.cutover(serve_again, "v1").version == "v1"
