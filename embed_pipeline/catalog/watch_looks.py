"""The looks of a watch after a cutover: a fixed number for each generation, each taken by one watcher, with a result that stays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import psycopg

from embed_pipeline.postgres.queries import Queries
from embed_pipeline.postgres.storable import storable, storable_json

queries = Queries(__file__, "watch_looks.sql")

Outcome = Literal["well", "fail", "unknown", "overtaken"]


@dataclass(frozen=True)
class Slot:
    """The right to one look: at what the pointer of this generation names. `previous`: what it was moved away from, while that is known."""

    generation: int
    number: int
    version: str
    previous: str | None
    evidence_id: int | None


@dataclass(frozen=True)
class Look:
    """A look. `outcome` is None while it lasts, or where its watcher died."""

    generation: int
    number: int
    at: datetime
    version: str
    outcome: Outcome | None
    sentence: str
    measures: Mapping[str, Any]


def take(conn: psycopg.Connection, index: str, for_seconds: float, every_seconds: float) -> Slot | None:
    """The look that is due now; None where nothing is watched any more, or another watcher has it. By the server's clock."""
    values = {"index": index, "for": for_seconds, "every": every_seconds}
    row = conn.execute(queries("take_look"), values).fetchone()
    return None if row is None else Slot(*row)


def end(
    conn: psycopg.Connection, index: str, slot: Slot, outcome: Outcome, sentence: str, measures: Mapping[str, Any]
) -> Outcome:
    """Keep what a look found; returns "overtaken" where the pointer has moved since, which is what is kept then."""
    values = {
        "index": index,
        "generation": slot.generation,
        "look": slot.number,
        "outcome": outcome,
        "sentence": storable(conn, sentence),
        "measures": storable_json(conn, dict(measures)),
    }
    row = conn.execute(queries("end_look"), values).fetchone()
    assert row is not None
    found: Outcome = row[0]
    return found


def last(conn: psycopg.Connection, index: str) -> Look | None:
    """The newest look of the generation that serves."""
    row = conn.execute(queries("last_look"), {"index": index}).fetchone()
    return None if row is None else Look(*row)


def is_watched(conn: psycopg.Connection, index: str, for_seconds: float) -> bool:
    """Whether looks are left of the last move, which was a cutover."""
    row = conn.execute(queries("is_watched"), {"index": index, "for": for_seconds}).fetchone()
    return row is not None


def is_due(conn: psycopg.Connection, index: str, for_seconds: float, every_seconds: float) -> bool:
    """Whether `take` would have a look to give now. Changes nothing."""
    row = conn.execute(queries("is_due"), {"index": index, "for": for_seconds, "every": every_seconds}).fetchone()
    return row is not None
