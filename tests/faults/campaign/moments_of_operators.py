"""An operator with bad habits: what must not be done is tried, and must be refused in words. Where it is not, the oracle shows what it breaks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from tests.faults.campaign.declared import space
from tests.faults.campaign.load import FIRST
from tests.faults.campaign.moments_of_backfills import LAST
from tests.faults.campaign.scenes import empty, set_triggers
from tests.faults.campaign.stage import Scene, Stage

LONG = 3600
MORE = 90_000

# The rows of the version that serves, to save the price of embedding them again. They are labelled with the space that they are of.
COPIED = ("INSERT INTO embed_pipeline.docs__v2 SELECT * FROM embed_pipeline.docs__v1",)
# All that a flip does, but for the questions that it asks and what it tells.
FLIPPED = (
    "UPDATE embed_pipeline.index_versions SET state = 'standby' WHERE version = 'v1'",
    "UPDATE embed_pipeline.index_versions SET state = 'active' WHERE version = 'v2'",
    "UPDATE embed_pipeline.serving_pointer SET version = 'v2', previous_version = 'v1', generation = generation + 1, mark = 0, "
    "move = 'cutover'",
)
FORGOTTEN = ("DELETE FROM embed_pipeline.audit_events WHERE version = 'v2' AND to_state = 'ready'",)


def refuse(stage: Stage, what: str, step: str, version: str, argument: str = "") -> None:
    """A step must end with a refusal."""
    stage.run.count_strike("operator", what)
    outcome = stage.run.finish(stage.run.start(step, version, argument=argument))
    if outcome is None or not outcome.get("refused"):
        stage.problem(f"{what}: {step} {version} was not refused: {outcome}")


def refuse_by_hand(stage: Stage, what: str, statements: tuple[str, ...]) -> None:
    """A transaction at a prompt must be refused by the database, by one of the catalog's own checks."""
    stage.run.count_strike("operator", what)
    try:
        with stage.run.connect() as conn, conn.transaction():
            for statement in statements:
                conn.execute(statement)  # type: ignore[arg-type]
    except psycopg.errors.IntegrityError:
        return
    stage.problem(f"{what}: the database did not refuse it")


@contextmanager
def declared(stage: Stage, changes: dict[str, Any]) -> Iterator[None]:
    """The operator's declaration says something else meanwhile."""
    stage.run.changes = changes
    yield
    stage.run.changes = {}


def backfill_while_capture_is_off(stage: Stage) -> None:
    """Our triggers are disabled, for a bulk load of the application's, and a backfill is started meanwhile."""
    stage.register("v2")
    set_triggers(stage.run, "DISABLE")
    stage.run.count_strike("operator", "a backfill while capture is off")
    filler = stage.holding("backfill.embedded", "backfill", "v2", LAST)
    stage.held(filler, may_end=True)
    if filler.held:
        # What the refusal is for: nobody hears of this.
        stage.edit(FIRST)
    stage.go(filler)
    set_triggers(stage.run, "ENABLE")
    _reconcile(stage)
    stage.sync()


def doubted(stage: Stage) -> None:
    """Triggers were off for a while, and are on again. What may have been missed is compared before anything is served."""
    set_triggers(stage.run, "DISABLE")
    set_triggers(stage.run, "ENABLE")
    refuse(stage, "a gate in doubt", "gate", "v2")
    refuse(stage, "a cutover in doubt", "cutover", "v2")
    _reconcile(stage)
    stage.sync()


def _reconcile(stage: Stage) -> None:
    outcome = stage.run.finish(stage.run.start("reconcile", ""))
    if outcome is None or "result" not in outcome:
        stage.problem(f"a full comparison ended with {outcome}")


def missed_while_it_is_embedded(stage: Stage) -> None:
    """A worker has read a text and embeds it. Capture misses the next edit, and the full comparison comes before the worker is done: the
    worker's acknowledgement does not count."""
    (key,) = stage.documents(1)
    stage.edit(key)
    writer = stage.holding("dual_write.read", "one_batch")
    stage.held(writer)
    set_triggers(stage.run, "DISABLE")
    stage.edit(key)
    set_triggers(stage.run, "ENABLE")
    _reconcile(stage)
    stage.go(writer)
    stage.sync()


