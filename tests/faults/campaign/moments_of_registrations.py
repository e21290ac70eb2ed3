"""Registrations, retires and index builds, while transactions of the application that are older than they go on."""

from __future__ import annotations

import signal

from tests.faults.campaign.stage import SOON, Scene, Stage
from tests.faults.campaign.workers import Strike, cut


def registered_under_open_transactions(stage: Stage) -> None:
    """Two processes register one version at once, among two transactions of the application that are older: one has changed a document
    already, the other has only its snapshot. Both commit after the version is filled, where they are not waited for."""
    changed, later = stage.documents(2)
    with stage.transaction("REPEATABLE READ") as strict:
        strict.do("SELECT count(*) FROM articles")
        with stage.transaction() as late:
            late.do("UPDATE articles SET body = %s WHERE id = %s", stage.text(), changed)
            stage.run.versions.append("v2")
            twins = [stage.holding("register.cut", "register", "v2") for _ in range(2)]
            for twin in twins:
                stage.held(twin)
            for twin in twins:
                twin.let_go()
            # Both wait for the first of the two transactions, or there was nothing to wait for.
            stage.wait(lambda: all(map(stage.waits, twins)) or stage.run.done("register", "v2"), "a registration")
            if stage.run.done("register", "v2"):
                stage.steps("v2", "backfill")
        outcomes = [stage.run.finish(twin) for twin in twins]
        if any(outcome is None or "result" not in outcome for outcome in outcomes):
            stage.problem(f"one version was registered by two at once: {outcomes}")
        stage.steps("v2", "register", "backfill")
        strict.do("UPDATE articles SET body = %s WHERE id = %s", stage.text(), later)
    stage.sync()


def frozen_under_the_documents_lock(stage: Stage) -> None:
    """A registration freezes while it holds the lock on the documents; the application writes on, with a timeout of its own."""
    (key,) = stage.documents(1)
    stage.run.versions.append("v3")
    worker = stage.freezing("register.locked", "register", "v3")
    stage.in_time("UPDATE articles SET body = %s WHERE id = %s", stage.text(), key)
    stage.wake(worker)
    stage.steps("v3", "register")


def retired_under_a_worker(stage: Stage) -> None:
    """A dual-write worker has vectors in its hands for a version that is retired meanwhile. The first retire is killed half-way."""
    (key,) = stage.documents(1)
    stage.edit(key)
    worker = stage.holding("dual_write.embedded")
    stage.held(worker, threads=len(stage.run.versions))
    stage.run.count_strike("kill -9", "retire.detached")
    stage.run.finish(stage.run.start("retire", "v3", Strike("retire.detached", signal.SIGKILL)))
    stage.steps("v3", "retire")
    stage.go(worker)
    # Nothing of it is left in the triggers.
    stage.delete(key)
    stage.sync()


def answer_of_a_registration_is_lost(stage: Stage) -> None:
    """Either all of a registration has happened, or nothing."""
    stage.run.versions.append("v4")
    worker, _ = stage.losing("swallow", b"INSERT INTO embed_pipeline.index_versions", "register", "v4")
    stage.run.finish(worker)
    stage.look()
    stage.steps("v4", "register")


def cut_in_the_build(stage: Stage) -> None:
    """An index build waits for a report of the application, as PostgreSQL has it, and its connection goes: what it has begun stays."""
    with stage.transaction("REPEATABLE READ") as report:
        report.do("SELECT count(*) FROM articles")
        stage.run.count_strike("connections cut", "in the index build")
        worker = stage.run.start("ann_index", "v2")
        stage.blocked(worker)
        # A second builder is refused.
        stage.run.finish(stage.run.start("ann_index", "v2"))
        cut(stage.run.load.url, worker.task.name)
        # It comes back, finds what is left, and waits for the report again.
        stage.wait(lambda: not stage.waits(worker), "the end of a cut session")
        stage.wait(lambda: stage.waits(worker) or not worker.running, "another look at the index", SOON)
    stage.run.finish(worker)
    stage.steps("v2", "ann_index")


SCENES: tuple[Scene, ...] = (
    registered_under_open_transactions,
    frozen_under_the_documents_lock,
    retired_under_a_worker,
    answer_of_a_registration_is_lost,
    cut_in_the_build,
)
