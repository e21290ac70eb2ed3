"""The documents read in slices: key ranges of equal size, counts, ids and samples, whatever the key and the size of the table."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import psycopg
import pytest

from embed_pipeline.documents import census, ranges, slices
from embed_pipeline.documents.ranges import ALL_KEYS, KeyRange
from embed_pipeline.documents.source import Source, inspect
from embed_pipeline.spec import DocumentsSpec


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """So small that a table of some hundred documents is a large one."""
    monkeypatch.setattr(ranges, "STEP", 30)
    monkeypatch.setattr(ranges, "MOST_KEPT", 100)
    monkeypatch.setattr(slices, "TARGET_SECONDS", 0.0)
    monkeypatch.setattr(slices, "LEAST", 16)


def by_number(conn: psycopg.Connection[Any], count: int) -> Source:
    """Keys with gaps, some below zero."""
    conn.execute("CREATE TABLE texts (id bigint PRIMARY KEY, body text)")
    conn.execute("INSERT INTO texts SELECT 7 * n - 50, 'text ' || n FROM generate_series(1, %s) AS n", (count,))
    return inspect(conn, DocumentsSpec.model_validate({"table": "texts", "key": "id", "text": "body"}))


def by_tenant(conn: psycopg.Connection[Any], count: int) -> Source:
    """A key of two columns, the first with few values, in an order that is not that of bytes."""
    conn.execute("CREATE TABLE texts (n integer, tenant text, body text, PRIMARY KEY (tenant, n))")
    conn.execute(
        "INSERT INTO texts SELECT n, (ARRAY['b', 'A', 'a', 'B'])[1 + n %% 4], 'text ' || n FROM generate_series(1, %s) AS n",
        (count,),
    )
    return inspect(conn, DocumentsSpec.model_validate({"table": "texts", "key": ["tenant", "n"], "text": "body"}))


MAKE = pytest.mark.parametrize("make", [by_number, by_tenant])


def sizes(conn: psycopg.Connection[Any], source: Source, cut: list[KeyRange]) -> list[int]:
    return [census.count(conn, source, each) for each in cut]


@MAKE
@pytest.mark.parametrize("count", [0, 1, 3, 8, 29, 30, 31, 61, 100])
def test_partitions_of_a_small_table_are_equal(conn: psycopg.Connection[Any], make: Any, count: int) -> None:
    source = make(conn, count)
    cut = ranges.cut(conn, source, 8)
    found = sizes(conn, source, cut)
    assert sum(found) == count
    filled = [number for each, number in zip(cut, found, strict=True) if not each.is_empty]
    assert len(filled) == max(1, min(count, 8))
    assert max(filled) - min(filled) <= 1


@MAKE
def test_partitions_of_a_large_table_are_nearly_equal(conn: psycopg.Connection[Any], make: Any) -> None:
    """Of 1,000 keys every sixteenth is remembered here."""
    source = make(conn, 1_000)
    found = sizes(conn, source, ranges.cut(conn, source, 8))
    assert sum(found) == 1_000
    assert max(found) - min(found) <= 2 * 16


@MAKE
def test_spread_takes_keys_from_everywhere(conn: psycopg.Connection[Any], make: Any) -> None:
    source = make(conn, 500)
    key = ", ".join(column.name for column in source.key)
    rows = conn.execute(f"SELECT row_number() OVER (ORDER BY {key}) - 1, {key} FROM texts").fetchall()  # type: ignore[arg-type]
    rank = {tuple(str(value) for value in rest): number for number, *rest in rows}
    ranks = [rank[tuple(key)] for key in ranges.spread(conn, source, 20)]
    assert ranks == sorted(ranks)
    assert ranks[0] == 0
    assert max(second - first for first, second in pairwise(ranks)) <= 2 * 25


@MAKE
def test_census(conn: psycopg.Connection[Any], make: Any) -> None:
    source = make(conn, 90)
    assert census.count(conn, source) == 90
    assert census.measure(conn, source) == (90, sum(len(f"text {n}") for n in range(1, 91)))
    ids = [doc_id for portion in census.ids(conn, source) for doc_id in portion]
    assert len(ids) == len(set(ids)) == 90, "each once, over many slices"
    assert census.hashes(conn, source, [ids[0], "no key at all", "12345678901234567890"]).keys() == {ids[0]}
    chosen = census.count_and_choose(conn, source, 9)
    assert chosen == census.count_and_choose(conn, source, 9), "the same ones each time"
    assert chosen[0] == 90
    assert len(chosen[1]) == 9
    assert set(chosen[1]) <= set(census.count_and_choose(conn, source, 20)[1]) <= set(ids)
    assert census.count_and_choose(conn, source, 100) == (90, sorted(ids))
    first = census.sample(conn, source, 9)
    assert len(first) == 9
    assert first == census.sample(conn, source, 9), "the same ones each time"
    assert all(text.startswith("text ") for _, text in first)
    assert len(census.sample(conn, source, 1_000)) == 90


def test_slices_hold_every_key_once_beside_changes(conn: psycopg.Connection[Any]) -> None:
    """What is there all along is read once, also while other rows come and go between two slices."""
    source = by_number(conn, 300)
    size = slices.SliceSize(10)
    seen: list[int] = []
    for number, part in enumerate(slices.KeySlices(source, size).of(conn, ALL_KEYS)):
        in_range = ranges.within(source, part.lower is not None, part.upper is not None, after=False)
        query = "SELECT d.id FROM texts AS d WHERE " + in_range.as_string(conn)
        seen += [row[0] for row in conn.execute(query, {"lower": part.lower, "upper": part.upper})]  # type: ignore[arg-type]
        conn.execute("INSERT INTO texts VALUES (%s, 'new'), (%s, 'new')", (-1000 - number, 100_000 + number))
        conn.execute("DELETE FROM texts WHERE id >= 100000 AND id % 2 = 0")
    old = [7 * n - 50 for n in range(1, 301)]
    assert [each for each in seen if -1000 < each < 100_000] == old
    assert len(seen) == len(set(seen))
