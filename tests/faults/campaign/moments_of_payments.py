"""What a model is asked for, call by call: nothing that is in hand, and nothing that will be asked for by somebody else, is paid for again."""

from __future__ import annotations

import json

from tests.faults.campaign.declared import calls_file, faults_file
from tests.faults.campaign.load import FIRST
from tests.faults.campaign.models import AWKWARD, FAILS, WAITS
from tests.faults.campaign.scenes import empty
from tests.faults.campaign.stage import Scene, Stage

# The documents that are there from the beginning are a partition of their own; the last of them is in its second batch.
LAST = "03"
SLOW, EDITED, SAME = FIRST, FIRST + 3, FIRST + 4
LAST_OF_ALL = FIRST + 9
# A worker that renews its lease a third of this long before it runs out, on a machine that is busy.
LEASE, LONGER = 0.9, 1.6


def a_slow_model(stage: Stage) -> None:
    """A model takes longer than the lease. Another worker does not take the batch over, and pay for it again."""
    text = f"{WAITS} {stage.text()}"
    faults_file(stage.run.place).write_text(AWKWARD)
    # Held up for longer than its lease before it asks, a worker loses it with good reason.
    pressed, stage.run.pressed = stage.run.pressed, False
    stage.edit(SLOW, text)
    first = stage.syncing(lease=LEASE)
    stage.wait(lambda: len(_asked(stage, "v1", text)) == 1, "a call of the slow model")
    stage.run.count_strike("a model slower than the lease", "dual-write")
    second = stage.syncing(lease=LEASE, seconds=LONGER)
    stage.wait(lambda: len(_asked(stage, "v1", text)) > 1 or not second.running, "the end of the second worker")
    faults_file(stage.run.place).unlink()
    for worker in (first, second):
        stage.run.finish(worker)
    stage.run.pressed = pressed
    _at_most(stage, "v1", text, 1, "two workers")


def registered(stage: Stage) -> None:
    """The version that the other scenes fill and empty again."""
    stage.register("v2")


def one_of_two_calls_fails(stage: Stage) -> None:
    """A backfill ends because of one call. What another one brings, which was asked before and answers later, is kept."""
    late, failing = f"{WAITS} {stage.text()}", f"{FAILS} {stage.text()}"
    stage.edit(SLOW, late)
    stage.edit(LAST_OF_ALL, failing)
    stage.sync()
    empty(stage.run, "v2")
    begun = len(_calls(stage, "v2"))
    faults_file(stage.run.place).write_text(AWKWARD)
    filler = stage.holding("in_flight.failed", "backfill", "v2", LAST)
    stage.held(filler)
    faults_file(stage.run.place).unlink()
    stage.go(filler)
    stage.run.finish(stage.run.start("backfill", "v2", argument=LAST))
    _at_most(stage, "v2", late, 1, "a backfill that failed and the next one", begun)


def edited_under_a_backfill(stage: Stage) -> None:
    """A document is edited after a backfill has paid for it: its new text is the dual-write's."""
    empty(stage.run, "v2")
    text = stage.text()
    filler = stage.holding("backfill.embedded", "backfill", "v2", LAST)
    stage.held(filler)
    stage.edit(EDITED, text)
    stage.go(filler)
    _at_most(stage, "v2", text, 0, "a backfill")
    stage.sync()


def as_it_was(stage: Stage) -> None:
    """A document is deleted and inserted again as it was, in one transaction; then the whole table is. Nothing is embedded again."""
    stage.edit(SAME)
    stage.steps("v2", "backfill")
    stage.sync()
    begun = {version: len(_calls(stage, version)) for version in ("v1", "v2")}
    with stage.transaction() as other:
        other.do("CREATE TEMPORARY TABLE kept AS SELECT * FROM articles WHERE id = %s", SAME)
        other.do("DELETE FROM articles WHERE id = %s", SAME)
        other.do("INSERT INTO articles SELECT * FROM kept")
    stage.sync()
    with stage.transaction() as other:
        other.do("CREATE TEMPORARY TABLE kept AS SELECT * FROM articles")
        other.do("TRUNCATE articles")
        other.do("INSERT INTO articles SELECT * FROM kept")
    stage.look()
    stage.sync()
    for version, before in begun.items():
        if len(_calls(stage, version)) != before:
            stage.problem(f"{version} paid for documents that are as they were")


def _at_most(stage: Stage, version: str, text: str, times: int, who: str, begun: int = 0) -> None:
    """`begun`: how many calls are of the time before."""
    asked = sum(text in each for each in _calls(stage, version)[begun:])
    if asked > times:
        stage.problem(f"{who} paid {asked} times for a text that costs {times} at most")


def _asked(stage: Stage, version: str, text: str) -> list[str]:
    return [each for each in _calls(stage, version) if text in each]


def _calls(stage: Stage, version: str) -> list[str]:
    """Every text that the model of a version was asked for, in order."""
    file = calls_file(stage.run.place, version)
    return [json.loads(line)[2] for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


SCENES: tuple[Scene, ...] = (
    a_slow_model,
    registered,
    one_of_two_calls_fails,
    edited_under_a_backfill,
    as_it_was,
)
