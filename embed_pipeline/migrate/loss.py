"""The limit on how many documents a comparison may remove unasked.

A table that was swapped for an empty one, restored without its data, or is loaded from a stump of a file looks to a comparison as if all of
its documents had been deleted. What the application deletes or truncates itself comes through change capture, and is not asked about.
"""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

from embed_pipeline.documents import shape
from embed_pipeline.errors import LossRefused
from embed_pipeline.spec import IndexSpec

# Of a smaller index a share says little, and little is lost.
FEW = 100


@dataclass(frozen=True)
class Loss:
    """How many of the documents that a version holds a comparison would remove."""

    version: str
    removed: int
    held: int

    def __str__(self) -> str:
        return f"{self.removed:,} of the {self.held:,} documents of {self.version}"


def is_too_much(removed: int, held: int, share: float, accepted: int | None = None) -> bool:
    """Whether a person has to be asked before `removed` of `held` documents go. `accepted`: the number that was said."""
    return held > FEW and removed > share * held and (accepted is None or removed > accepted)


def refused(conn: psycopg.Connection, spec: IndexSpec, table: str, losses: list[Loss], command: str | None = None) -> LossRefused:
    """The refusal; `command` is what was asked for, if it was no full comparison.

    It is doubted from here on that every change was seen, so that everybody says so until it is decided.
    """
    said = "; ".join(map(str, losses))
    shape.doubt_loss(conn, spec.name, f"a comparison would have removed {said}, which {table} does not show any more")
    return LossRefused(
        f"A comparison would remove {said}: {table} does not show them any more. None of them was removed.",
        next_step=f"See whether {table} is what it should be; if they are really gone, run: "
        f"{command or f'embed-pipeline sync {spec.name} --full'} --accept-loss {max(loss.removed for loss in losses)}",
        removed=max(loss.removed for loss in losses),
        versions=[loss.version for loss in losses],
    )
