"""A ledger that has replaced another one (restored from a dump, moved to another server) makes that one's points its own.

Everything is compared first, and a loss in bulk is refused. What the other one has on its way may still arrive, and nothing can call that back:
so a doubt stays open until a full comparison that began later has passed.
"""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

from embed_pipeline.catalog import ledger, versions
from embed_pipeline.catalog.versions import Version
from embed_pipeline.errors import CatalogError, ConfigurationError
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import loss as loss_rule
from embed_pipeline.migrate import readers, standing, verify
from embed_pipeline.migrate.verify import Differing
from embed_pipeline.postgres.session import Line, only_run
from embed_pipeline.signals import signal
from embed_pipeline.stores.protocol import SharedStore


@dataclass(frozen=True)
class TakenOver:
    """The result of a take-over. `before`: version -> whose its points were; empty where all were this ledger's already.

    `queued`: documents that differ from the points, by version. `gone`: live versions without vectors; a backfill makes them again.
    """

    index: str
    before: dict[str, str]
    queued: dict[str, int]
    gone: tuple[str, ...]


def take_over(index: OpenIndex, confirm: str, accept_loss: int | None = None) -> TakenOver:
    """Make the points of every live version this ledger's. `index` is opened as not `ours`. LossRefused like a full comparison.

    Safe to repeat and to kill: what is another ledger's still is asked for again.
    """
    if confirm != index.name:
        raise ConfigurationError(
            f"The confirmation {confirm!r} does not name the index {index.name!r}; a ledger that works still can do so no more afterwards.",
            next_step=f"Run: embed-pipeline take-over {index.name} --confirm {index.name}",
        )
    alone = only_run(
        f"embed_pipeline.take_over.{index.name}",
        f"Index {index.name} is being taken over by another run.",
        next_step=f"Run: embed-pipeline status {index.name}",
    )
    with Line(index, taken=alone) as line:
        taken = line.repeat(lambda conn: _take_over(conn, index, accept_loss))
    if taken.before:
        readers.tell(index)
    return taken


def _take_over(conn: psycopg.Connection, index: OpenIndex, accept_loss: int | None) -> TakenOver:
    live = versions.live_versions(conn, index.name)
    if not live:
        raise CatalogError(
            f"No version of index {index.name!r} is registered in this database.",
            next_step="Restore the catalog (the schema embed_pipeline) with the documents, or declare store.adopt.",
        )
    gone = tuple(version.name for version in live if standing.gone(conn, index, version))
    others = _of_others(conn, index, [version for version in live if not index.store(version).gone(conn)])
    found = _compared(conn, index, [version for version, _ in others if version.name not in gone], accept_loss)
    if not others:
        return TakenOver(index.name, {}, {}, gone)
    signal("take_over.compared")
    before = {version.name: whose for version, whose in others}
    reason = "; ".join(f"the points of {name} were written by {whose} until now" for name, whose in before.items())
    with conn.transaction():
        # Before the points are this ledger's: a write of the other one may be on its way for as long as its requests take.
        ledger.doubt(conn, index.name, reason)
        here = ledger.become(conn)
        versions.record_event(conn, index.name, "take-over", reason=reason, detail=here.stamp(index.name))
    for version, _ in others:
        store = index.store(version)
        assert isinstance(store, SharedStore)
        store.claim(conn)
    return TakenOver(index.name, before, {each.version: each.queue(conn) for each in found}, gone)


def _of_others(conn: psycopg.Connection, index: OpenIndex, live: list[Version]) -> list[tuple[Version, str]]:
    """Versions whose points are not this ledger's, and whose they are."""
    found = []
    for version in live:
        store = index.store(version)
        whose = store.whose(conn) if isinstance(store, SharedStore) else None
        if whose is not None:
            found.append((version, whose))
    return found


def _compared(conn: psycopg.Connection, index: OpenIndex, others: list[Version], accept_loss: int | None) -> list[Differing]:
    found = [verify.compare_live(conn, index, version) for version in others]
    losses = [
        loss
        for version, each in zip(others, found, strict=True)
        if (loss := verify.too_much(conn, index, version, len(each.orphans), accept_loss)) is not None
    ]
    if losses:
        command = f"embed-pipeline take-over {index.name} --confirm {index.name}"
        raise loss_rule.refused(conn, index.spec, str(index.source), losses, command)
    return found
