"""What several processes get out of one account's limits: never more in any minute, and how much of it while there is work.

    python -m benchmarks.limits [--seconds 180] [--processes 3] [--requests 600] [--tokens 60000]

Each process embeds all the time through the official library, with many calls at once. The server of the provider tests keeps the
times of arrival; it is the one that judges.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from embed_pipeline.accounts.meter import RateLimiter
from embed_pipeline.accounts.terms import Terms
from embed_pipeline.catalog import schema
from embed_pipeline.embedders.checked import VersionEmbedder
from embed_pipeline.embedders.protocol import Urgency
from embed_pipeline.postgres import embedded
from embed_pipeline.postgres.connection import connect
from embed_pipeline.spec import AccountSpec, VersionSpec
from tests.harness.providers.loopback import Process

THREADS = 8
TEXT = "how a text becomes a vector of numbers"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--requests", type=int, default=600)
    parser.add_argument("--tokens", type=int, default=60_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "server"
        url = embedded.ensure_running(home).url("postgres")
        provider = Process()
        try:
            with connect(url, autocommit=True) as conn:
                conn.execute("CREATE EXTENSION IF NOT EXISTS vector")
                schema.ensure(conn, url)
            provider.keys("openai", None)
            provider.limit("openai", requests_per_minute=10 * arguments.requests, tokens_per_minute=10 * arguments.tokens)
            _run(url, provider, arguments)
        finally:
            provider.stop()
            embedded.stop(home)


def _run(url: str, provider: Process, arguments: argparse.Namespace) -> None:
    limits = {"requests_per_minute": arguments.requests, "tokens_per_minute": arguments.tokens}
    context = multiprocessing.get_context("spawn")
    queries: Any = context.Queue()
    work = (url, provider.base_url("openai"), limits, arguments.seconds)
    children = [context.Process(target=_backfill, args=work) for _ in range(arguments.processes)]
    children.append(context.Process(target=_search, args=(*work, queries)))
    for child in children:
        child.start()
    waits = sorted(queries.get())
    for child in children:
        child.join()
    arrivals = [entry for entry in provider.arrivals() if entry["provider"] == "openai"]
    times = sorted(entry["at"] for entry in arrivals)
    # The first minute has no past to keep to, and the last seconds have no work.
    begin, end = times[0] + 62, times[-1] - 2
    steady = [entry for entry in arrivals if begin <= entry["at"] < end]
    minutes = (end - begin) / 60
    most = provider.most_in_a_minute("openai")
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {arguments.processes} processes with {THREADS} calls at once, "
        f"{end - begin:.0f} s"
    )
    print("| | limit a minute | most in any 60 s | while there was work |")
    print("|---|---|---|---|")
    for name, limit, fullest, used in (
        ("requests", arguments.requests, most[0], len(steady)),
        ("tokens", arguments.tokens, most[1], sum(entry["tokens"] for entry in steady)),
    ):
        print(f"| {name} | {limit:,} | {fullest:,} | {used / minutes / limit:.1%} |")
    print(f"{len(waits)} queries beside it: median {1000 * waits[len(waits) // 2]:.0f} ms, longest {1000 * waits[-1]:.0f} ms")


def _embedder(url: str, base_url: str, limits: dict[str, int]) -> tuple[RateLimiter, VersionEmbedder]:
    fields = {"provider": "openai", "model_name": "text-embedding-3-small", "dimensions": 16, "base_url": base_url}
    version = VersionSpec.model_validate(fields)
    account = AccountSpec.model_validate(limits)
    limiter = RateLimiter(url)
    meter = limiter.meter("docs", "v1", version, Terms({"openai": account}, {}, None))
    return limiter, VersionEmbedder.open(version, account=account, meter=meter)


def _backfill(url: str, base_url: str, limits: dict[str, int], seconds: float) -> None:
    limiter, embedder = _embedder(url, base_url, limits)
    end = time.monotonic() + seconds

    def ask(_: int) -> None:
        while time.monotonic() < end:
            embedder.embed_documents([TEXT] * 2, Urgency.BACKFILL)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(ask, range(THREADS)))
    embedder.close()
    limiter.close()


def _search(url: str, base_url: str, limits: dict[str, int], seconds: float, queries: Any) -> None:
    """A query every two seconds: what it waits for is the meter and the provider."""
    limiter, embedder = _embedder(url, base_url, limits)
    end, waits = time.monotonic() + seconds, []
    while time.monotonic() < end:
        began = time.monotonic()
        embedder.embed_query("a query")
        waits.append(time.monotonic() - began)
        time.sleep(2)
    queries.put(waits)
    embedder.close()
    limiter.close()


if __name__ == "__main__":
    main()