def capture_fails_on_a_delete(stage: Stage) -> None:
    """What goes wrong while ids are gathered never reaches the application. Nobody is told of the delete, and no search answers with it."""
    (key,) = stage.documents(1)
    body = stage.ask("SELECT prosrc FROM pg_proc WHERE oid = 'embed_pipeline.capture_docs_delete'::regproc")
    _set_body(stage, body.replace("SELECT array_agg", "PERFORM 1 / 0; SELECT array_agg"))
    stage.delete(key)
    if stage.ask("SELECT count(*) FROM embed_pipeline.doubts WHERE kind = 'capture' AND sqlstate = '22012'") != 1:
        stage.problem("a capture that failed has left no doubt")
    _set_body(stage, body)
    _reconcile(stage)
    stage.sync()
    stage.look()


def _set_body(stage: Stage, body: str) -> None:
    """The function with everything else as it is."""
    (before, whole) = (
        stage.ask(f"SELECT {part} FROM pg_proc p WHERE oid = 'embed_pipeline.capture_docs_delete'::regproc")
        for part in ("prosrc", "pg_get_functiondef(oid)")
    )
    with stage.run.connect() as conn:
        conn.execute(whole.replace(before, body))


def rows_of_another_version(stage: Stage) -> None:
    """Rows of what serves are copied into a version that is not filled yet. What the backfill finds there it leaves."""
    refuse_by_hand(stage, "rows copied from another version", COPIED)
    stage.steps("v2", "backfill")


def another_model_under_its_name(stage: Stage) -> None:
    """The declaration of a registered version gets another model, and a backfill is started."""
    empty(stage.run, "v2")
    with declared(stage, {"versions": {"v2": {"options": {"space": space("v2") + 1}}}}):
        refuse(stage, "another model under a registered name", "backfill", "v2", LAST)
    stage.steps("v2", "backfill", "ann_index")


def moved_by_hand(stage: Stage) -> None:
    """A version that was never judged is served by hand, and its history is made to agree."""
    refuse(stage, "a cutover without evidence", "cutover", "v2")
    refuse_by_hand(stage, "the pointer moved by hand", FLIPPED)
    refuse_by_hand(stage, "history rewritten by hand", FORGOTTEN)


def evidence_of_other_documents(stage: Stage) -> None:
    """More documents come after the gate, and a cutover goes by what it said before; then the held-out set is another one."""
    stage.steps("v2", "gate")
    stage.insert(MORE, stage.text())
    stage.sync()
    with declared(stage, {"gate": {"max_row_change": 0.0}}):
        refuse(stage, "evidence about other documents", "cutover", "v2")
    holdout = stage.run.place / "holdout.jsonl"
    before = holdout.read_text()
    holdout.write_text("\n".join(before.splitlines()[1:]))
    refuse(stage, "evidence by another held-out set", "cutover", "v2")
    holdout.write_text(before)


def dead_letter_of_the_drain(stage: Stage) -> None:
    """No document may be without a vector, and one becomes blank: the cutover's own drain is the first to know."""
    stage.do("UPDATE articles SET title = '', body = '' WHERE id = %s", FIRST)
    with declared(stage, {"gate": {"max_dead_letters": 0}}):
        refuse(stage, "a document without a vector", "cutover", "v2")
    stage.edit(FIRST)
    stage.sync()


def retired_too_early(stage: Stage) -> None:
    """The version that a rollback would go back to is retired at once; then one that somebody still reads."""
    stage.steps("v2", "cutover")
    with declared(stage, {"retire": {"soak_seconds": LONG}}):
        refuse(stage, "a retire before its time", "retire", "v1")
    # One that names its version, as readers may.
    stage.ask("SELECT embed_pipeline.note_read('docs', 'v1')::text")
    with declared(stage, {"retire": {"unread_seconds": LONG}}):
        refuse(stage, "a retire under readers", "retire", "v1")


def what_was_kept_serves(stage: Stage) -> None:
    """What a retire would have taken away."""
    stage.steps("v1", "rollback")


SCENES: tuple[Scene, ...] = (
    backfill_while_capture_is_off,
    rows_of_another_version,
    missed_while_it_is_embedded,
    capture_fails_on_a_delete,
    another_model_under_its_name,
    moved_by_hand,
    evidence_of_other_documents,
    doubted,
    dead_letter_of_the_drain,
    retired_too_early,
    what_was_kept_serves,
)
