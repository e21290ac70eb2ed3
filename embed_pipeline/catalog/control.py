"""The control row of an index: what a person says to everything that writes for it, read before every batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import psycopg

from embed_pipeline.catalog.versions import actor, queries, record_event
from embed_pipeline.errors import CatalogError

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
    """Pause, abort or resume; audited."""
    with conn.transaction():
        before = read(conn, index)
        conn.execute(queries("set_control"), {"index": index, "state": state, "reason": reason, "actor": actor()})
        record_event(conn, index, "control", from_state=before.state, to_state=state, reason=reason)
