"""Counts and look-ups over all documents, read slice by slice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import psycopg

from embed_pipeline.documents import ranges
from embed_pipeline.documents.ranges import ALL_KEYS, KeyRange
from embed_pipeline.documents.slices import KeySlices, SlicedQuery, SliceSize, read_current
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


def missing_ids(conn: psycopg.Connection, source: Source, doc_ids: Sequence[str]) -> list[str]:
    """Those of `doc_ids` that are no document."""
    found = {row[0] for row in _each(conn, source, ALL_KEYS, "found_ids", ("documents", "doc_id"), {"doc_ids": list(doc_ids)})}
    return [doc_id for doc_id in doc_ids if doc_id not in found]


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
    conn: psycopg.Connection, source: Source, bounds: KeyRange, name: str, wanted: tuple[str, ...], values: dict[str, Any]
) -> Iterator[Any]:
    parts = source.parts()
    size = SliceSize()
    chosen = {each: parts[each] for each in wanted}
    query = SlicedQuery(source, lambda in_range: queries(name, in_range=in_range, **chosen))
    for part in KeySlices(source, size).of(conn, bounds):
        with size.timed():
            rows = query.rows(conn, part, values)
        yield from rows
