"""Key ranges: the partitions of a version, contiguous and fixed when the version is created."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from embed_pipeline.documents.source import Source, queries
from embed_pipeline.postgres.connection import unhurried
from embed_pipeline.spec import partition_keys

# Keys that are kept in memory while the table is walked through, and read by one statement.
MOST_KEPT, STEP = 20_000, 4_000


@dataclass(frozen=True)
class KeyRange:
    """One partition: keys >= lower (None: from the first) and < upper (None: to the last). Empty ranges hold nothing, ever."""

    partition: str
    lower: list[str] | None
    upper: list[str] | None
    is_empty: bool = False


ALL_KEYS = KeyRange("", None, None)


def cut(conn: psycopg.Connection, source: Source, partitions: int) -> list[KeyRange]:
    """Ranges of about equal numbers of documents. Together they hold every key there can ever be, each once."""
    return ranges_between(spread(conn, source, partitions)[1:], partitions)


def spread(conn: psycopg.Connection, source: Source, count: int) -> list[list[str]]:
    """At most `count` keys from everywhere in the table, evenly by rank, from the first one on.

    Walks through the key's index in short statements. Of a large table every second, fourth, eighth ... key is remembered.
    """
    parts = source.parts()
    kept: list[list[str]] = []
    every, seen = 1, 0
    after: list[str] | None = None
    while True:
        query = queries(
            "walk_keys",
            in_range=within(source, lower=False, upper=False, after=after is not None),
            **{name: parts[name] for name in ("documents", "key_columns", "key_array")},
        )
        with unhurried(conn):
            rows = conn.execute(query, {"after": after, "limit": STEP, "every": every, "seen": seen}).fetchall()
        kept += [key for key, number in rows if (number - 1) % every == 0]
        if len(kept) > MOST_KEPT:
            kept, every = kept[::2], 2 * every
        if not rows or rows[-1][1] < seen + STEP:
            total = rows[-1][1] if rows else seen
            break
        after, seen = rows[-1]
    return evenly(kept, every, total, count)


def evenly(kept: Sequence[list[str]], every: int, total: int, count: int) -> list[list[str]]:
    """Pure: `count` keys out of every `every`-th of `total` keys."""
    parts = min(count, total)
    # As ntile does it: the first parts have one more where they cannot be equal.
    size, more = divmod(total, parts) if parts else (0, 0)
    ranks = [number * size + min(number, more) for number in range(parts)]
    numbers = {min(round(rank / every), len(kept) - 1) for rank in ranks}
    return [kept[number] for number in sorted(numbers)]


def ranges_between(firsts: list[list[str]], partitions: int) -> list[KeyRange]:
    """Pure: the ranges cut before each of `firsts` (at most partitions - 1, in key order); what remains is empty."""
    keys = partition_keys(partitions)
    lowers: list[list[str] | None] = [None, *firsts]
    uppers: list[list[str] | None] = [*firsts, None]
    filled = [KeyRange(key, lower, upper) for key, lower, upper in zip(keys, lowers, uppers, strict=False)]
    return filled + [KeyRange(key, None, None, is_empty=True) for key in keys[len(filled) :]]


def within(source: Source, lower: bool, upper: bool, after: bool) -> sql.Composable:
    """The WHERE of a range: bounds `lower` and `upper` where there are any, and `after`, the last key of the batch before."""
    conditions: list[sql.Composable] = [sql.SQL("true")]
    if after:
        conditions.append(source.key_compares(">", "after"))
    elif lower:
        conditions.append(source.key_compares(">=", "lower"))
    if upper:
        conditions.append(source.key_compares("<", "upper"))
    return sql.SQL(" AND ").join(conditions)
