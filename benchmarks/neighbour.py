"""What an application feels of us: its transactions of all kinds beside a backfill, two watching workers and a cutover every few seconds.

    python -m benchmarks.neighbour [--transactions 1000] [--documents 2000] [--rounds 2] [--full]

Two tables with the same rows take the same kinds of writes all the time. An index watches one of them: the one whose writer is timed, or
its twin. So our workers are as busy in both, and what differs is what they and our triggers do to the application's own table. Rounds of
the two kinds take turns. What fails, or finds a row locked that no other writer of the application touches, is counted.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from benchmarks import stage, table
from benchmarks.cutover import judged, write_holdout
from benchmarks.stage import Stage
from benchmarks.workers import Start, Worker, beside
from embed_pipeline.errors import CutoverRefused, EmbedPipelineError
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import cutover, follow_changes, gate, retire
from embed_pipeline.migrate.opening import opened

TIMED, TWIN = "documents", "twin"
WATCHERS = 2
MOVE_SECONDS = 3.0
# Of a writer's own pause between two transactions, so that both tables are written at a rate that no machine sets.
PAUSE_SECONDS = 0.008
# Of so many transactions one truncates the table, and puts its rows back.
TRUNCATE_EVERY = 250
QUERIES = 20

# By kind of transaction: milliseconds of each.
Times = dict[str, list[float]]


@dataclass
class Felt:
    """What one writer measured: milliseconds by kind, and what failed because of somebody else."""

    times: Times = field(default_factory=lambda: defaultdict(list))
    failed: Counter[str] = field(default_factory=Counter)

    def add(self, other: Felt) -> None:
        for kind, values in other.times.items():
            self.times[kind] += values
        self.failed += other.failed


def main() -> None:
    wanted = stage.options(__doc__, transactions=(1_000, 10_000), documents=(2_000, 5_000), length=(1_000, 1_000), rounds=(2, 3))
    felt: dict[str, Felt] = {TIMED: Felt(), TWIN: Felt()}
    moves = Counter[str]()
    with stage.running({"max_wal_size": "8GB"}) as running:
        template = _template(running, wanted)
        for _ in range(wanted.rounds):
            for watched in (TWIN, TIMED):
                url = running.fresh(template)
                felt[watched].add(_round(running, url, watched, wanted, moves))
                running.forget(url)
    table.heading(
        f"{wanted.rounds} rounds of {wanted.transactions:,} transactions beside two watching workers, backfills and cutovers, "
        f"{wanted.documents:,} documents of {wanted.length:,} B"
    )
    _show(felt, moves)


def _template(running: Stage, wanted: argparse.Namespace) -> str:
    """Both tables; the twin has the same rows."""
    url = running.fresh(running.documents(wanted.documents, wanted.length))
    with stage.connected(url) as conn:
        conn.execute("CREATE TABLE twin (LIKE documents INCLUDING ALL)")
        conn.execute("INSERT INTO twin SELECT * FROM documents")
        conn.execute("VACUUM ANALYZE twin")
    return running.template(url)


def _round(running: Stage, url: str, watched: str, wanted: argparse.Namespace, moves: Counter[str]) -> Felt:
    """The timed writer's figures, with an index over `watched`."""
    # What is judged is not deleted: a gate refuses judgements of documents that are gone.
    holdout = write_holdout(running.folder / "holdout.jsonl", url, QUERIES, above=wanted.documents - QUERIES)
    fields = {"table": watched, **judged(holdout)}
    with opened(stage.declared(url, "v1", "v2", **fields)) as index:
        stage.fill(index, "v1")
        stage.serve(index, "v1")
        stage.fill(index, "v2")
    with ExitStack() as stack:
        for _ in range(WATCHERS):
            stack.enter_context(beside(watch, url, fields))
        mover, filler = Worker(move, (url, fields)), Worker(fill_again, (url, fields))
        other = stack.enter_context(beside(write, url, TWIN, wanted, 0))
        timed = Worker(write, (url, TIMED, wanted, wanted.transactions))
        for worker in (mover, filler, timed):
            worker.ready()
        for worker in (mover, filler, timed):
            worker.go()
        _, felt = timed.result()
        for worker in (mover, filler):
            worker.ask()
            moves.update(worker.result()[1])
        del other
    assert isinstance(felt, Felt)
    return felt


def watch(start: Start, url: str, fields: dict[str, Any]) -> None:
    """A worker that watches until it is stopped."""
    with opened(stage.declared(url, "v1", "v2", **fields), register_new=False) as index, start.measured():
        follow_changes.follow_changes(index, start.stopped(), lambda _: None)


def move(start: Start, url: str, fields: dict[str, Any]) -> Counter[str]:
    """Cut over and roll back until told to stop; what was refused is counted under its kind."""
    done = Counter[str]()
    with opened(stage.declared(url, "v1", "v2", **fields), register_new=False) as index, start.measured():
        stop = start.stopped()
        while not stop.wait(MOVE_SECONDS):
            try:
                gate.run(index, "v2")
                cutover.cutover(index, "v2")
                done["cutovers"] += 1
                stop.wait(MOVE_SECONDS)
                cutover.rollback(index)
                done["rollbacks"] += 1
            except EmbedPipelineError as error:
                done[f"refused: {type(error).__name__}"] += 1
    return done


