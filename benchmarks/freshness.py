"""From the commit of an edit until both versions find it, with a watching worker in a process of its own.

    python -m benchmarks.freshness [--documents 2000] [--edits 60] [--full]

A searcher asks again and again for the new text's vector in each version; an edit is there when its document comes first, at distance 0.
"""

from __future__ import annotations

import argparse
import random
import time

from benchmarks import stage, table
from benchmarks.workers import Start, beside
from embed_pipeline.migrate import follow_changes
from embed_pipeline.migrate.opening import opened
from embed_pipeline.search import Searcher

VERSIONS = ("v1", "v2")
# Between two looks; the searches of a look take about as long.
PAUSE_SECONDS = 0.001
DEADLINE_SECONDS = 60.0
SAME = 1e-4


def main() -> None:
    wanted = stage.options(__doc__, documents=(2_000, 100_000), edits=(60, 300), length=(1_000, 1_000))
    with stage.running() as running:
        url = running.fresh(running.documents(wanted.documents, wanted.length))
        with opened(stage.declared(url, *VERSIONS)) as index:
            for version in VERSIONS:
                stage.fill(index, version)
        with beside(watch, url), Searcher("bench", url) as searcher:
            time.sleep(1)
            found = _edit(url, searcher, wanted)
    table.heading(f"Commit to searchable in {len(VERSIONS)} versions, {wanted.documents:,} documents of {wanted.length:,} B")
    shares = {"p50": 0.5, "p95": 0.95}
    row = [
        f"{wanted.edits:,}",
        *(table.number(table.percentile(found, share)) for share in shares.values()),
        table.number(max(found)),
    ]
    table.write(["edits", *(f"{name} ms" for name in shares), "longest ms"], [row])


def watch(start: Start, url: str) -> None:
    """A worker that watches until it is stopped."""
    with opened(stage.declared(url, *VERSIONS), register_new=False) as index, start.measured():
        follow_changes.follow_changes(index, start.stopped(), lambda _: None)


def _edit(url: str, searcher: Searcher, wanted: argparse.Namespace) -> list[float]:
    """Milliseconds of each edit, one after another, at no fixed distance from the worker's looks."""
    drawn, found = random.Random(7), []
    with stage.connected(url) as conn:
        for number in range(wanted.edits):
            key, text = drawn.randint(1, wanted.documents), f"edit {number} of the benchmark"
            queries = [searcher.embed(text, version) for version in VERSIONS]
            conn.execute("UPDATE documents SET body = %s WHERE id = %s", (text, key))
            committed = time.monotonic()
            while queries:
                hits = searcher.search_vector(queries[0], 1).hits
                if hits and hits[0].doc_id == str(key) and hits[0].distance < SAME:
                    queries.pop(0)
                elif time.monotonic() - committed > DEADLINE_SECONDS:
                    raise SystemExit(f"Edit {number} is not found after {DEADLINE_SECONDS:.0f} s.")
                else:
                    time.sleep(PAUSE_SECONDS)
            found.append(1_000 * (time.monotonic() - committed))
            time.sleep(drawn.uniform(0.02, 0.25))
    return found


if __name__ == "__main__":
    main()
