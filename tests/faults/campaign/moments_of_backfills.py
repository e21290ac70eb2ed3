"""A backfill of v2, held between two statements while the application and a dual-write worker go on."""

from __future__ import annotations

import signal

from tests.faults.campaign.declared import calls_file
from tests.faults.campaign.load import FIRST
from tests.faults.campaign.paid import Paid
from tests.faults.campaign.scenes import empty
from tests.faults.campaign.stage import BRIEFLY, SOON, Scene, Stage
from tests.faults.campaign.worker import Worker
from tests.faults.campaign.workers import Strike, cut

# The documents that are there from the beginning are a partition of their own. A backfill reads these in its first batch, and one more in
# its second batch, which may be written first.
LAST = "03"
HELD, VICTIM, BLANK, DELETED, EDITED, LOCKED, MENDED, COPIED = range(FIRST, FIRST + 8)
BLANK_TOO = FIRST + 9
SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s"
# What an earlier backfill has left of a document that has gone since.
LEFT_BEHIND = """
INSERT INTO embed_pipeline.docs__v2 (doc_id, chunk, chunks, source_hash, embedding, partition, epoch)
SELECT '999999', 0, 1, v.source_hash, w.embedding, p.partition_key::smallint, p.epoch
FROM embed_pipeline.partitions p, embed_pipeline.docs__v1 v, embed_pipeline.docs__v2 w
WHERE p.version = 'v2' AND p.partition_key = %s AND v.doc_id = %s AND w.doc_id = v.doc_id
"""


def filling(stage: Stage, moment: str, *, may_end: bool = False) -> Worker:
    """A backfill of the scene's partition, from nothing, held at a moment."""
    filler = stage.holding(moment, "backfill", "v2", LAST)
    stage.held(filler, may_end=may_end)
    return filler


def registered(stage: Stage) -> None:
    """The version that the other scenes fill and empty again."""
    stage.register("v2")


def blank_before_the_commit(stage: Stage) -> None:
    """A backfill has written a document and has not committed; its text becomes blank, and a dual-write sets it aside. The comparison of
    the partition finds the vector beside the letter."""
    empty(stage.run, "v2")
    filler = filling(stage, "insert_new.written")
    stage.do("UPDATE articles SET title = '', body = '' WHERE id IN (%s, %s)", BLANK, BLANK_TOO)
    stage.sync()
    stage.look()
    stage.go(filler)
    stage.look()
    stage.sync()


def gone_before_the_commit(stage: Stage) -> None:
    """A backfill has written a document and has not committed; it is deleted, and a dual-write finds nothing to remove."""
    empty(stage.run, "v2")
    filler = filling(stage, "insert_new.written")
    stage.delete(DELETED)
    stage.sync()
    stage.look()
    stage.go(filler)
    stage.look()
    stage.sync()


def edited_before_the_commit(stage: Stage) -> None:
    """A backfill has written a document and has not committed; it is edited, and a dual-write waits and writes over it."""
    empty(stage.run, "v2")
    filler = filling(stage, "insert_new.written")
    stage.edit(EDITED)
    writer = stage.syncing()
    stage.blocked(writer)
    stage.go(filler)
    stage.run.finish(writer)
    stage.sync()


def gone_and_edited_before_the_write(stage: Stage) -> None:
    """A backfill has paid for its documents; one is deleted and one edited, and the dual-write is through before they are written."""
    empty(stage.run, "v2")
    filler = filling(stage, "backfill.embedded")
    stage.edit(EDITED)
    stage.do("DELETE FROM articles WHERE id = %s", BLANK_TOO)
    stage.sync()
    stage.look()
    stage.go(filler)
    stage.look()
    stage.sync()


def overtaken_by_a_backfill(stage: Stage) -> None:
    """A worker has an older text in its hands than a backfill writes meanwhile. It goes back, and forward again: the newer change is
    announced."""
    empty(stage.run, "v2")
    stage.edit(EDITED)
    writer = stage.holding("dual_write.embedded")
    # One thread for each version.
    stage.held(writer, threads=2)
    stage.edit(EDITED)
    stage.run.finish(stage.run.start("backfill", "v2", argument=LAST))
    stage.look()
    stage.go(writer)
    stage.look()
    stage.sync()


def frozen_in_its_copy(stage: Stage) -> None:
    """A backfill is stopped while the server waits for its next vector. No timeout ends a COPY, so nobody may have to wait for this one."""
    empty(stage.run, "v2")
    filler = stage.freezing("store.copying", "backfill", "v2", LAST)
    stage.in_time("DELETE FROM articles WHERE id = %s", COPIED)
    stage.wake(filler)
    stage.sync()


