"""What a backfill leaves in the WAL, and which pages of the user's table it changes.

    python -m benchmarks.wal [--documents 20000] [--lengths 1000 5] [--rounds 2] [--full]

The WAL of each row against that of a COPY of the same columns into tables made like the version's, keys and all. The pages against a
SELECT of the same rows after VACUUM. A checkpoint comes before each, so that every page that is changed shows once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from benchmarks import stage, table, tables
from benchmarks.meter import lsn, pages_changed, wal_bytes
from benchmarks.stage import Stage
from embed_pipeline.migrate.opening import opened

# Nobody else writes WAL meanwhile, and a hint that is set on a page shows.
QUIET = {"autovacuum": "off", "wal_log_hints": "on", "max_wal_size": "16GB", "checkpoint_timeout": "1h"}
READ = "SELECT count(*), sum(length(body)) FROM documents"


@dataclass(frozen=True)
class Left:
    """Bytes of WAL, and pages of the user's table."""

    backfill: int
    twin: int
    pages: int
    pages_read: int
    pages_there: int


def main() -> None:
    wanted = stage.options(__doc__, documents=(20_000, 100_000), lengths=((1_000, 5), (1_000, 5)), rounds=(2, 3))
    with stage.running(QUIET) as running:
        table.heading(f"WAL and pages of a backfill of {wanted.documents:,} documents, {wanted.rounds} rounds")
        rows = []
        for length in wanted.lengths:
            rows.append(_row(length, wanted.documents, [_left(running, wanted.documents, length) for _ in range(wanted.rounds)]))
        columns = [
            "text",
            "WAL B/row",
            "COPY of the same columns, B/row",
            "ratio",
            "pages of the table",
            "changed",
            "by a SELECT",
        ]
        table.write(columns, rows)


def _row(length: int, documents: int, found: Sequence[Left]) -> list[str]:
    ours, twin = ([each.backfill / documents for each in found], [each.twin / documents for each in found])
    pages = [[getattr(each, name) for each in found] for name in ("pages_there", "pages", "pages_read")]
    return [f"{length:,} B", *map(table.spread, (ours, twin, table.ratios(ours, twin), *pages))]


def _left(running: Stage, documents: int, length: int) -> Left:
    url = running.fresh(running.documents(documents, length))
    try:
        with opened(stage.declared(url, "v1")) as index, stage.connected(url) as conn:
            conn.execute("CREATE EXTENSION pg_walinspect")
            start = _checkpoint(conn)
            stage.fill(index, "v1", ann=False)
            end = lsn(conn)
            changed = pages_changed(conn, "documents", start)
            of_version = tables.of_version(index.version(conn, "v1"))
        twin = sum(_twin(url, each, number) for number, each in enumerate(of_version))
        with stage.connected(url) as conn:
            conn.execute("VACUUM documents")
            before = _checkpoint(conn)
            conn.execute(READ)
            read = pages_changed(conn, "documents", before)
            there = conn.execute("SELECT pg_relation_size('documents') / current_setting('block_size')::integer").fetchone()
            return Left(wal_bytes(conn, start, end), twin, changed, read, there[0] if there else 0)
    finally:
        running.forget(url)


def _checkpoint(conn: psycopg.Connection) -> str:
    conn.execute("CHECKPOINT")
    return lsn(conn)


def _twin(url: str, original: sql.Identifier, number: int) -> int:
    """WAL bytes of one COPY of a table's rows into a table made like it."""
    twin = sql.Identifier(f"twin_{number}")
    with stage.connected(url) as reader, stage.connected(url) as conn:
        conn.execute(sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL)").format(twin, original))
        # Else reading it would set hints on its pages, and they would be logged.
        conn.execute(sql.SQL("VACUUM {}").format(original))
        start = _checkpoint(conn)
        out, into = (sql.SQL("COPY {} TO STDOUT (FORMAT BINARY)"), sql.SQL("COPY {} FROM STDIN (FORMAT BINARY)"))
        with reader.cursor().copy(out.format(original)) as rows, conn.cursor().copy(into.format(twin)) as stream:
            for block in rows:
                stream.write(block)
        return wal_bytes(conn, start, lsn(conn))


if __name__ == "__main__":
    main()
