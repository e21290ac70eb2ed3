"""The provider changes the model of v2 and keeps its name, for a while: nothing of the changed one may stand among what the first one made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.faults.campaign.declared import calls_file, faults_file, space
from tests.faults.campaign.load import FIRST
from tests.faults.campaign.models import TURNED
from tests.faults.campaign.moments_of_backfills import LAST
from tests.faults.campaign.scenes import empty
from tests.faults.campaign.stage import Scene, Stage
from tests.faults.campaign.workers import Strike

EDITED = FIRST
# Of the documents of one partition a few are read at once: most are still to be embedded when the first ones are.
FEW = 2


@contextmanager
def _turned(stage: Stage) -> Iterator[None]:
    """The model of v2 is another one meanwhile, and the scheduled check has seen it."""
    words, stage.run.words = stage.run.words, f"{stage.run.words}|would mix two spaces"
    faults_file(stage.run.place).write_text(f"{TURNED} {space('v2')}")
    stage.run.count_strike("a changed model", "every step")
    _check(stage, "changed")
    yield
    faults_file(stage.run.place).unlink(missing_ok=True)
    _check(stage, "same")
    stage.run.words = words


def _check(stage: Stage, expected: str) -> None:
    outcome = stage.run.finish(stage.run.start("check_model", "v2"))
    if outcome is None or outcome.get("result") != expected:
        stage.problem(f"the check of a model should say {expected!r}, and says {outcome}")


def _calls(stage: Stage) -> int:
    """How many texts the model of v2 was asked for."""
    return len(calls_file(stage.run.place, "v2").read_text(encoding="utf-8").splitlines())


def registered(stage: Stage) -> None:
    """What the model says before it has embedded anything is kept."""
    stage.register("v2")
    _check(stage, "taken")


def changed_under_a_backfill(stage: Stage) -> None:
    """A backfill has embedded its first documents, and the model changes, which is seen before the next ones are."""
    before = _calls(stage)
    stage.run.count_strike("held at a moment", "backfill.asking")
    stage.run.changes = {"versions": {"v2": {"batch_size": FEW, "max_in_flight": 1}}, "backfill": {"write_batch": FEW}}
    filler = stage.run.start("backfill", "v2", Strike("backfill.asking", "hold", 2), LAST)
    stage.run.changes = {}
    stage.held(filler)
    # What is asked for knows by then which model it asks.
    stage.wait(lambda: _calls(stage) == before + FEW, "the call for the first documents")
    with _turned(stage):
        stage.go(filler)
    stage.steps("v2", "backfill")


def changed_under_a_dual_write(stage: Stage) -> None:
    """A document is edited while the model is another one: v1 follows at once, v2 when its model is back."""
    with _turned(stage):
        stage.edit(EDITED)
        stage.sync()
    stage.look()


def accepted_under_a_check(stage: Stage) -> None:
    """A check has asked the changed model. Before it says so the model is back, and a person has accepted what it answers."""
    faults_file(stage.run.place).write_text(f"{TURNED} {space('v2')}")
    checker = stage.holding("model_check.embedded", "check_model", "v2")
    stage.held(checker)
    faults_file(stage.run.place).unlink()
    stage.run.finish(stage.run.start("accept_model", "v2"))
    stage.go(checker)
    empty(stage.run, "v2")
    outcome = stage.run.finish(stage.run.start("backfill", "v2"))
    if outcome is None or "result" not in outcome:
        stage.problem(f"a check of what its model had answered before it was accepted ended a backfill: {outcome}")


# What a changed model keeps in the queue is tried again after five seconds: the other scenes go on meanwhile.
SCENES: tuple[Scene, ...] = (registered, changed_under_a_dual_write, changed_under_a_backfill, accepted_under_a_check)
