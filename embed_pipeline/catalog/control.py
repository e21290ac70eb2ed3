"""The control row of an index: an operator's pause, resume or abort, read before every batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import psycopg

from embed_pipeline.catalog.versions import actor, queries, record_event
from embed_pipeline.errors import CatalogError
from embed_pipeline.postgres.storable import storable

ControlState = Literal["running", "paused", "aborted"]


@dataclass(frozen=True)
class Control:
    state: ControlState
    reason: str
    changed_by: str


def read(conn: psycopg.Connection, index: str) -> Control:
    row = conn.execute(queries("control"), {"index": index}).fetchone()
    if row is None:
        raise CatalogError(f"Index {index!r} is not registered.", next_step=f"Run: embed-pipeline status {index}")
    return Control(*row)


def set_state(conn: psycopg.Connection, index: str, state: ControlState, reason: str) -> None:
    """Pause, abort or resume; audited. CatalogError when the index is not registered."""
    with conn.transaction():
        read(conn, index)
        said = {"reason": storable(conn, reason), "actor": storable(conn, actor())}
        conn.execute(queries("set_control"), {"index": index, "state": state} | said)


@dataclass(frozen=True)
class ThrottleState:
    """The last answer of the throttle of a version's backfill; in seconds, since when it is the same, and how long ago it was given.

    A backfill that was killed while it waited leaves its last word behind: `seen_seconds` tells.
    """

    version: str
    answer: Literal["go", "wait", "stop"]
    signal: str
    reason: str
    seconds: float
    seen_seconds: float


def throttle_states(conn: psycopg.Connection, index: str) -> tuple[ThrottleState, ...]:
    """The last word of each version's throttle."""
    return tuple(ThrottleState(*row) for row in conn.execute(queries("throttle_states"), {"index": index}))


@dataclass(frozen=True)
class ThrottleEvent:
    """A change of the throttle's answer, for the audit."""

    from_answer: str
    to_answer: str
    detail: dict[str, Any]


def note_throttle(
    conn: psycopg.Connection, index: str, version: str, answer: str, signal: str, reason: str, event: ThrottleEvent | None
) -> None:
    """Keep the throttle's word for `status`, and with `event` for the audit too.

    Not waited for: with a synchronous standby that is down, the commit would hang and hide the very reason.
    """
    with conn.transaction():
        conn.execute(queries("commit_cheaply"))
        values = {"index": index, "version": version, "answer": answer, "signal": signal}
        conn.execute(queries("note_throttle"), values | {"reason": storable(conn, reason)})
        if event is not None:
            record_event(
                conn,
                index,
                "throttle",
                version=version,
                from_state=event.from_answer,
                to_state=event.to_answer,
                reason=reason,
                detail={"signal": signal, **event.detail},
            )
