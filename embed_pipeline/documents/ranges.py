"""Key ranges: the partitions of a version, contiguous and fixed when the version is created."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from embed_pipeline.documents.source import Source, queries
from embed_pipeline.postgres.connection import unhurried
from embed_pipeline.spec import partition_keys


@dataclass(frozen=True)
class KeyRange:
    """One partition: keys >= lower (None: from the first) and < upper (None: to the last). Empty ranges hold nothing, ever."""

    partition: str
    lower: list[str] | None
    upper: list[str] | None
    is_empty: bool = False


def cut(conn: psycopg.Connection, source: Source, partitions: int) -> list[KeyRange]:
    """Ranges of about equal numbers of documents. Together they hold every key there can ever be, each once."""
    parts = source.parts()
    query = queries("cut_keys", documents=parts["documents"], key_columns=parts["key_columns"], key_array=parts["key_array"])
    with unhurried(conn):
        firsts = [key for part, key in conn.execute(query, {"partitions": partitions}) if part > 1]
    return ranges_between(firsts, partitions)


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
        conditions.append(source.key_compares(sql.SQL(">"), "after"))
    elif lower:
        conditions.append(source.key_compares(sql.SQL(">="), "lower"))
    if upper:
        conditions.append(source.key_compares(sql.SQL("<"), "upper"))
    return sql.SQL(" AND ").join(conditions)


def within_any(source: Source, chosen: Sequence[KeyRange], values: dict[str, Any]) -> sql.Composable:
    """Whether a document lies in one of the ranges; their bounds are added to `values`. Ranges side by side become one."""
    joined: list[tuple[list[str] | None, list[str] | None]] = []
    for each in chosen:
        if each.is_empty:
            continue
        if joined and joined[-1][1] is not None and joined[-1][1] == each.lower:
            joined[-1] = (joined[-1][0], each.upper)
        else:
            joined.append((each.lower, each.upper))
    conditions: list[sql.Composable] = []
    for number, (lower, upper) in enumerate(joined):
        bounds: list[sql.Composable] = [sql.SQL("true")]
        for operator, side, bound in ((sql.SQL(">="), "lower", lower), (sql.SQL("<"), "upper", upper)):
            if bound is not None:
                values[f"{side}_{number}"] = bound
                bounds.append(source.key_compares(operator, f"{side}_{number}"))
        conditions.append(sql.SQL("({})").format(sql.SQL(" AND ").join(bounds)))
    return sql.SQL("({})").format(sql.SQL(" OR ").join(conditions)) if conditions else sql.SQL("false")
