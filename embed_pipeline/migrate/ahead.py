"""Documents that a version embeds ahead of its backfill: through its queue, like any change, so that the backfill finds them done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg

from embed_pipeline.accounts.terms import Terms
from embed_pipeline.catalog import dead_letters
from embed_pipeline.documents import queue, slices
from embed_pipeline.errors import IllegalTransition
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import refill
from embed_pipeline.postgres.session import Waiting

# Documents whose texts and vectors are held in memory together.
AT_ONCE = 500


@dataclass(frozen=True)
class Ahead:
    """The documents that a version would have to embed of those asked for, and the expected cost.

    `todo`: those without the vector of their current text. `known`: how many of those asked for are documents at all. `tokens` and `usd` are
    None where nobody is paid; `usd` also where no price is known.
    """

    index: str
    version: str
    asked: int
    known: int
    todo: tuple[str, ...]
    text_bytes: int
    tokens: int | None
    usd: float | None
    budget: float | None

    @property
    def sentence(self) -> str:
        """The announcement before it begins."""
        if not self.todo:
            return f"{self.index}.{self.version} has all of the {self.known:,} documents already: nothing to embed."
        found = f"{self.index}.{self.version} will embed {len(self.todo):,} of {self.known:,} documents, {self.text_bytes:,} bytes of text"
        if self.tokens is not None:
            price = "at a price that is not known" if self.usd is None else f"about {self.usd:.4f} USD"
            budget = (
                "" if self.budget is None else f" (the budget of the version is {self.budget:g} USD, and what was spent counts)"
            )
            found += f", about {self.tokens:,} tokens, {price}{budget}"
        return f"{found}. They count as done for its backfill."


def look(conn: psycopg.Connection, index: OpenIndex, name: str, doc_ids: Sequence[str]) -> Ahead:
    """What of these documents `name` lacks. Embeds nothing. IllegalTransition for a retired version."""
    version = index.version(conn, name)
    if not version.is_live:
        raise IllegalTransition(
            f"Version {name!r} of index {index.name!r} is retired: nothing is embedded for it.",
            next_step="Declare a new version.",
        )
    embedder, store = index.embedder_of(version), index.store(version)
    ids = list(dict.fromkeys(doc_ids))
    letters = {each.doc_id: each.source_hash for each in dead_letters.first(conn, index.name, name, limit=queue.EVERYTHING)}
    todo: list[str] = []
    known = text_bytes = tokens = 0
    for start in range(0, len(ids), AT_ONCE):
        portion = ids[start : start + AT_ONCE]
        stored = store.stored_vectors(conn, portion)
        current = slices.read_current(conn, index.source, portion)
        known += len(current)
        wanted = [
            doc_id
            for doc_id in portion
            if doc_id in current
            and (doc_id not in stored or stored[doc_id].source_hash != current[doc_id][1])
            # Refused at this very text: it would be refused, and paid for, again.
            and letters.get(doc_id) != current[doc_id][1]
        ]
        texts = [current[doc_id][0] for doc_id in wanted]
        todo += wanted
        text_bytes += sum(len(text.encode()) for text in texts)
        tokens += sum(embedder.count(texts))
    price = Terms.declared(index.spec).price(version.declared)
    return Ahead(
        index=index.name,
        version=name,
        asked=len(ids),
        known=known,
        todo=tuple(todo),
        text_bytes=text_bytes,
        tokens=tokens if embedder.is_remote else None,
        usd=price.usd(tokens) if embedder.is_remote else None,
        budget=None if index.spec.budget is None or not embedder.is_remote else index.spec.budget.usd_per_version,
    )


def embed(index: OpenIndex, found: Ahead, waiting: Waiting | None = None) -> None:
    """Queue these documents and work the version's queue off, what else waits in it as well.

    Stopped at any moment it goes on where it was: what is done is not asked for again. Raises what stops it: its provider, its budget.
    """
    if not found.todo:
        return
    with index.connection() as conn:
        for start in range(0, len(found.todo), AT_ONCE):
            queue.enqueue(conn, index.name, found.version, found.todo[start : start + AT_ONCE])
    refill.work_off(index, found.version, waiting)
