"""What each query found is kept with its evidence, and can be read as a data frame and from SQL."""

from __future__ import annotations

import sys

import psycopg
import pytest

from embed_pipeline import evidence
from embed_pipeline.errors import CatalogError, ConfigurationError
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import cutover, gate
from tests.harness.articles import QUERIES


def test_rows_are_those_of_the_verdict(app: psycopg.Connection, judged: OpenIndex) -> None:
    result = gate.run(judged, "v2")
    found = evidence(judged, "v2")
    assert (found.id, found.outcome, found.baseline, found.sentence) == (result.evidence_id, "pass", "v1", result.sentence)
    assert found.queries == result.queries
    assert len(found.queries) == QUERIES
    first = found.queries[0]
    assert first.query == f"title {first.query_id}\n\nbody {first.query_id}"
    assert first.candidate_hits[0][0] == first.query_id
    assert (first.baseline, first.candidate, len(first.candidate_hits)) == (1.0, 1.0, 10)
    assert len(found.worst(3)) == 3
    row = app.execute(
        "SELECT count(*), avg(difference), count(DISTINCT evidence_id) FROM embed_pipeline.evidence_queries WHERE version = 'v2'"
    ).fetchone()
    assert row == (QUERIES, found.measures["difference"], 1)


def test_what_serves_keeps_the_rows_that_it_was_moved_by(app: psycopg.Connection, judged: OpenIndex) -> None:
    gate.run(judged, "v2")
    moved_by = cutover.cutover(judged, "v2").evidence_id
    gate.run(judged, "v2")
    gate.run(judged, "v2")
    kept = app.execute(
        "SELECT evidence_id FROM embed_pipeline.evidence_queries WHERE version = 'v2' GROUP BY evidence_id ORDER BY 1"
    ).fetchall()
    assert kept == [(moved_by,), (evidence(judged, "v2").id,)]


def test_never_judged(judged: OpenIndex) -> None:
    with pytest.raises(CatalogError, match="never judged"):
        evidence(judged, "v9")


def test_as_a_data_frame(judged: OpenIndex) -> None:
    pytest.importorskip("pandas")
    frame = evidence(judged, "v2").to_pandas()
    assert len(frame) == QUERIES
    assert frame["difference"].mean() == 0.0
    assert frame.loc[frame["query_id"] == "7", "candidate_hits"].item()[0] == "7"


def test_without_pandas(judged: OpenIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'embed-pipeline\[pandas\]'"):
        evidence(judged, "v2").to_pandas()
