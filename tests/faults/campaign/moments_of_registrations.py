"""Registrations, retires and index builds, while transactions of the application that are older than they go on."""

from __future__ import annotations

import signal

from tests.faults.campaign.stage import SOON, Scene, Stage
from tests.faults.campaign.workers import Strike, cut


def registered_under_open_transactions(stage: Stage) -> None:
    """Two processes register one version at once, among two transactions of the application that are older: one has changed a document
    already, the other has only its snapshot. Nobody waits for them; both commit after the version is filled."""
    changed, later = stage.documents(2)
    with stage.transaction("REPEATABLE READ") as strict:
        strict.do("SELECT count(*) FROM articles")
        with stage.transaction() as late:
            late.do("UPDATE articles SET body = %s WHERE id = %s", stage.text(), changed)
            stage.run.versions.append("v2")
            twins = [stage.holding("register.cut", "register", "v2") for _ in range(2)]
            for twin in twins:
                stage.held(twin)
            outcomes = stage.go(*twins)
            if any(outcome is None or "result" not in outcome for outcome in outcomes):
                stage.problem(f"one version was registered by two at once, among open transactions: {outcomes}")
            stage.steps("v2", "register", "backfill")
            stage.sync()
        strict.do("UPDATE articles SET body = %s WHERE id = %s", stage.text(), later)
    stage.look()
    stage.sync()


def frozen_in_the_registration(stage: Stage) -> None:
    """A registration freezes in its transaction; the application writes on, with a timeout of its own, and takes its table for itself."""
    (key,) = stage.documents(1)
    stage.run.versions.append("v3")
    worker = stage.freezing("register.registering", "register", "v3")
    stage.in_time("UPDATE articles SET body = %s WHERE id = %s", stage.text(), key)
    stage.in_time("LOCK TABLE articles IN ACCESS EXCLUSIVE MODE")
    stage.wake(worker)
    stage.steps("v3", "register")


def registered_under_a_distributor(stage: Stage) -> None:
    """Somebody is about to hand changes over, and a version is registered and filled meanwhile: it is told as well."""
    (key,) = stage.documents(1)
    distributor = stage.holding("inbox.distributing", "distribute")
    stage.held(distributor, may_end=True)
    stage.edit(key)
    late = stage.holding("inbox.distributing", "distribute")
    stage.held(late)
    stage.register("v5")
    stage.steps("v5", "backfill")
    stage.go(distributor, late)
    stage.look()
    stage.sync()
    stage.steps("v5", "retire")


def retired_under_a_distributor(stage: Stage) -> None:
    """Somebody has handed changes over and has not committed, and one of the versions is retired: nothing of it is left."""
    (key,) = stage.documents(1)
    stage.register("v6")
    stage.edit(key)
    distributor = stage.holding("inbox.announced", "distribute")
    stage.held(distributor)
    retiring = stage.run.start("retire", "v6")
    stage.blocked(retiring)
    stage.go(distributor)
    stage.run.finish(retiring)
    stage.steps("v6", "retire")
    left = stage.ask("SELECT count(*) FROM embed_pipeline.pending WHERE version = 'v6'")
    if left:
        stage.problem(f"a retired version has {left} documents pending")
    stage.sync()


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
    frozen_in_the_registration,
    retired_under_a_worker,
    answer_of_a_registration_is_lost,
    registered_under_a_distributor,
    retired_under_a_distributor,
    cut_in_the_build,
)
