"""What an application feels of a migration: the longest pause and the p99 of its transactions and searches, with and without one.

    python -m benchmarks.neighbour [--rounds 3] [--seconds 12] [--documents 3000]

The same load on the same server in one run; rounds with and without a migration take turns. The processes of the load and the verdict on
them are those of the fault campaign (tests/faults/campaign): it is the application that is measured, and it should be one and the same.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import defaultdict
from pathlib import Path

import psycopg
from psycopg import sql

from embed_pipeline.postgres import embedded
from tests.faults.campaign import records
from tests.faults.campaign.faults import STEPS
from tests.faults.campaign.load import Load
from tests.faults.campaign.scenario import Campaign

# A killed transaction, a cancelled one, a lock that was not to be had.
KILLED = ("40001", "40P01", "55P03", "57014")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--documents", type=int, default=3_000)
    parser.add_argument("--writers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=20)
    arguments = parser.parse_args()
    found: dict[tuple[str, str], list[records.Record]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "server"
        server = embedded.ensure_running(home)
        try:
            for number in range(arguments.rounds):
                for migrating in (False, True):
                    name = "with a migration" if migrating else "without"
                    place = Path(folder) / f"{number}-{migrating}"
                    for kind, logged in _round(server, place, number, migrating, arguments).items():
                        found[name, kind] += logged
        finally:
            embedded.stop(home)
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {arguments.rounds} rounds each, {arguments.documents} documents"
    )
    print("| | migration | operations | median ms | p99 ms | longest ms | killed |")
    print("|---|---|---|---|---|---|---|")
    for kind in ("writer", "reader"):
        for name in ("without", "with a migration"):
            print(_row(kind, name, found[name, kind]))


def _row(kind: str, name: str, logged: list[records.Record]) -> str:
    seen = records.pauses(logged)
    killed = sum(record.get("state") in KILLED for record in logged)
    milliseconds = " | ".join(f"{1000 * value:.1f}" for value in (seen.median, seen.p99, seen.longest))
    return f"| {kind}s | {name} | {seen.count} | {milliseconds} | {killed} |"


def _round(
    server: embedded.Server, place: Path, number: int, migrating: bool, arguments: argparse.Namespace
) -> dict[str, list[records.Record]]:
    """One round on a fresh database; v1 serves and is dual-written in both kinds."""
    name = f"round_{number}_{migrating}".lower()
    with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    run = Campaign(place, arguments.seed + number, Load(server.url(name), arguments.documents, arguments.writers))
    try:
        run.prepare()
        run.start_load()
        if migrating:
            run.versions = ["v1", "v2"]
            for step, version in STEPS:
                run.complete(step, version)
                run.pass_time(arguments.seconds / len(STEPS) / 2)
        else:
            run.pass_time(arguments.seconds)
        run.verdict()
        return {kind: run.logs(kind) for kind in ("writer", "reader")}
    finally:
        run.abandon()


if __name__ == "__main__":
    main()
