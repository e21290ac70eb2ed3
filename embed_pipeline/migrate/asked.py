"""Held-out queries asked of one version: by vectors that its model makes now, or by those that were kept when its model is gone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import psycopg

from embed_pipeline.catalog import holdout_vectors
from embed_pipeline.catalog.versions import Version
from embed_pipeline.embedders.protocol import Urgency, Vectors
from embed_pipeline.errors import EmbedPipelineError, HoldoutError
from embed_pipeline.evaluate.holdout import Holdout
from embed_pipeline.evaluate.measured import Measured, Searches, measure
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate.dual_write import CANNOT_EMBED


@dataclass(frozen=True)
class Asked:
    """The vectors of held-out queries in one version's space, by query id. `problem`: why its model did not make them; None where it did.

    `seconds`: how old the oldest kept one is.
    """

    vectors: dict[str, Vectors]
    problem: EmbedPipelineError | None = None
    seconds: float = 0.0


class Unasked(Exception):
    """A version's model does not answer, and not all of its vectors are kept: it cannot be measured."""

    def __init__(self, version: str, problem: EmbedPipelineError, kept: int, queries: int) -> None:
        super().__init__(version)
        self.version = version
        self.problem = problem
        self.kept = kept
        self.queries = queries

    @property
    def sentence(self) -> str:
        kept = (
            "no vectors of these queries are kept"
            if self.kept == 0
            else f"vectors of {self.kept} of {self.queries} queries are kept"
        )
        return f"the model of {self.version} does not answer ({self.problem.message.rstrip('.')}), and {kept}"


def by_model(conn: psycopg.Connection, index: OpenIndex, version: Version, holdout: Holdout) -> Asked:
    """What its model answers now, which is kept for the day when it answers no more."""
    ids = list(holdout.queries)
    answer = index.space(version).embedder.embed_queries([holdout.queries[query_id] for query_id in ids], Urgency.CHECK)
    if answer.rejected:
        position, reason = next(iter(answer.rejected.items()))
        raise HoldoutError(
            f"{len(answer.rejected)} held-out queries have no vector in {version.name}; first {ids[position]!r}: {reason}.",
            next_step="Remove them from the held-out set, or declare too_long: truncate.",
        )
    vectors = dict(zip(ids, answer.vectors, strict=True))
    by_text = {holdout.queries[query_id]: vector for query_id, vector in vectors.items()}
    holdout_vectors.keep(conn, index.name, version.name, holdout.sha256, by_text)
    return Asked(vectors)


def by_model_or_kept(conn: psycopg.Connection, index: OpenIndex, version: Version, holdout: Holdout) -> Asked:
    """The same of the version that serves; where its model does not answer, what it answered at the last gate. Unasked without that."""
    try:
        return by_model(conn, index, version, holdout)
    except CANNOT_EMBED as problem:
        kept = holdout_vectors.read(conn, index.name, version.name, holdout.queries.values())
        there = {query_id: kept.vectors[text] for query_id, text in holdout.queries.items() if text in kept.vectors}
        if len(there) < len(holdout.queries):
            raise Unasked(version.name, problem, len(there), len(holdout.queries)) from problem
        return Asked(there, problem, kept.seconds)


def answers(
    conn: psycopg.Connection, index: OpenIndex, version: Version, asked: Asked, depth: int, counted: Callable[[int], None]
) -> Measured:
    """What the version finds for them, through its index and exactly."""
    store = index.space(version).store
    search = Searches(
        ann=lambda vector: store.search(conn, vector, depth),
        exact=lambda vectors: store.search_exact(conn, vectors, depth),
        counted=counted,
    )
    return measure(version.name, asked.vectors, search, depth)
