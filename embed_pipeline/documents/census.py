"""Counts and look-ups over all documents, read slice by slice."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import psycopg
from psycopg import sql

from embed_pipeline.documents import ranges
from embed_pipeline.documents.ranges import ALL_KEYS, KeyRange
from embed_pipeline.documents.slices import KeySlices, SlicedQuery, SliceSize, read_by_id, read_current
from embed_pipeline.documents.source import Source, queries


def count(conn: psycopg.Connection, source: Source, bounds: KeyRange = ALL_KEYS) -> int:
    """How many documents are in the range."""
    return sum(row[0] for row in _each(conn, source, bounds, "count_rows", ("documents",), {}))


def ids(conn: psycopg.Connection, source: Source, bounds: KeyRange = ALL_KEYS) -> Iterator[list[str]]:
    """The ids of the documents in the range, in portions."""
    for row in _each(conn, source, bounds, "ids", ("documents", "doc_id"), {}):
        yield row[0]


def measure(conn: psycopg.Connection, source: Source) -> tuple[int, int]:
    """(documents, bytes of their texts)."""
    rows = list(_each(conn, source, ALL_KEYS, "count_documents", ("documents", "text"), {}))
    return sum(row[0] for row in rows), sum(row[1] for row in rows)


def count_and_choose(conn: psycopg.Connection, source: Source, size: int) -> tuple[int, list[str]]:
    """How many documents there are, and `size` of them, or all: those whose ids have the smallest hashes.

    As good as chosen by chance: which they are has nothing to do with the order of the keys, or with what is in the documents.
    """
    seen, chosen = 0, list[tuple[int, str]]()
    for portion in ids(conn, source):
        seen += len(portion)
        drawn = [(int.from_bytes(blake2b(doc_id.encode(), digest_size=8).digest()), doc_id) for doc_id in portion]
        chosen = heapq.nsmallest(size, chosen + drawn)
    return seen, sorted(doc_id for _, doc_id in chosen)


def hashes(conn: psycopg.Connection, source: Source, doc_ids: Sequence[str]) -> dict[str, bytes]:
    """The source_hash of those of `doc_ids` that are documents, as they are now."""
    parts = source.parts()

    def compose(matches: sql.Composable) -> sql.Composed:
        return queries("current_hashes", documents=parts["documents"], source_hash=parts["source_hash"], key_is_wanted=matches)

    found: dict[str, bytes] = {}
    size, start = SliceSize(), 0
    while start < len(doc_ids):
        portion = list(doc_ids[start : start + size.rows])
        start += len(portion)
        with size.timed():
            rows = read_by_id(conn, source, compose, {"doc_ids": portion})
        found.update((doc_id, bytes(digest)) for doc_id, digest in rows)
    return found


def fitting_columns(conn: psycopg.Connection, source: Source, doc_ids: Sequence[str]) -> dict[str, int]:
    """column -> how many of `doc_ids` are values of it, of columns that are neither key nor text. Reads the whole table once for each."""
    rows = conn.execute(queries("plain_columns"), {"table": source.identifier.as_string(conn)}).fetchall()
    others = [name for (name,) in rows if name not in (*(column.name for column in source.key), *source.text_columns)]
    found: dict[str, int] = {}
    for name in others:
        column = {"column": sql.Identifier("d", name)}
        met = {
            value
            for (value,) in _each(conn, source, ALL_KEYS, "found_in_column", ("documents",), {"doc_ids": list(doc_ids)}, column)
        }
        if met:
            found[name] = len(met)
    return found


def within(conn: psycopg.Connection, source: Source, doc_ids: Sequence[str], bounds: Sequence[KeyRange]) -> set[str]:
    """Those of `doc_ids` that are documents of one of these ranges."""
    values = {"doc_ids": list(doc_ids)}
    parts = ("documents", "doc_id")
    return {row[0] for each in bounds for row in _each(conn, source, each, "found_ids", parts, values)}


def sample(conn: psycopg.Connection, source: Source, size: int) -> list[tuple[str, str]]:
    """(id, text) of `size` documents from everywhere in the table, the same ones each time while the ids stay the same."""
    ids = [source.id_of(key) for key in ranges.spread(conn, source, size)]
    found = read_current(conn, source, ids)
    return [(doc_id, found[doc_id][0]) for doc_id in ids if doc_id in found]


def _each(
    conn: psycopg.Connection,
    source: Source,
    bounds: KeyRange,
    name: str,
    wanted: tuple[str, ...],
    values: dict[str, Any],
    further: Mapping[str, sql.Composable] | None = None,
) -> Iterator[Any]:
    parts = source.parts()
    size = SliceSize()
    chosen = {each: parts[each] for each in wanted} | dict(further or {})
    query = SlicedQuery(source, lambda in_range: queries(name, in_range=in_range, **chosen))
    for part in KeySlices(source, size).of(conn, bounds):
        with size.timed():
            rows = query.rows(conn, part, values)
        yield from rows
