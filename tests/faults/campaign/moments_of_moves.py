"""Cutovers, rollbacks and a retire: two at once, over a late commit, and under a reader who began before."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from embed_pipeline.search import Answer, Searcher
from tests.faults.campaign import models, readers
from tests.faults.campaign.declared import faults_file, space
from tests.faults.campaign.load import anchor_text
from tests.faults.campaign.records import Log
from tests.faults.campaign.stage import SOON, Scene, Stage
from tests.harness.postgres.proxy import Fate

# So long that only a notice can tell a searcher of a flip.
HEARD_ONLY = 3600.0
LISTENS = (
    # What it can embed it says over the same connection, once it listens.
    "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() "
    "AND (query = 'LISTEN embed_pipeline_serving' OR starts_with(query, 'SELECT embed_pipeline.note_searcher')))"
)
# When a mover looked last for what is left in the inbox. One that does not wait looks once.
LOOKED = """
SELECT max(query_start)::text FROM pg_stat_activity
WHERE datname = current_database() AND application_name = %s AND query LIKE '%%embed_pipeline.inbox%%'
"""
LOOKS = 8
SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s"


def judged(stage: Stage) -> None:
    """v2 may serve. Before it is filled, its ANN index is refused."""
    stage.register("v2")
    stage.run.finish(stage.run.start("ann_index", "v2"))
    stage.look()
    stage.steps("v2", "backfill", "ann_index", "gate")


def half_of_a_flip(stage: Stage) -> None:
    """A mover stands between the two halves of a flip: nobody sees one of them."""
    mover = stage.holding("cutover.half_moved", "cutover", "v2")
    stage.held(mover)
    stage.look()
    stage.go(mover)


def open_transaction_under_a_rollback(stage: Stage) -> None:
    """A change that is not committed holds no move up. What serves then has all that was committed before, and this one when it comes."""
    early, late = stage.documents(2)
    with stage.transaction() as other:
        other.do("UPDATE articles SET body = %s WHERE id = %s", stage.text(), late)
        stage.edit(early)
        outcome = stage.run.finish(stage.run.start("rollback", "v1"))
        if outcome is None or "result" not in outcome:
            stage.problem(f"an open transaction held a rollback up: {outcome}")
        # What is not committed is not seen by the oracle either.
        stage.run.problems += [f"at once after the rollback: {each}" for each in stage.wrong("v1")]
    stage.look()
    stage.sync()


def commit_before_the_flip(stage: Stage) -> None:
    """A change is committed between the mark of a cutover and its flip: it is announced, and the flip does not wait for it."""
    (key,) = stage.documents(1)
    mover = stage.holding("cutover.covered", "cutover", "v2")
    stage.held(mover)
    stage.edit(key)
    (outcome,) = stage.go(mover)
    if outcome is None or "result" not in outcome:
        stage.problem(f"a change after the mark held a cutover up: {outcome}")
    stage.look()
    stage.sync()
    stage.steps("v1", "rollback")


def edited_again_after_the_mark(stage: Stage) -> None:
    """A document is edited; v1 has it, and v2, whose model is down, has not. After the mark of a cutover to v2 it is edited again: the
    first edit has waited since before the mark, and nothing older than what v1 has serves then."""
    (key,) = stage.documents(1)
    words, stage.run.words = stage.run.words, f"{stage.run.words}|the provider is down"
    faults_file(stage.run.place).write_text(f"down in {space('v2')}")
    old = stage.hash_of("v2", key)
    stage.edit(key)
    stage.sync()
    mover = stage.holding("cutover.marked", "cutover", "v2")
    stage.held(mover)
    stage.edit(key)
    stage.run.finish(stage.run.start("distribute", ""))
    faults_file(stage.run.place).unlink()
    stage.go(mover)
    stage.run.words = words
    if stage.run.done("cutover", "v2") and stage.hash_of("v2", key) == old:
        stage.problem("v2 serves a text that is older than what v1 served")
    stage.steps("v2", "cutover")
    stage.sync()
    stage.steps("v1", "rollback")


def changes_in_somebodys_hands(stage: Stage) -> None:
    """Somebody has changes in its hands that no version has been told of: a mark that comes later waits for them."""
    (key,) = stage.documents(1)
    stage.edit(key)
    distributor = stage.holding("inbox.announced", "distribute")
    stage.held(distributor)
    mover = stage.holding("cutover.marked", "cutover", "v2")
    looks: set[str | None] = {None}

    def waits() -> bool:
        looks.add(stage.ask(LOOKED, mover.task.name))
        return len(looks) > LOOKS

    stage.wait(lambda: waits() or mover.held > 0 or not mover.running, "a mark that is not taken")
    if mover.held:
        stage.problem("a mark was taken past changes that somebody had in its hands")
    stage.go(distributor)
    stage.go(mover)
    stage.steps("v2", "cutover")
    stage.sync()
    stage.steps("v1", "rollback")


def two_cutovers(stage: Stage) -> None:
    """Both stand before the flip at the same time, if they can: one of them moves the pointer."""
    movers = [stage.holding("cutover.covered", "cutover", "v2") for _ in range(2)]
    for mover in movers:
        stage.held(mover, may_end=True)
    outcomes = stage.go(*movers)
    if sum(outcome is not None and "result" in outcome for outcome in outcomes) != 1:
        stage.problem(f"two cutovers at once: {outcomes}")


def answers_of_flips_are_lost(stage: Stage) -> None:
    """The COMMIT of a rollback is still under way when the mover looks; that of a cutover is carried out, and its answer lost."""
    moves: list[tuple[str, str, Fate]] = [("rollback", "v1", "delay"), ("cutover", "v2", "swallow")]
    for step, version, fate in moves:
        mover, proxy = stage.losing(fate, b"UPDATE embed_pipeline.serving_pointer", step, version)
        stage.blocked(mover)
        proxy.release()
        outcome = stage.run.finish(mover)
        # The session that the answer was lost of holds the mover's lock until the server has ended it.
        stage.wait(lambda name=mover.task.name: stage.ask(SESSIONS, name) == 0, "the end of a lost session")  # type: ignore[misc]
        stage.wait(lambda step=step, version=version: stage.run.done(step, version), f"the {step}", SOON)  # type: ignore[misc]
        if outcome is None or "result" not in outcome:
            stage.problem(f"the {step} to {version} has happened, and it says: {outcome}")


def searches_over_a_flip_and_a_retire(stage: Stage) -> None:
    """Of four searches that began under v2, one has its vector already, two still wait for it, and one goes by a pointer it keeps. One of
    those that wait comes between the two steps of the retire, and must not answer with a document that is deleted."""
    (key,) = stage.documents(1)
    body = stage.ask("SELECT body FROM articles WHERE id = %s", key)
    stage.run.count_strike("readers over a flip", "rollback")
    stage.run.count_strike("readers over a flip", "retire")
    with _reading(stage) as (searcher, log):
        stage.wait(lambda: bool(stage.ask(LISTENS)), "a searcher that listens", SOON)
        _search(searcher, log, 1)
        query = searcher.embed(anchor_text(2))
        waiting = models.held[anchor_text(3)] = models.Held()
        slow = threading.Thread(target=_search, args=(searcher, log, 3))
        slow.start()
        assert waiting.there.wait(SOON)
        stage.steps("v1", "rollback")
        with log.timed("search") as record:
            record["asked"] = query.version
            readers.note(record, searcher.search_vector(query))
        stage.wait(lambda: _search(searcher, log, 1) == "v1", "the notice of a flip", SOON)
        gone = models.held[f"scene\n\n{body}"] = models.Held()
        found: list[Answer] = []
        late = threading.Thread(target=lambda: found.append(searcher.search(f"scene\n\n{body}", version="v2")))
        late.start()
        assert gone.there.wait(SOON)
        stage.delete(key)
        # Told, and done by nobody yet: it is the version that is forgotten then.
        stage.run.finish(stage.run.start("distribute", ""))
        retiring = stage.holding("retire.detached", "retire", "v2")
        stage.held(retiring)
        gone.go.set()
        late.join()
        del models.held[f"scene\n\n{body}"]
        if not found or any(hit.doc_id == str(key) for hit in found[0].hits):
            stage.problem(f"{key} is deleted, and v2, which is being retired, answers with it: {found}")
        stage.go(retiring)
        stage.steps("v2", "retire")
        waiting.go.set()
        slow.join()
        del models.held[anchor_text(3)]
    stage.sync()


def _search(searcher: Searcher, log: Log, number: int) -> str:
    """A search for a document that nobody touches; which version answered."""
    with log.timed("search") as record:
        record |= {"anchor": str(number), "asked": None}
        readers.note(record, searcher.search(anchor_text(number)))
    return str(record.get("version"))


@contextmanager
def _reading(stage: Stage) -> Iterator[tuple[Searcher, Log]]:
    with (
        Log(stage.run.place / "reader-scene.log") as log,
        Searcher("docs", stage.run.load.url, refresh_seconds=HEARD_ONLY, max_connections=2) as searcher,
    ):
        yield searcher, log


SCENES: tuple[Scene, ...] = (
    judged,
    commit_before_the_flip,
    edited_again_after_the_mark,
    changes_in_somebodys_hands,
    half_of_a_flip,
    open_transaction_under_a_rollback,
    two_cutovers,
    answers_of_flips_are_lost,
    searches_over_a_flip_and_a_retire,
)
