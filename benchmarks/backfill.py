"""Backfill against the physical limit, in the same run on the same server.

    python -m benchmarks.backfill [--documents 20000 100000] [--lengths 1000 5] [--rounds 3] [--full]

Against a bare binary COPY of the same vectors, packed before, into a table with the same key; and against that COPY by processes that
read the same texts as well. One and two processes of each, each on a fresh database.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from benchmarks import packed, stage, table
from benchmarks.stage import Stage
from benchmarks.workers import Start, Together, together
from embed_pipeline.migrate import backfill
from embed_pipeline.migrate.opening import opened

Case = tuple[str, int]
COPY, READ, OURS = "bare COPY", "read texts + COPY", "backfill"
CASES: Sequence[Case] = [(what, workers) for what in (COPY, READ, OURS) for workers in (1, 2)]


def main() -> None:
    wanted = stage.options(
        __doc__, documents=((20_000,), (100_000, 400_000, 1_000_000)), lengths=((1_000, 5), (1_000, 5)), rounds=(3, 5)
    )
    with stage.running() as running:
        for length in wanted.lengths:
            rates: dict[int, list[float]] = {}
            for documents in wanted.documents:
                rates[documents] = _compare(running, documents, length, wanted)
            if len(rates) > 1:
                rows = [[f"{documents:,}", table.spread(rates[documents])] for documents in rates]
                table.heading(f"Backfill by 2 processes, texts of {length:,} B, by size")
                table.write(["documents", "rows/s"], rows)


def _compare(running: Stage, documents: int, length: int, wanted: argparse.Namespace) -> list[float]:
    """All cases in turn, round by round; the rates of the backfill by two processes."""
    template = running.documents(documents, length)
    url = running.fresh(template)
    pages = packed.prepare(url, running.folder / template, stage.DIMENSIONS)
    running.forget(url)
    table.heading(f"Backfill of {documents:,} texts of {length:,} B, {stage.DIMENSIONS}-d, {wanted.rounds} rounds")
    found: dict[Case, list[Together]] = defaultdict(list)
    for number in range(wanted.rounds):
        # Each round begins elsewhere: nobody always comes after the same one.
        for case in [*CASES[number % len(CASES) :], *CASES[: number % len(CASES)]]:
            found[case].append(_run(running, template, pages, *case))
    _write(found, documents)
    for page in pages.iterdir():
        page.unlink()
    return [documents / each.cost.seconds for each in found[OURS, 2]]


def _run(running: Stage, template: str, pages: Path, what: str, workers: int) -> Together:
    url = running.fresh(template)
    try:
        if what == OURS:
            with opened(stage.declared(url, "v1")):
                pass
            return together(running.postmaster, fill, [(url, part, workers) for part in range(workers)])
        with stage.connected(url) as conn:
            conn.execute(packed.CREATE)
        shares = [(url, pages, part, workers, what == READ) for part in range(workers)]
        return together(running.postmaster, packed.copy, shares)
    finally:
        running.forget(url)


def fill(start: Start, url: str, part: int, parts: int) -> None:
    """A worker's share of the partitions."""
    spec = stage.declared(url, "v1")
    with opened(spec, register_new=False) as index, start.measured():
        for key in spec.partition_keys()[part::parts]:
            backfill.fill_partition(index, "v1", key)


def _write(found: dict[Case, list[Together]], documents: int) -> None:
    columns = [
        "what",
        "processes",
        "rows/s",
        "wall us/row",
        "client CPU us/row",
        "server CPU us/row",
        "peak MB",
        "of that before",
    ]
    rows = []
    for what, workers in CASES:
        runs = found[what, workers]
        micro = [
            table.spread([1e6 * value / documents for value in values])
            for values in zip(*((run.cost.seconds, run.cost.client, run.cost.server) for run in runs), strict=True)
        ]
        memory = [table.number(max(run.peak_mb for run in runs)), table.number(max(run.base_mb for run in runs))]
        rows.append([what, str(workers), table.spread([documents / run.cost.seconds for run in runs]), *micro, *memory])
    table.write(columns, rows)
    shares = []
    for workers in (1, 2):
        speeds = {case: [1 / run.cost.seconds for run in found[case]] for case in CASES}
        against = [(COPY, 1), (COPY, workers), (READ, 1), (READ, workers)]
        shares.append([str(workers), *(table.spread(table.ratios(speeds[OURS, workers], speeds[case])) for case in against)])
    named = [f"of {COPY}, 1", f"of {COPY}, as many", f"of {READ}, 1", f"of {READ}, as many"]
    table.write(["backfill, processes", *named], shares)


if __name__ == "__main__":
    main()
