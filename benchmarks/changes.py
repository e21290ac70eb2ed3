"""What waits: how soon a worker begins after many changes at once, and how fast they are worked off.

    python -m benchmarks.changes [--changes 60000] [--drained 6000] [--rounds 3] [--seconds 3]

Two live versions, an embedder that costs nothing. First a watching worker and one COPY of many rows: from the commit to the first text
that the model is asked for, and the longest statements about waiting changes. Then so many documents edited at once and worked off by one
and by two processes, without an ANN index: inserting into one takes longer than all the rest.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from psycopg import sql

from benchmarks import stage, table, tables
from benchmarks.embedder import called
from benchmarks.stage import Stage
from benchmarks.workers import Start, Together, beside, together
from embed_pipeline.migrate import follow_changes
from embed_pipeline.migrate.opening import opened

VERSIONS = ("v1", "v2")
SETTINGS = {"shared_preload_libraries": "pg_stat_statements", "max_wal_size": "8GB"}
DEADLINE_SECONDS = 120.0
# The worker's statements about what waits, the slowest first; those of the application and of its triggers are none of them.
SLOWEST = """
SELECT query, calls, max_exec_time, mean_exec_time FROM pg_stat_statements
WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND query LIKE ANY (%s)
ORDER BY max_exec_time DESC
"""


def main() -> None:
    wanted = stage.options(
        __doc__, changes=(60_000, 60_000), drained=(6_000, 6_000), length=(1_000, 1_000), rounds=(3, 5), seconds=(3.0, 8.0)
    )
    with stage.running(SETTINGS) as running:
        _begin(running, wanted)
        _drain(running, wanted)


def _begin(running: Stage, wanted: argparse.Namespace) -> None:
    table.heading(f"{wanted.changes:,} changes by one COPY, texts of {wanted.length:,} B, {len(VERSIONS)} live versions")
    delays, claims, slowest = [], [], []
    for number in range(wanted.rounds):
        delay, statements = _first_claim(running, number, wanted)
        delays.append(delay)
        claims += [longest for query, _, longest, _ in statements if _like(query, tables.CLAIM)]
        slowest = statements[:4]
    rows = [["commit to the first text asked for", table.spread(delays)], ["longest claim statement", table.spread(claims)]]
    table.write(["", "ms"], rows)
    print("The longest statements of the last round:\n")
    short = [
        [" ".join(query.split())[:70], f"{calls:,}", table.number(most), table.number(mean)]
        for query, calls, most, mean in slowest
    ]
    table.write(["statement", "calls", "longest ms", "mean ms"], short)


def _like(query: str, pattern: str) -> bool:
    """What `LIKE` would say of a pattern that has only %."""
    at = 0
    for part in filter(None, pattern.split("%")):
        at = query.find(part, at) + len(part)
        if at < len(part):
            return False
    return True


def _first_claim(running: Stage, number: int, wanted: argparse.Namespace) -> tuple[float, list[tuple[str, int, float, float]]]:
    """Milliseconds from the commit to the first call of the model, and what took long until `seconds` after that."""
    url, calls = running.fresh(running.documents(1, wanted.length)), running.folder / f"calls_{number}"
    with stage.connected(url) as conn, opened(stage.declared(url, *VERSIONS, **_noted(calls))) as index:
        conn.execute("CREATE EXTENSION pg_stat_statements")
        for version in VERSIONS:
            stage.fill(index, version, ann=False)
        body = sql.SQL("COPY (SELECT n, {} FROM generate_series(2, {}) AS n) TO STDOUT")
        with conn.cursor().copy(body.format(stage.body(wanted.length), sql.Literal(wanted.changes + 1))) as rows:
            payload = b"".join(rows)
        with beside(watch, url, calls):
            # Its first look comes before, and what it may do once.
            time.sleep(1)
            conn.execute("SELECT pg_stat_statements_reset()")
            with conn.cursor().copy("COPY documents FROM STDIN") as stream:
                stream.write(payload)
            committed = time.monotonic()
            first = _first_call(calls, committed)
            time.sleep(wanted.seconds)
            found = conn.execute(SLOWEST, ([f"%{name}%" for name in tables.WAITING],)).fetchall()
    running.forget(url)
    return 1_000 * (first - committed), found


def _first_call(calls: Path, since: float) -> float:
    """When the model was first asked for a text after `since`, waited for."""
    while time.monotonic() < since + DEADLINE_SECONDS:
        for when, _ in called(calls):
            if when > since:
                return when
        time.sleep(0.05)
    raise SystemExit(f"Nobody began within {DEADLINE_SECONDS:.0f} s.")


def _noted(calls: Path) -> dict[str, Any]:
    return {"version": {"options": {"calls": str(calls)}}}


def watch(start: Start, url: str, calls: Path) -> None:
    """A worker that watches until it is stopped."""
    with opened(stage.declared(url, *VERSIONS, **_noted(calls)), register_new=False) as index, start.measured():
        follow_changes.follow_changes(index, start.stopped(), lambda _: None)


def _drain(running: Stage, wanted: argparse.Namespace) -> None:
    """Rounds with one and with two processes, each on a copy of a database whose versions are filled."""
    filled = running.fresh(running.documents(wanted.drained, wanted.length))
    with opened(stage.declared(filled, *VERSIONS)) as index:
        for version in VERSIONS:
            stage.fill(index, version, ann=False)
    found: dict[int, list[Together]] = {1: [], 2: []}
    for number in range(wanted.rounds):
        for processes in (1, 2) if number % 2 == 0 else (2, 1):
            url = running.fresh(running.template(filled))
            with stage.connected(url) as conn:
                conn.execute("UPDATE documents SET body = 'edited ' || body")
            found[processes].append(together(running.postmaster, sync, [(url,)] * processes))
            running.forget(url)
    vectors = wanted.drained * len(VERSIONS)
    table.heading(f"{wanted.drained:,} edited texts of {wanted.length:,} B for {len(VERSIONS)} versions, worked off")
    rows = []
    for processes, runs in found.items():
        written = [sum(run.returned) for run in runs]
        costs = [(vectors / run.cost.seconds, 1e6 * run.cost.client / vectors, 1e6 * run.cost.server / vectors) for run in runs]
        rows.append([str(processes), *map(table.spread, zip(*costs, strict=True)), table.spread(written)])
    table.write(["processes", "vectors/s", "client CPU us/vector", "server CPU us/vector", "vectors written"], rows)


def sync(start: Start, url: str) -> int:
    """A worker that works off what waits; how many vectors it wrote."""
    with opened(stage.declared(url, *VERSIONS), register_new=False) as index:
        with index.connection() as conn:
            for version in VERSIONS:
                index.embedder_of(index.version(conn, version))
        with start.measured():
            return stage.drain(index)


if __name__ == "__main__":
    main()
