"""Documents of several passages, looked at while a worker is between two statements of a write. v2 splits its texts, v1 does not."""

from __future__ import annotations

from tests.faults.campaign.declared import CHUNKER
from tests.faults.campaign.load import FIRST
from tests.faults.campaign.models import POISON
from tests.faults.campaign.moments_of_backfills import LAST
from tests.faults.campaign.scenes import empty
from tests.faults.campaign.stage import Scene, Stage
from tests.faults.campaign.worker import Worker

DOCUMENT, POISONED = FIRST, FIRST + 1
MANY, FEW = 5, 3
# The threads of a dual-write worker: one for each version.
BOTH = 2


def _text(stage: Stage, passages: int, last: str = "the end") -> str:
    """Each passage is as long as a chunk, so that it is one."""
    return "\n\n".join(
        [*(f"passage {n} of {stage.text()}, and no more".ljust(38, ".") for n in range(1, passages)), last.ljust(38, ".")]
    )


def _seen_half_way(stage: Stage, worker: Worker, threads: int = 1) -> None:
    stage.held(worker, threads)
    stage.look()
    stage.go(worker)
    stage.look()


def registered(stage: Stage) -> None:
    """The version that splits."""
    stage.run.changes = {"versions": {"v2": {"chunker": CHUNKER}}}
    stage.register("v2")
    stage.steps("v2", "backfill")


def shrinks_and_grows(stage: Stage) -> None:
    """A document of five passages gets a text of three, and five again."""
    stage.edit(DOCUMENT, _text(stage, MANY))
    stage.sync()
    for passages in (FEW, MANY):
        for moment, threads in (("replace.first", 1), ("replace.deleted", 1), ("replace.written", BOTH)):
            stage.edit(DOCUMENT, _text(stage, passages))
            _seen_half_way(stage, stage.holding(moment), threads)


def filled(stage: Stage) -> None:
    """A backfill has written passages of its documents, and has not committed: by a COPY, or row by row beside another worker."""
    empty(stage.run, "v2")
    _seen_half_way(stage, stage.holding("insert_new.written", "backfill", "v2", LAST))
    empty(stage.run, "v2")
    stage.edit(DOCUMENT, _text(stage, FEW))
    writer = stage.holding("replace.written")
    stage.held(writer, BOTH)
    filler = stage.holding("insert_new.inserted", "backfill", "v2", LAST)
    # Its COPY has given up, and it waits for the row of the first passage.
    stage.blocked(filler, 0.5)
    stage.go(writer)
    _seen_half_way(stage, filler)
    stage.sync()


def shorter_beside_a_backfill(stage: Stage) -> None:
    """A backfill has written five passages of a document and has not committed. It gets a text of three, and a worker writes that."""
    stage.edit(DOCUMENT, _text(stage, MANY))
    stage.sync()
    empty(stage.run, "v2")
    filler = stage.holding("insert_new.written", "backfill", "v2", LAST)
    stage.held(filler)
    stage.edit(DOCUMENT, _text(stage, FEW))
    writer = stage.syncing()
    stage.blocked(writer)
    stage.go(filler)
    stage.run.finish(writer)
    stage.look()
    stage.sync()


def one_passage_is_refused(stage: Stage) -> None:
    """The model takes all passages of a document but the last: none of them may be found."""
    stage.edit(POISONED, _text(stage, MANY, POISON))
    stage.sync()
    stage.look()


SCENES: tuple[Scene, ...] = (
    registered,
    shrinks_and_grows,
    filled,
    shorter_beside_a_backfill,
    one_passage_is_refused,
)
