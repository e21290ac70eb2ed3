"""The audit is written by the database: whoever changes a state is in it, by whatever way, and once."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import cutover, gate
from tests.harness.articles import fill, serve

Open = Callable[..., OpenIndex]

MOVES = "SELECT version, event, from_state, to_state, actor, reason FROM embed_pipeline.events WHERE to_state IN ('active', 'standby') ORDER BY id"
BY_HAND = """
    BEGIN;
    INSERT INTO embed_pipeline.coverage_checks (index_name, version, documents, vectors, pending, dead_letters, differences)
    VALUES ('docs', 'v2', 60, 60, 0, 0, 0);
    UPDATE embed_pipeline.index_versions SET state = 'standby' WHERE version = 'v1';
    UPDATE embed_pipeline.index_versions SET state = 'active' WHERE version = 'v2';
    UPDATE embed_pipeline.serving_pointer
    SET version = 'v2', previous_version = version, generation = generation + 1, move = 'cutover',
        evidence_id = (SELECT max(id) FROM embed_pipeline.gate_evidence WHERE version = 'v2'),
        coverage_id = (SELECT max(id) FROM embed_pipeline.coverage_checks), mark = nextval('embed_pipeline.change_seq');
    COMMIT"""


def test_a_move_by_hand_is_in_the_audit(
    app: psycopg.Connection,
    open_docs: Open,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Within the rules: somebody who may write our tables moves the pointer at a prompt. A move of the package's is there once."""
    monkeypatch.setenv("EMBED_PIPELINE_ACTOR", "the pipeline")
    serve(open_docs("v1"), "v1")
    index = open_docs("v1", "v2")
    fill(index, "v2")
    gate.run(index, "v2")
    app.execute(BY_HAND)
    cutover.rollback(index, "it was not agreed")
    who = app.info.user
    assert app.execute(MOVES).fetchall() == [
        ("v1", "cutover", "ready", "active", "the pipeline", ""),
        ("v1", "by hand", "active", "standby", who, ""),
        ("v2", "by hand", "ready", "active", who, ""),
        ("v2", "rollback", "active", "standby", "the pipeline", "it was not agreed"),
        ("v1", "rollback", "standby", "active", "the pipeline", "it was not agreed"),
    ]


@pytest.mark.parametrize(
    ("statement", "refused"),
    [
        ("UPDATE embed_pipeline.index_versions SET spec = spec || '{\"chunker\": {}}'", "immutable"),
        ("UPDATE embed_pipeline.index_versions SET version = 'v3' WHERE version = 'v1'", "immutable"),
        (
            "UPDATE embed_pipeline.serving_pointer SET previous_version = 'v1'",
            "route before of docs changes only with its route",
        ),
    ],
)
def test_what_is_registered_stays(
    app: psycopg.Connection,
    open_docs: Open,
    statement: str,
    refused: str,
) -> None:
    open_docs("v1")
    with pytest.raises(psycopg.errors.CheckViolation, match=refused):
        app.execute(statement)  # type: ignore[arg-type]