def locked_for_nothing(stage: Stage) -> None:
    """The application holds a document while a backfill passes, and nothing comes of it: nobody waits for anybody."""
    empty(stage.run, "v2")
    with stage.transaction() as other:
        other.do("SELECT FROM articles WHERE id = %s FOR UPDATE", LOCKED)
        outcome = stage.run.finish(stage.run.start("backfill", "v2", argument=LAST))
    if outcome is None or "result" not in outcome:
        stage.problem(f"a document that the application held ended a backfill: {outcome}")


def waits_for_one_while_another_is_written(stage: Stage) -> None:
    """A statement of a backfill waits for one document that a dual-write has not committed. Meanwhile another one is edited and written."""
    empty(stage.run, "v2")
    stage.edit(HELD)
    writer = stage.holding("replace.written")
    # One thread for each version.
    stage.held(writer, threads=2)
    filler = stage.run.start("backfill", "v2", argument=LAST)
    # The copy of the vectors gives up sooner.
    stage.blocked(filler, 0.5)
    stage.edit(VICTIM)
    # What the other worker holds is not for this one.
    stage.sync(BRIEFLY)
    stage.go(writer)
    stage.run.finish(filler)


def mended_before_the_backfill(stage: Stage) -> None:
    """A text that could have no vector is mended, and a backfill writes it before the dual-write comes to it."""
    empty(stage.run, "v2")
    stage.do("UPDATE articles SET title = '', body = '' WHERE id = %s", MENDED)
    stage.sync()
    stage.edit(MENDED)
    stage.run.finish(stage.run.start("backfill", "v2", argument=LAST))
    stage.sync()


def cut_in_a_rollback(stage: Stage) -> None:
    """Not all of a batch can be inserted at once, and the connection goes in the moment in which that is undone."""
    empty(stage.run, "v2")
    stage.run.count_strike("connections cut", "in a rollback")
    stage.run.proxied = True
    filler = filling(stage, "backfill.embedded")
    stage.run.proxied = False
    assert filler.proxy is not None
    stage.edit(EDITED)
    stage.sync()
    filler.proxy.arm("lose", b"", statement=b"ROLLBACK")
    stage.go(filler)
    if not filler.proxy.struck.is_set():
        stage.problem("no rollback was cut")
    stage.sync()


def zombie_under_a_gone_epoch(stage: Stage) -> None:
    """A backfill loses its sessions with a batch in its hands. Another one fills the partition; a document is deleted, and nothing of it is
    left. The first one comes back, and inserts nothing."""
    empty(stage.run, "v2")
    stage.run.count_strike("connections cut", "backfill.embedded")
    zombie = filling(stage, "backfill.embedded")
    cut(stage.run.load.url, zombie.task.name)
    stage.wait(lambda: stage.ask(SESSIONS, zombie.task.name) == 0, "the end of cut sessions")
    stage.run.finish(stage.run.start("backfill", "v2", argument=LAST))
    stage.do("DELETE FROM articles WHERE id = %s", HELD)
    stage.sync()
    stage.look()
    stage.go(zombie)
    stage.look()


def dies_in_the_comparison(stage: Stage) -> None:
    """A backfill dies after it has compared its partition, and before anybody hears of what differs. The partition is not filled then."""
    stage.run.finish(stage.run.start("backfill", "v2", argument=LAST))
    stage.do("UPDATE embed_pipeline.partitions SET completed_at = NULL WHERE version = 'v2' AND partition_key = %s", LAST)
    stage.do(LEFT_BEHIND, LAST, str(VICTIM))
    stage.run.count_strike("kill -9", "backfill.compared")
    stage.run.finish(stage.run.start("backfill", "v2", Strike("backfill.compared", signal.SIGKILL), LAST))
    if stage.ask(
        "SELECT completed_at IS NOT NULL FROM embed_pipeline.partitions WHERE version = 'v2' AND partition_key = %s", LAST
    ):
        stage.problem("a partition counts as filled, and nobody has heard of what differs in it")
    stage.look()
    stage.run.finish(stage.run.start("backfill", "v2", argument=LAST))
    stage.look()
    stage.sync()


def emptied_while_it_is_compared(stage: Stage) -> None:
    """A comparison stands before its mark. Another run opens the partition: the mark is not set by who comes second."""
    empty(stage.run, "v2")
    first = filling(stage, "backfill.compared")
    stage.do(
        "UPDATE embed_pipeline.partitions SET epoch = epoch + 1, closed = false WHERE version = 'v2' AND partition_key = %s", LAST
    )
    stage.go(first)
    if stage.ask(
        "SELECT completed_at IS NOT NULL FROM embed_pipeline.partitions WHERE version = 'v2' AND partition_key = %s", LAST
    ):
        stage.problem("a partition counts as filled that was opened after its comparison had begun")


