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


def filling(stage: Stage, moment: str, *, may_end: bool = False) -> Worker:
    """A backfill of the scene's partition, from nothing, held at a moment."""
    filler = stage.holding(moment, "backfill", "v2", LAST)
    stage.held(filler, may_end=may_end)
    return filler


def registered(stage: Stage) -> None:
    """The version that the other scenes fill and empty again."""
    stage.register("v2")


def blank_before_the_commit(stage: Stage) -> None:
    """A backfill has written a document and has not committed; its text becomes blank, and a dual-write sets it aside."""
    empty(stage.run, "v2")
    filler = filling(stage, "insert_new.written")
    stage.do("UPDATE articles SET title = '', body = '' WHERE id IN (%s, %s)", BLANK, BLANK_TOO)
    worker = stage.syncing()
    stage.blocked(worker)
    stage.go(filler)
    stage.run.finish(worker)


def gone_after_the_copy(stage: Stage) -> None:
    """A backfill has copied its vectors; one of the documents is deleted and one edited before their rows are written."""
    empty(stage.run, "v2")
    filler = filling(stage, "insert_new.copied")
    stage.delete(DELETED)
    stage.edit(EDITED)
    stage.go(filler)
    stage.sync()


def frozen_in_its_copy(stage: Stage) -> None:
    """A backfill is stopped while the server waits for its next vector. No timeout ends a COPY, so nobody may have to wait for this one."""
    empty(stage.run, "v2")
    filler = stage.freezing("store.copying", "backfill", "v2", LAST)
    stage.in_time("DELETE FROM articles WHERE id = %s", COPIED)
    stage.wake(filler)
    stage.sync()


def locked_for_nothing(stage: Stage) -> None:
    """The application holds a document while a backfill passes, and nothing comes of it."""
    empty(stage.run, "v2")
    with stage.transaction() as other:
        other.do("SELECT FROM articles WHERE id = %s FOR UPDATE", LOCKED)
        filler = filling(stage, "backfill.revisiting", may_end=True)
    stage.go(filler)


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
    filler = filling(stage, "insert_new.copied")
    stage.run.proxied = False
    assert filler.proxy is not None
    filler.proxy.arm("lose", b"", statement=b"ROLLBACK TO")
    stage.edit(EDITED)
    stage.go(filler)
    if not filler.proxy.struck.is_set():
        stage.problem("no rollback was cut")
    stage.sync()


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
    stage.run.count_strike("connections cut", "backfill.read")
    filler = stage.run.start("backfill", "v2", Strike("backfill.read", "cut"), LAST)
    if not stage.wait(lambda: not filler.running, "the end of a backfill whose connection was cut", SOON):
        filler.kill()
    stage.run.judge(filler)


def answer_of_a_batch_is_lost(stage: Stage) -> None:
    """The answer of a COMMIT is lost. What the backfill says it has written is what stands there: nobody else wrote meanwhile."""
    empty(stage.run, "v2")
    filler, _ = stage.losing("swallow", b"COPY", "backfill", "v2", LAST)
    outcome = stage.run.finish(filler)
    there = stage.ask("SELECT count(*) FROM embed_pipeline.docs__v2__documents")
    if outcome is None or outcome.get("result") != there:
        stage.problem(f"a backfill wrote {there} documents, an answer was lost, and it says: {outcome}")


SCENES: tuple[Scene, ...] = (
    registered,
    killed_and_resumed,
    blank_before_the_commit,
    gone_after_the_copy,
    frozen_in_its_copy,
    locked_for_nothing,
    waits_for_one_while_another_is_written,
    mended_before_the_backfill,
    cut_in_a_rollback,
    filled_by_two,
    cut_and_taken_by_another,
    hung_up,
    cut_before_the_throttle_asks,
    answer_of_a_batch_is_lost,
)