def fill_again(start: Start, url: str, fields: dict[str, Any]) -> Counter[str]:
    """Register a version, fill it, retire it, and again."""
    done = Counter[str]()
    with start.measured():
        stop, number = start.stopped(), 3
        while not stop.is_set():
            name = f"v{number}"
            with opened(stage.declared(url, "v1", "v2", name, **fields)) as index:
                stage.fill(index, name, ann=False)
                while not _retired(index, name):
                    time.sleep(0.1)
            done["backfills"] += 1
            number += 1
    return done


def _retired(index: OpenIndex, name: str) -> bool:
    try:
        retire.retire(index, name, name)
    except CutoverRefused:  # One move at a time.
        return False
    return True


def write(start: Start, url: str, name: str, wanted: argparse.Namespace, transactions: int) -> Felt:
    """So many transactions on the table `name`, or, with none, until the process is ended. Nobody else of the application writes it."""
    writer = Writer(url, name, wanted)
    with start.measured():
        done = 0
        while not transactions or done < transactions:
            done += 1
            writer.one(done)
            time.sleep(PAUSE_SECONDS)
    return writer.felt


class Writer:
    """The application: one connection, every kind of transaction, on a table that no other writer touches."""

    def __init__(self, url: str, name: str, wanted: argparse.Namespace) -> None:
        self._conn: psycopg.Connection[Any] = stage.connected(url)
        self._documents = sql.Identifier(name)
        self._count, self._length = wanted.documents, wanted.length
        self._drawn = random.Random(7)
        self.felt = Felt()
        self._kinds: dict[str, Callable[[int], None]] = {
            "UPDATE": self._update,
            "DELETE": self._delete,
            "INSERT": self._insert,
            "UPDATE after FOR UPDATE NOWAIT": self._nowait,
            "UPDATE, lock_timeout 50 ms": self._hurried,
            "SKIP LOCKED": self._skip,
        }

    def one(self, number: int) -> None:
        """One transaction, timed; what fails is counted."""
        kind = "TRUNCATE, lock_timeout 50 ms" if number % TRUNCATE_EVERY == 0 else list(self._kinds)[number % len(self._kinds)]
        work = self._truncate if number % TRUNCATE_EVERY == 0 else self._kinds[kind]
        started = time.monotonic()
        try:
            with self._conn.transaction():
                work(number)
        except (psycopg.Error, PassedOver) as error:
            said = error.sqlstate if isinstance(error, psycopg.Error) else "rows passed over"
            self.felt.failed[f"{kind}: {said}"] += 1
        else:
            self.felt.times[kind].append(1_000 * (time.monotonic() - started))

    def _run(self, statement: str, *values: Any) -> psycopg.Cursor[Any]:
        return self._conn.execute(sql.SQL(statement).format(t=self._documents), values)  # type: ignore[arg-type]

    def _text(self, number: int) -> str:
        return f"edit {number} ".ljust(self._length, "x")

    def _key(self) -> int:
        return self._drawn.randint(1, self._count - QUERIES)

    def _update(self, number: int) -> None:
        self._run("UPDATE {t} SET body = %s WHERE id = %s", self._text(number), self._key())

    def _delete(self, number: int) -> None:
        self._run("DELETE FROM {t} WHERE id = %s", self._key())

    def _insert(self, number: int) -> None:
        self._run("INSERT INTO {t} VALUES (%s, %s) ON CONFLICT DO NOTHING", self._key(), self._text(number))

    def _nowait(self, number: int) -> None:
        key = self._key()
        self._run("SELECT FROM {t} WHERE id = %s FOR UPDATE NOWAIT", key)
        self._run("UPDATE {t} SET body = %s WHERE id = %s", self._text(number), key)

    def _hurried(self, number: int) -> None:
        self._conn.execute("SET LOCAL lock_timeout = '50ms'")
        self._update(number)

    def _skip(self, number: int) -> None:
        first = self._key()
        there = self._run("SELECT count(*) FROM {t} WHERE id BETWEEN %s AND %s", first, first + 20).fetchone()
        free = self._run("SELECT id FROM {t} WHERE id BETWEEN %s AND %s FOR UPDATE SKIP LOCKED", first, first + 20).fetchall()
        if there is None or len(free) != there[0]:
            raise PassedOver

    def _truncate(self, number: int) -> None:
        self._conn.execute("SET LOCAL lock_timeout = '50ms'")
        self._run("CREATE TEMP TABLE kept ON COMMIT DROP AS SELECT * FROM {t}")
        self._run("TRUNCATE {t}")
        self._run("INSERT INTO {t} SELECT * FROM kept")


class PassedOver(Exception):
    """A reader that skips what is locked saw fewer rows than there are."""


def _show(felt: dict[str, Felt], moves: Counter[str]) -> None:
    rows = []
    for kind in felt[TIMED].times:
        with_us, without = felt[TIMED].times[kind], felt[TWIN].times[kind]
        cells = [[table.number(table.percentile(times, share)) for share in (0.5, 0.99, 1.0)] for times in (with_us, without)]
        ratio = table.percentile(with_us, 0.99) / table.percentile(without, 0.99)
        rows.append([kind, f"{len(with_us):,}", *cells[0], *cells[1], table.number(ratio)])
    columns = ["", "transactions", "p50 ms", "p99", "longest", "twin watched: p50 ms", "p99", "longest", "p99 against twin"]
    table.write(columns, rows)
    for name, which in (("the table itself", TIMED), ("its twin", TWIN)):
        failed = dict(felt[which].failed) or "none"
        print(f"Failed or passed over with an index over {name}: {failed}")
    print(f"Beside them: {', '.join(f'{count} {what}' for what, count in sorted(moves.items()))}")


if __name__ == "__main__":
    main()