def filled_by_two(stage: Stage) -> None:
    """Two backfills of one partition: the second one is refused."""
    empty(stage.run, "v2")
    filler = filling(stage, "backfill.embedded")
    second = stage.run.finish(stage.run.start("backfill", "v2", argument=LAST))
    if second is None or "result" in second:
        stage.problem(f"a partition was filled by two at once: {second}")
    stage.go(filler)


def cut_and_taken_by_another(stage: Stage) -> None:
    """The sessions of a backfill are ended, and another one takes its partition before it is back."""
    empty(stage.run, "v2")
    stage.run.count_strike("connections cut", "backfill.embedded")
    first = filling(stage, "backfill.embedded")
    cut(stage.run.load.url, first.task.name)
    stage.wait(lambda: stage.ask(SESSIONS, first.task.name) == 0, "the end of cut sessions")
    second = filling(stage, "backfill.embedded")
    (outcome,) = stage.go(first)
    if outcome is None or "result" in outcome:
        stage.problem(f"a partition was filled by two at once, after the first one had lost its connection: {outcome}")
    stage.go(second)


def hung_up(stage: Stage) -> None:
    """The connection of a backfill goes and the server does not know: the lock that is left is its own, and no reason to end."""
    empty(stage.run, "v2")
    stage.run.count_strike("connections cut", "on one side")
    stage.run.proxied = True
    filler = filling(stage, "backfill.embedded")
    stage.run.proxied = False
    assert filler.proxy is not None
    filler.proxy.hang_up()
    (outcome,) = stage.go(filler)
    if outcome is None or "result" not in outcome:
        stage.problem(f"what a backfill's own lost session had left behind ended it: {outcome}")


def killed_and_resumed(stage: Stage) -> None:
    """A backfill dies after its first write. The next one asks for nothing that is stored."""
    empty(stage.run, "v2")
    stage.run.count_strike("kill -9", "store.committed")
    dying = stage.run.start("backfill", "v2", Strike("store.committed", signal.SIGKILL), LAST)
    stage.run.finish(dying)
    # Its own count: every scene pays for these texts.
    paid = Paid(calls_file(stage.run.place, "v2"), stage.run.paid_for("v2").in_flight)
    with stage.run.connect() as conn:
        paid.note_kill(conn, "v2", dying.pid)
    resumed = stage.run.start("backfill", "v2", argument=LAST)
    stage.run.finish(resumed)
    paid.workers |= {dying.pid, resumed.pid}
    stage.run.problems += paid.problems(set())


def cut_before_the_throttle_asks(stage: Stage) -> None:
    """The connection goes before the throttle reads over it."""
    empty(stage.run, "v2")
    stage.run.count_strike("connections cut", "backfill.asking")
    filler = stage.run.start("backfill", "v2", Strike("backfill.asking", "cut"), LAST)
    if not stage.wait(lambda: not filler.running, "the end of a backfill whose connection was cut", SOON):
        filler.kill()
    stage.run.judge(filler)


def answer_of_a_batch_is_lost(stage: Stage) -> None:
    """The answer of a COMMIT is lost. What the backfill says it has written is what stands there: nobody else wrote meanwhile."""
    empty(stage.run, "v2")
    filler, _ = stage.losing("swallow", b"COPY", "backfill", "v2", LAST)
    outcome = stage.run.finish(filler)
    there = stage.ask("SELECT count(*) FROM embed_pipeline.docs__v2")
    if outcome is None or outcome.get("result") != there:
        stage.problem(f"a backfill wrote {there} documents, an answer was lost, and it says: {outcome}")


SCENES: tuple[Scene, ...] = (
    registered,
    killed_and_resumed,
    blank_before_the_commit,
    gone_before_the_commit,
    edited_before_the_commit,
    gone_and_edited_before_the_write,
    overtaken_by_a_backfill,
    frozen_in_its_copy,
    locked_for_nothing,
    waits_for_one_while_another_is_written,
    mended_before_the_backfill,
    cut_in_a_rollback,
    filled_by_two,
    cut_and_taken_by_another,
    zombie_under_a_gone_epoch,
    hung_up,
    cut_before_the_throttle_asks,
    answer_of_a_batch_is_lost,
    dies_in_the_comparison,
    emptied_while_it_is_compared,
)
