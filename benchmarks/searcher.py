"""`Searcher.search_vector` against the same search in bare SQL: how long one takes, and how many four threads get done.

    python -m benchmarks.searcher [--documents 20000] [--queries 300] [--seconds 2] [--rounds 3] [--full]

Bare is the same statement on a connection of one's own, prepared, binary: once with its settings made for the session, which is as fast as
it can be, and once with them made for each search, in one pipeline, as a connection that is shared with others needs them.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from statistics import median
from typing import Any

import psycopg
from pgvector import Vector
from psycopg import sql

from benchmarks import stage, table, tables
from benchmarks.meter import Watch
from embed_pipeline.migrate.opening import opened
from embed_pipeline.search import QueryVector, Searcher

K, EF_SEARCH, THREADS = 10, 100, 4
OURS, SESSION, EACH = "search_vector", "bare SQL, settings for the session", "bare SQL, settings for each search"
STATEMENT = (
    "SELECT doc_id, chunk, embedding <=> %(query)b::vector AS distance FROM {} ORDER BY embedding <=> %(query)b::vector LIMIT {}"
)

Search = Callable[[QueryVector], Any]


def main() -> None:
    wanted = stage.options(
        __doc__, documents=(20_000, 100_000), length=(55, 1_000), queries=(300, 2_000), seconds=(2.0, 10.0), rounds=(3, 5)
    )
    with stage.running({"shared_buffers": "1GB", "max_wal_size": "8GB"}) as running, ExitStack() as open_ones:
        url = running.fresh(running.documents(wanted.documents, wanted.length))
        with opened(stage.declared(url, "v1")) as index:
            stage.fill(index, "v1")
            with index.connection() as conn:
                searched = tables.vectors(index.version(conn, "v1"))
        searcher = open_ones.enter_context(Searcher("bench", url))
        statement = sql.SQL(STATEMENT).format(searched, sql.Literal(K))
        queries = [searcher.embed(f"query {number}", "v1") for number in range(wanted.queries)]
        made: Mapping[str, Callable[[], Search]] = {
            OURS: lambda: lambda query: searcher.search_vector(query, K),
            SESSION: lambda: _bare(open_ones.enter_context(stage.connected(url)), statement, each=False),
            EACH: lambda: _bare(open_ones.enter_context(stage.connected(url)), statement, each=True),
        }
        _one(made, queries, wanted)
        _many(made, queries, wanted, running.postmaster)


def _bare(conn: psycopg.Connection[Any], statement: sql.Composed, *, each: bool) -> Search:
    conn.prepare_threshold = 0
    text = statement.as_bytes(conn)

    def settings(local: bool) -> None:
        names = {
            "hnsw.ef_search": str(EF_SEARCH),
            "hnsw.iterative_scan": "strict_order",
            "enable_indexscan": "on",
            "enable_seqscan": "on",
        }
        chosen = ", ".join("set_config(%s, %s, %s)" for _ in names)
        conn.execute(f"SELECT {chosen}", [part for name, value in names.items() for part in (name, value, local)])

    def search_each(query: QueryVector) -> Any:
        with conn.pipeline():
            settings(True)
            return conn.execute(text, {"query": Vector(query.values)}, binary=True).fetchall()

    settings(False)
    if each:
        return search_each
    return lambda query: conn.execute(text, {"query": Vector(query.values)}, binary=True).fetchall()


def _one(made: Mapping[str, Callable[[], Search]], queries: Sequence[QueryVector], wanted: argparse.Namespace) -> None:
    """One query of each in turn, each as often the first: who comes after a long one has its share of a busy machine used up."""
    searches = {name: make() for name, make in made.items()}
    names = list(searches)
    found: dict[str, list[float]] = defaultdict(list)
    for number in range(wanted.rounds + 1):
        times: dict[str, list[float]] = defaultdict(list)
        for place, query in enumerate(queries):
            first = place % len(names)
            for name in [*names[first:], *names[:first]]:
                started = time.monotonic()
                searches[name](query)
                times[name].append(1_000 * (time.monotonic() - started))
        if number:  # The round before warms up.
            for name in searches:
                found[name].append(median(times[name]))
    table.heading(
        f"One search of {wanted.documents:,} vectors, {stage.DIMENSIONS}-d, {wanted.rounds} rounds of {len(queries):,} queries"
    )
    rows = [[name, table.spread(found[name]), table.spread(table.ratios(found[OURS], found[name]))] for name in searches]
    table.write(["", "p50 ms", f"{OURS} against it"], rows)


def _many(
    made: Mapping[str, Callable[[], Search]], queries: Sequence[QueryVector], wanted: argparse.Namespace, postmaster: int
) -> None:
    """Threads that search for some seconds, each bare one on a connection of its own."""
    searches = {name: [make() for _ in range(THREADS)] for name, make in made.items()}
    rates: dict[str, list[float]] = defaultdict(list)
    cpu: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for number in range(wanted.rounds):
        names = list(searches)
        for name in [*names[number % len(names) :], *names[: number % len(names)]]:
            with Watch(postmaster) as watch:
                done = _threads(searches[name], queries, wanted.seconds)
            rates[name].append(done / watch.cost.seconds)
            cpu[name].append((1e6 * watch.cost.client / done, 1e6 * watch.cost.server / done))
    table.heading(f"{THREADS} threads for {wanted.seconds:g} s, {wanted.rounds} rounds")
    rows = []
    for name in searches:
        shares = table.ratios(rates[OURS], rates[name])
        rows.append([name, *map(table.spread, (rates[name], shares, *zip(*cpu[name], strict=True)))])
    table.write(["", "searches/s", f"{OURS} against it", "client CPU us", "server CPU us"], rows)


def _threads(searches: Sequence[Search], queries: Sequence[QueryVector], seconds: float) -> int:
    counts = [0] * len(searches)
    end = time.monotonic() + seconds

    def run(number: int) -> None:
        while time.monotonic() < end:
            searches[number](queries[(number * 97 + counts[number]) % len(queries)])
            counts[number] += 1

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(searches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts)


if __name__ == "__main__":
    main()
