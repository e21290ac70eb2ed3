"""A backfill by 1, 2 and 4 workers through a provider that takes 200 ms for each request.

    python -m benchmarks.fleet [--documents 12000] [--rounds 2] [--full]

Each worker is a process with calls of its own in flight, as a run on another machine has. The provider is the loopback one, in a process of
its own, on the same cores. What the server spends on a document is what in the end limits any number of workers.
"""

from __future__ import annotations

import os
from collections import defaultdict

from benchmarks import stage, table
from benchmarks.stage import Stage
from benchmarks.workers import Start, Together, together
from embed_pipeline.migrate import backfill
from embed_pipeline.migrate.opening import opened
from embed_pipeline.spec import IndexSpec
from tests.harness.providers.keys import KEYS, VARIABLES
from tests.harness.providers.loopback import Process

LATENCY_SECONDS, TEXTS_PER_CALL, CALLS = 0.2, 32, 4
WORKERS = (1, 2, 4)


def main() -> None:
    wanted = stage.options(__doc__, documents=((12_000,), (100_000,)), lengths=((500,), (500,)), rounds=(2, 3))
    provider = Process()
    os.environ[VARIABLES["openai"]] = KEYS["openai"]
    try:
        with stage.running() as running:
            for documents in wanted.documents:
                _compare(running, provider, documents, wanted.lengths[0], wanted.rounds)
    finally:
        provider.stop()


def _compare(running: Stage, provider: Process, documents: int, length: int, rounds: int) -> None:
    template = running.documents(documents, length)
    found: dict[int, list[Together]] = defaultdict(list)
    for number in range(rounds):
        for workers in [*WORKERS[number % len(WORKERS) :], *WORKERS[: number % len(WORKERS)]]:
            provider.reset()
            provider.set(latency=LATENCY_SECONDS)
            url = running.fresh(template)
            with opened(declared(url, provider.base_url("openai"))):
                pass
            shares = [(url, provider.base_url("openai"), part, workers) for part in range(workers)]
            found[workers].append(together(running.postmaster, fill, shares))
            running.forget(url)
    table.heading(
        f"Backfill of {documents:,} texts of {length} B, {stage.DIMENSIONS}-d, {TEXTS_PER_CALL} to a request, {CALLS} requests of each worker at "
        f"once, {1000 * LATENCY_SECONDS:g} ms each"
    )
    alone = [documents / each.cost.seconds for each in found[1]]
    rows = []
    for workers in WORKERS:
        rates = [documents / each.cost.seconds for each in found[workers]]
        rows.append(
            [
                str(workers),
                table.spread(rates),
                table.spread([rate / one for rate, one in zip(rates, alone, strict=True)]),
                f"{workers * CALLS * TEXTS_PER_CALL / LATENCY_SECONDS:,.0f}",
                table.spread([1e6 * each.cost.client / documents for each in found[workers]]),
                table.spread([1e6 * each.cost.server / documents for each in found[workers]]),
            ]
        )
    table.write(
        ["workers", "documents/s", "of one", "what the provider gives", "CPU of workers, us/document", "of the server"], rows
    )


def declared(url: str, base_url: str) -> IndexSpec:
    """A version of the provider."""
    version = {
        "provider": "openai",
        "model_name": "text-embedding-3-small",
        "dimensions": stage.DIMENSIONS,
        "base_url": base_url,
        "batch_size": TEXTS_PER_CALL,
        "max_in_flight": CALLS,
    }
    documents = {"table": "documents", "key": "id", "text": "body"}
    return IndexSpec.model_validate(
        {"name": "bench", "database_url": url, "documents": documents, "partitions": max(WORKERS), "versions": {"v1": version}}
    )


def fill(start: Start, url: str, base_url: str, part: int, parts: int) -> int:
    """One worker's partitions."""
    with opened(declared(url, base_url)) as index:
        mine = index.spec.partition_keys()[part::parts]
        with start.measured():
            return sum(backfill.fill_partition(index, "v1", key).written for key in mine)


if __name__ == "__main__":
    main()
