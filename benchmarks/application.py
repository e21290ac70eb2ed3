"""What the application's own writes take, with and without an index over its table.

    python -m benchmarks.application [--lengths 1000 55] [--versions 1 2 5] [--copy 50000] [--insert 1000] [--updates 100] [--rounds 3]

COPY of many rows, INSERT of a thousand, UPDATE of one, each in a transaction of its own with synchronous commit; tables with and without
an index take turns. No worker runs: what is measured is capture. COPY also into a partitioned table.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import psycopg
from psycopg import sql

from benchmarks import stage, table
from benchmarks.meter import server_cpu
from benchmarks.stage import Stage
from embed_pipeline.migrate.opening import opened

PLAIN = "plain"
PARTITIONS = 4
# So many INSERTs a round, whose median is the round's.
INSERTS = 7

# By table: milliseconds of each round.
Times = Mapping[str, list[float]]


def main() -> None:
    wanted = stage.options(
        __doc__,
        lengths=((1_000, 55), (1_000, 55)),
        versions=((1, 2, 5), (1, 2, 5)),
        documents=(10_000, 100_000),
        copy=(50_000, 50_000),
        insert=(1_000, 1_000),
        updates=(100, 500),
        rounds=(3, 7),
    )
    with stage.running({"synchronous_commit": "on", "max_wal_size": "8GB"}) as running:
        for length in wanted.lengths:
            _measure(running, length, wanted)


def _measure(running: Stage, length: int, wanted: argparse.Namespace) -> None:
    url = running.fresh(running.documents(wanted.documents, length))
    with stage.connected(url) as conn:
        names = _tables(conn, url, wanted.versions)
        bench = _Bench(conn, running.postmaster, length, wanted)
        whole, partitioned = (
            [each for each in names if "partitioned" not in each],
            [each for each in names if "partitioned" in each],
        )
        found: dict[str, Times] = {
            f"COPY of {wanted.copy:,}": bench.rounds(whole, bench.copy),
            f"INSERT of {wanted.insert:,}": bench.rounds(whole, bench.insert),
            "UPDATE of one": bench.updates(whole),
            f"COPY of {wanted.copy:,}, partitioned": bench.rounds(partitioned, bench.copy),
        }
    running.forget(url)
    table.heading(f"The application's writes, texts of {length:,} B, {wanted.rounds} rounds")
    table.write(["", "live versions", "ms without", "ms with", "ratio"], _rows(found))
    cpu = [[name, table.spread(values)] for name, values in bench.cpu.items()]
    print(f"Server CPU of that COPY, us/row (in steps of {1e4 / wanted.copy:.1g}):\n")
    table.write(["table", "us/row"], cpu)


def _rows(found: Mapping[str, Times]) -> list[list[str]]:
    rows = []
    for what, times in found.items():
        plain = next(name for name in times if name.startswith(PLAIN))
        for name in times:
            if name != plain:
                shown = (times[plain], times[name], table.ratios(times[name], times[plain]))
                rows.append([what, name.rpartition("_")[2], *map(table.spread, shown)])
    return rows


def _tables(conn: psycopg.Connection, url: str, versions: Sequence[int]) -> list[str]:
    """Twins of `documents`: without an index, and one for each number of live versions; the same partitioned."""
    made = [PLAIN, *(f"live_{count}" for count in versions), f"{PLAIN}_partitioned", "live_partitioned_1"]
    for name in made:
        create = sql.SQL("CREATE TABLE {} (LIKE documents INCLUDING ALL)").format(sql.Identifier(name))
        if "partitioned" in name:
            create += sql.SQL(" PARTITION BY HASH (id)")
        conn.execute(create)
        for number in range(PARTITIONS if "partitioned" in name else 0):
            part = sql.SQL("CREATE TABLE {} PARTITION OF {} FOR VALUES WITH (MODULUS {}, REMAINDER {})")
            literals = (sql.Literal(PARTITIONS), sql.Literal(number))
            conn.execute(part.format(sql.Identifier(f"{name}_part_{number}"), sql.Identifier(name), *literals))
        conn.execute(sql.SQL("INSERT INTO {} SELECT * FROM documents").format(sql.Identifier(name)))
        conn.execute(sql.SQL("VACUUM ANALYZE {}").format(sql.Identifier(name)))
        if name.startswith("live"):
            live = [f"v{number}" for number in range(1, int(name.rpartition("_")[2]) + 1)]
            with opened(stage.declared(url, *live, table=name, name=name)):
                pass
    return made


class _Bench:
    """The operations, each on a table by its name; how often each table has been written decides which ids come next."""

    def __init__(self, conn: psycopg.Connection, postmaster: int, length: int, wanted: argparse.Namespace) -> None:
        self._conn = conn
        self._postmaster = postmaster
        self._length = length
        self._wanted = wanted
        self._last: dict[str, int] = defaultdict(lambda: int(wanted.documents))
        self.cpu: dict[str, list[float]] = defaultdict(list)

    def rounds(self, names: Sequence[str], work: Callable[[str], float]) -> Times:
        """Milliseconds of `work` on each table, which begin in turn."""
        found: dict[str, list[float]] = {name: [] for name in names}
        for number in range(self._wanted.rounds):
            first = number % len(names)
            for name in [*names[first:], *names[:first]]:
                found[name].append(work(name))
        return found

    def copy(self, name: str) -> float:
        rows = self._new(name, self._wanted.copy)
        payload = "".join(f"{key}\t{body}\n" for key, body in rows).encode()
        self._conn.execute("CHECKPOINT")
        statement = sql.SQL("COPY {} FROM STDIN").format(sql.Identifier(name))
        cpu = server_cpu(self._postmaster)
        started = time.monotonic()
        with self._conn.cursor() as cursor, cursor.copy(statement) as stream:
            stream.write(payload)
        seconds = time.monotonic() - started
        self.cpu[name].append(1e6 * (server_cpu(self._postmaster) - cpu) / self._wanted.copy)
        return 1_000 * seconds

    def insert(self, name: str) -> float:
        """One statement for all rows, as applications send them."""
        statement = sql.SQL("INSERT INTO {} SELECT * FROM unnest(%b::bigint[], %b::text[])").format(sql.Identifier(name))
        return median(self._timed(statement, self._columns(name)) for _ in range(INSERTS))

    def updates(self, names: Sequence[str]) -> Times:
        """One row at a time, the tables in turn; each round is the median of its updates."""
        found: dict[str, list[float]] = {name: [] for name in names}
        for number in range(self._wanted.rounds):
            times: dict[str, list[float]] = defaultdict(list)
            for key in range(1, self._wanted.updates + 1):
                for name in names:
                    statement = sql.SQL("UPDATE {} SET body = %s WHERE id = %s").format(sql.Identifier(name))
                    times[name].append(self._timed(statement, (_text(number * 1_000_000 + key, self._length), key)))
            for name in names:
                found[name].append(median(times[name]))
        return found

    def _timed(self, statement: sql.Composed, values: tuple[Any, ...]) -> float:
        started = time.monotonic()
        self._conn.execute(statement, values)
        return 1_000 * (time.monotonic() - started)

    def _columns(self, name: str) -> tuple[list[int], list[str]]:
        rows = self._new(name, self._wanted.insert)
        return [key for key, _ in rows], [body for _, body in rows]

    def _new(self, name: str, count: int) -> list[tuple[int, str]]:
        first = self._last[name] + 1
        self._last[name] += count
        return [(key, _text(key, self._length)) for key in range(first, first + count)]


def _text(number: int, length: int) -> str:
    return f"{number} {hashlib.md5(str(number).encode()).hexdigest() * (length // 32 + 1)}"[:length]


if __name__ == "__main__":
    main()
