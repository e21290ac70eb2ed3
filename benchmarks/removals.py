"""Search while removals wait: none, one, many; many that are worked off under an old snapshot; a TRUNCATE that nobody has looked at.

    python -m benchmarks.removals [--documents 20000] [--removed 10000] [--truncated 20000] [--rounds 3] [--full]

No worker runs but for the one that works off the fourth case, while another session's REPEATABLE READ transaction is open. Each case is a
copy of one database, and a query is asked of each in turn.
Queries are texts of documents, of those that are removed too.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median

import psycopg

from benchmarks import stage, table
from benchmarks.stage import Stage
from embed_pipeline.migrate.opening import opened
from embed_pipeline.search import QueryVector, Searcher

NONE, ONE, MANY, OLD, TRUNCATED = "none", "one waits", "many wait", "many worked off, old snapshot open", "TRUNCATE waits"
K = 10


@dataclass
class Found:
    """What one case answered: milliseconds of each round, hits of a query, and those among them whose document is gone."""

    rounds: list[float]
    first_ms: float
    hits: float
    gone: int


def main() -> None:
    wanted = stage.options(
        __doc__,
        documents=(20_000, 200_000),
        removed=(10_000, 100_000),
        truncated=(20_000, 1_000_000),
        length=(55, 1_000),
        queries=(100, 500),
        rounds=(3, 5),
    )
    with stage.running({"shared_buffers": "2GB", "max_wal_size": "8GB"}) as running, ExitStack() as open_ones:
        filled = {count: _filled(running, count, wanted.length) for count in sorted({wanted.documents, wanted.truncated})}
        urls = {}
        for case in (NONE, ONE, MANY, OLD, TRUNCATED):
            template = filled[wanted.truncated if case == TRUNCATED else wanted.documents]
            urls[case] = open_ones.enter_context(_case(running, template, case, wanted.removed))
        found = _search(urls, wanted)
    table.heading(
        f"Search of {wanted.documents:,} vectors, {stage.DIMENSIONS}-d, {wanted.removed:,} of them removed where there are many, "
        f"TRUNCATE of {wanted.truncated:,}"
    )
    rows = []
    for case, each in found.items():
        ratio = table.spread(table.ratios(each.rounds, found[NONE].rounds))
        cells = (table.spread(each.rounds), ratio, table.number(each.first_ms), table.number(each.hits), str(each.gone))
        rows.append([case, *cells])
    table.write(["removals", "p50 ms", "of that with none", "first query ms", f"hits of {K}", "hits that are gone"], rows)


def _filled(running: Stage, documents: int, length: int) -> str:
    """A template whose one version is filled and indexed."""
    url = running.fresh(running.documents(documents, length))
    with opened(stage.declared(url, "v1")) as index:
        stage.fill(index, "v1")
    return running.template(url)


@contextmanager
def _case(running: Stage, filled: str, case: str, removed: int) -> Iterator[str]:
    """The URL of a copy in which the case is prepared."""
    url = running.fresh(filled)
    with ExitStack() as until_then:
        if case == OLD:
            until_then.enter_context(_old_snapshot(url))
        with stage.connected(url) as conn:
            if case == TRUNCATED:
                conn.execute("TRUNCATE documents")
            elif case != NONE:
                conn.execute("DELETE FROM documents WHERE id <= %s", (1 if case == ONE else removed,))
        if case == OLD:
            with opened(stage.declared(url, "v1"), register_new=False) as index:
                stage.drain(index)
        yield url


@contextmanager
def _old_snapshot(url: str) -> Iterator[None]:
    with psycopg.connect(url) as conn:
        conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        conn.execute("SELECT count(*) FROM documents")
        yield
        conn.rollback()


def _search(urls: Mapping[str, str], wanted: argparse.Namespace) -> dict[str, Found]:
    """Every query of every case in turn."""
    with ExitStack() as open_ones:
        searchers = {case: open_ones.enter_context(Searcher("bench", url)) for case, url in urls.items()}
        found = {case: Found([], 0.0, 0.0, 0) for case in urls}
        present = {case: _present(url) for case, url in urls.items()}
        queries = _queries(searchers[NONE], urls[NONE], wanted)
        for case, searcher in searchers.items():
            found[case].first_ms = _ask(searcher, queries[0])[0]
        for _ in range(wanted.rounds):
            times: dict[str, list[float]] = defaultdict(list)
            hits: dict[str, list[str]] = defaultdict(list)
            for query in queries:
                for case, searcher in searchers.items():
                    milliseconds, ids = _ask(searcher, query)
                    times[case].append(milliseconds)
                    hits[case] += ids
            for case, each in found.items():
                each.rounds.append(median(times[case]))
                each.hits, each.gone = len(hits[case]) / len(queries), sum(doc_id not in present[case] for doc_id in hits[case])
        return found


def _ask(searcher: Searcher, query: QueryVector) -> tuple[float, list[str]]:
    started = time.monotonic()
    answer = searcher.search_vector(query, K)
    return 1_000 * (time.monotonic() - started), [hit.doc_id for hit in answer.hits]


def _present(url: str) -> set[str]:
    with stage.connected(url) as conn:
        return {str(key) for (key,) in conn.execute("SELECT id FROM documents")}


def _queries(searcher: Searcher, url: str, wanted: argparse.Namespace) -> list[QueryVector]:
    """Texts of documents all over the table, the removed ones too."""
    with stage.connected(url) as conn:
        step = max(wanted.documents // wanted.queries, 1)
        rows = conn.execute("SELECT body FROM documents WHERE id %% %s = 1 %% %s ORDER BY id", (step, step)).fetchall()
        return [searcher.embed(body, "v1") for (body,) in rows[: wanted.queries]]


if __name__ == "__main__":
    main()
