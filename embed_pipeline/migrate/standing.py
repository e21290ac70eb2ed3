"""Tells a live version whose table or collection was dropped or emptied by hand from one that was retired."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psycopg
from psycopg import sql

from embed_pipeline.catalog import partitions, serving, versions
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents.ranges import KeyRange, within
from embed_pipeline.documents.slices import NO_KEY, read, read_by_id
from embed_pipeline.documents.source import Source
from embed_pipeline.errors import AnotherLedger, StoreRefused, StoreUnavailable, VectorsGone, VersionRetired
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.postgres.queries import Queries
from embed_pipeline.stores.protocol import SharedStore, VersionStore

queries = Queries(__file__, "standing.sql")

# Documents from everywhere in the table that are looked up: where most of them have nothing stored, and nothing explains it, somebody has
# emptied the place. Fewer than that are differences, which a full comparison finds.
LOOKED_UP = 16


def gone(conn: psycopg.Connection, index: OpenIndex, version: Version) -> str:
    """Why the version has no vectors any more, in words: its place is not there, or was emptied. Empty while it has them.

    A few indexed look-ups. Of a version that is not filled yet only the place itself is looked at.
    """
    store = index.store(version)
    missing = store.gone(conn)
    filled = partitions.listed(conn, index.name, version.name)
    if missing or any(each.completed_at is None for each in filled):
        return missing
    lacking: set[str] = set()
    # A store elsewhere has no snapshot in common with the documents: what was being written at the first look is there at the second.
    for _ in range(2):
        ids = _from_everywhere(conn, index.source, [each.range for each in filled])
        lacking = _lacking(conn, index, version, store, ids)
        if 2 * len(lacking) <= len(ids):
            return ""
    return f"of {len(ids)} documents that were looked up {len(lacking)} have nothing stored: somebody has emptied it"


def _from_everywhere(conn: psycopg.Connection, source: Source, filled: list[KeyRange]) -> list[str]:
    """The first documents of some of the ranges."""
    chosen = [each for each in filled if not each.is_empty]
    chosen = chosen[:: max(1, math.ceil(len(chosen) / LOOKED_UP))]
    ids: list[str] = []
    for each in chosen:
        in_range = within(source, each.lower is not None, each.upper is not None, after=False)
        parts = {name: source.parts()[name] for name in ("doc_id", "documents", "key_columns")}
        query = queries("first_documents", in_range=in_range, **parts)
        values = {"lower": each.lower, "upper": each.upper, "limit": max(1, LOOKED_UP // len(chosen))}
        # A bound is the text that a key had; under another type, or after an enum's label was renamed, it may be none.
        with suppress(*NO_KEY):
            ids += [doc_id for (doc_id,) in read(conn, query, values)]
    return ids


def _lacking(conn: psycopg.Connection, index: OpenIndex, version: Version, store: VersionStore, ids: list[str]) -> set[str]:
    """Those of the documents that have neither vectors nor a dead letter, and of which no change waits."""
    left = set(ids) - store.stored_vectors(conn, ids).keys()
    if not left:
        return left
    values = {"index": index.name, "version": version.name, "doc_ids": sorted(left)}

    def compose(matches: sql.Composable) -> sql.Composed:
        return queries("unexplained", documents=index.source.identifier, key_is_wanted=matches)

    return {doc_id for (doc_id,) in read_by_id(conn, index.source, compose, values)}


def require(conn: psycopg.Connection, index: OpenIndex, version: Version) -> None:
    """VectorsGone where the version has no vectors any more, VersionRetired where a retire has removed them since it was read."""
    reason = gone(conn, index, version)
    if not reason:
        return
    # Read after the place was looked at: a retire commits both at once, or its state before.
    now = index.version(conn, version.name)
    if not now.is_live:
        raise VersionRetired(
            f"Version {now.name} of {index.name} was retired meanwhile; its vectors are gone with it.",
            next_step=f"Run: embed-pipeline status {index.name}",
        )
    raise vectors_gone(conn, now, reason)


def untold(index: OpenIndex, version: Version) -> str:
    """Of the version that serves: what tells readers who do not ask the catalog is gone or says otherwise, in words."""
    store = index.store(version)
    return store.untold() if version.state == "active" and isinstance(store, SharedStore) else ""


@dataclass(frozen=True)
class Stands:
    """The defects of the place of a live version's vectors, each in words; empty if there is none."""

    gone: str = ""
    another: str = ""
    unasked: str = ""
    untold: str = ""


def stands(conn: psycopg.Connection, index: OpenIndex, version: Version) -> Stands:
    """A few indexed look-ups, for who looks again and again.

    Qdrant's local mode is not opened for that: its folder is for one process, which may be a dual-write's.
    """
    if not version.is_live or index.spec.store.is_one_process:
        return Stands()
    try:
        index.store(version).require_ours(conn)
        with unless_dropped(index, version):
            require(conn, index, version)
        return Stands(untold=untold(index, version))
    except AnotherLedger as problem:
        return Stands(another=str(problem))
    except VectorsGone as problem:
        return Stands(gone=str(problem))
    except VersionRetired:
        return Stands()
    except (StoreUnavailable, StoreRefused) as problem:
        return Stands(unasked=str(problem))


def broken(conn: psycopg.Connection, index: OpenIndex) -> tuple[str, ...]:
    """A sentence about each live version whose vectors are gone or another ledger's; closes `index`."""
    found: list[str] = []
    try:
        for version in versions.live_versions(conn, index.name):
            seen = stands(conn, index, version)
            found += [said for said in (seen.gone, seen.another) if said]
            if seen.untold:
                found.append(
                    f"{version.name} serves {index.name}, and {seen.untold}: the next dual-write or full comparison puts it right."
                )
    finally:
        index.close()
    return tuple(found)


@contextmanager
def unless_dropped(index: OpenIndex, version: Version) -> Iterator[None]:
    """Within it, a store that finds nothing of its version raises VersionRetired only of one that was retired; of any other, VectorsGone."""
    try:
        yield
    except VersionRetired as problem:
        with index.connection() as conn:
            now = index.version(conn, version.name)
            if not now.is_live:
                raise
            raise vectors_gone(conn, now, index.store(now).gone(conn)) from problem


def vectors_gone(conn: psycopg.Connection, version: Version, reason: str = "") -> VectorsGone:
    """What a person is told, and how the version is filled again, or given up."""
    name = f"{version.index} {version.name}"
    serves = serving.read(conn, version.index).version
    stands = "it is active, and serves" if version.state == "active" else f"it is {version.state}, {serves or 'nothing'} serves"
    first = "cut over or roll back to another version; then " if version.state == "active" else ""
    return VectorsGone(
        f"The vectors of {version.index}.{version.name} are gone{f' ({reason})' if reason else ' or are not what this package has made'}, and no "
        f"retire has removed them; {stands}. Its queue is kept.",
        next_step=f"Run: embed-pipeline backfill {name}; it makes them again, and says first what that costs. Or put them back from a backup, or "
        f"give the version up: {first}run: embed-pipeline retire {name}, with its --confirm; its model can be declared again under another "
        "name.",
    )
