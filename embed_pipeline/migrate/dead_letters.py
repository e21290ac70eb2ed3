"""Lists dead letters with their reasons, and queues them again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import psycopg

from embed_pipeline.catalog import dead_letters, versions
from embed_pipeline.catalog.dead_letters import DeadLetter
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import slices
from embed_pipeline.errors import IllegalTransition
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.signals import signal


@dataclass(frozen=True)
class SetAside:
    """A document without a vector. `still_so`: it has the very text that was refused; else its change is on its way."""

    doc_id: str
    reason: str
    since: datetime
    still_so: bool


@dataclass(frozen=True)
class Letters:
    """The dead letters of one version: how many there are, and the first of them by id."""

    version: str
    state: str
    count: int
    shown: tuple[SetAside, ...]


def letters(index: OpenIndex, name: str | None = None, *, limit: int = 100) -> list[Letters]:
    """The dead letters of every live version, or of the named one; at most `limit` of each are read."""
    with index.connection() as conn:
        return [_letters_of(conn, index, version, limit) for version in _chosen(conn, index, name)]


def counts(index: OpenIndex) -> Mapping[str, tuple[str, int]]:
    """Version -> (state, number of dead letters) for every live version."""
    with index.connection() as conn:
        return {
            version.name: (version.state, dead_letters.count(conn, index.name, version.name))
            for version in versions.live_versions(conn, index.name)
        }


def retry(index: OpenIndex, name: str | None = None) -> dict[str, int]:
    """Take the letters away and queue their documents for the dual-write, in one transaction; version -> how many.

    Nothing is embedded here: what is refused again comes back as a letter.
    """
    with index.connection() as conn, conn.transaction():
        queued = {}
        for version in _chosen(conn, index, name):
            queued[version.name] = dead_letters.requeue(conn, index.name, version.name)
            if queued[version.name]:
                detail = {"documents": queued[version.name]}
                versions.record_event(conn, index.name, "retry_dead_letters", version=version.name, detail=detail)
        signal("dead_letters.requeued")
        return queued


def _chosen(conn: psycopg.Connection, index: OpenIndex, name: str | None) -> list[Version]:
    if name is None:
        return versions.live_versions(conn, index.name)
    version = index.version(conn, name)
    if not version.is_live:
        raise IllegalTransition(
            f"Version {name!r} of index {index.name!r} is retired: its dead letters went with its vectors.",
            next_step=f"Run: embed-pipeline status {index.name}",
        )
    return [version]


def _is_still_so(letter: DeadLetter, current: tuple[str, bytes] | None) -> bool:
    return current is not None and letter.source_hash in (b"", current[1])


def _letters_of(conn: psycopg.Connection, index: OpenIndex, version: Version, limit: int) -> Letters:
    found = dead_letters.first(conn, index.name, version.name, limit)
    current = slices.read_current(conn, index.source, [each.doc_id for each in found])
    shown = tuple(
        SetAside(each.shown_id, each.reason, each.since, _is_still_so(each, current.get(each.doc_id))) for each in found
    )
    return Letters(version.name, version.state, dead_letters.count(conn, index.name, version.name), shown)
