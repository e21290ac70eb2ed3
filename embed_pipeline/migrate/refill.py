"""A version whose place is gone or was emptied is made again and filled again: within its budget, and after saying what that costs.

A version that no search asks (building, ready) is filled from history like a new one. One that serves, or is kept for a rollback, gets all
documents queued: nothing may be inserted past its queue, or a deleted document could show up in an answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import psycopg

from embed_pipeline.accounts.cost import Cost, cost_of
from embed_pipeline.accounts.terms import Terms
from embed_pipeline.catalog import versions
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import census, queue
from embed_pipeline.errors import EmbedPipelineError
from embed_pipeline.flow import speed
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import dual_write, standing
from embed_pipeline.migrate.standing import queries
from embed_pipeline.postgres.session import Line, Waiting, only_run
from embed_pipeline.signals import signal
from embed_pipeline.stores import registry

# No search asks a version in one of these states.
UNSEARCHED = ("building", "ready")


@dataclass(frozen=True)
class Again:
    """A version that is made again, and what it takes to fill it.

    `by_queue`: all documents are queued for its dual-write. `seconds`: of the embedder alone, one call at a time; None without documents.
    """

    index: str
    version: str
    reason: str
    documents: int
    by_queue: bool
    cost: Cost | None
    seconds: float | None

    @property
    def sentence(self) -> str:
        """What a person reads before it is begun."""
        found = f"{self.documents:,} documents to embed"
        if self.seconds is not None:
            found += f", about {self.seconds:,.1f} s of its model alone"
        if self.cost is not None:
            found += f", about {self.cost.tokens:,} tokens"
            found += "" if self.cost.usd is None else f", about {self.cost.usd:.4f} USD"
            found += (
                ""
                if self.cost.budget is None
                else f" (the budget of the version is {self.cost.budget:g}, and what was spent counts)"
            )
        return f"The vectors of {self.index}.{self.version} are gone ({self.reason}). They are made again: {found}."


def make_again(index: OpenIndex, name: str, say: Callable[[Again], None]) -> Again | None:
    """Make the place of a version whose vectors are gone again, for who fills it next; None where they are there. Embeds up to 64 documents
    to say what it takes. `say` hears it before anything is made, and stops it by raising.
    """

    def work(conn: psycopg.Connection) -> Again | None:
        version = index.version(conn, name)
        reason = standing.gone(conn, index, version) if version.is_live else ""
        if not reason:
            return None
        documents, text_bytes = census.measure(conn, index.source)
        sample = speed.measure(speed.texts(conn, index.source), index.embedder(name))
        declared = index.spec.version(name)
        found = Again(
            index=index.name,
            version=name,
            reason=reason,
            documents=documents,
            by_queue=version.state not in UNSEARCHED,
            cost=cost_of(index.spec, declared, Terms.declared(index.spec).price(declared), sample.billed, documents, text_bytes),
            seconds=None if sample.speed is None else sample.speed.seconds(documents)[0],
        )
        say(found)
        _make(conn, index, version, found)
        return found

    only_maker = only_run(
        f"embed_pipeline.refill.{index.name}.{name}",
        f"{index.name}.{name} is being made again by another run.",
        next_step=f"Run: embed-pipeline status {index.name}",
    )
    with Line(index, taken=only_maker) as line:
        return line.repeat(work)


def _make(conn: psycopg.Connection, index: OpenIndex, version: Version, found: Again) -> None:
    store = index.store(version)
    if found.by_queue:
        # First: who dies behind this finds it gone still, and does it again.
        for ids in census.ids(conn, index.source):
            queue.enqueue(conn, index.name, version.name, ids)
    signal("refill.queued")
    is_there = not store.gone(conn)
    store.prepare(conn)
    names = {"index": index.name, "version": version.name}
    with conn.transaction():
        if not is_there:
            store.create(conn)
        if not found.by_queue:
            conn.execute(queries("reopen"), names)
        conn.execute(queries("forget_comparison"), names)
        registry.refresh_views(conn)
        versions.record_event(conn, index.name, "make again", version=version.name, reason=found.reason)


def work_off(index: OpenIndex, name: str, waiting: Waiting | None = None) -> None:
    """Embed what was queued for a version that is searched. Raises what stops it: its provider, its budget."""
    with Line(index, waiting) as line:
        mark = line.repeat(dual_write.distributor(index).take_mark)
        version = line.repeat(lambda conn: index.version(conn, name))
        left = dual_write.Work(line, index, version, dual_write.VersionSync(name)).until(mark, None)
    if left:
        raise EmbedPipelineError(
            f"{left} documents of {index.name}.{name} wait, and none of them was done for {dual_write.STALL_SECONDS:.0f} s.",
            next_step=f"Run: embed-pipeline sync {index.name}",
        )
