"""Refine: what is searched in one version's vectors is put in order by another version, as far as that one is filled."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

import psycopg

from embed_pipeline.adapt.place import places
from embed_pipeline.embedders.protocol import Vectors
from embed_pipeline.stores.protocol import Hit, VersionStore


@dataclass(frozen=True)
class Refined:
    """Hits in their places. `placed`: the documents among them whose place the refining version has given. `note`: why it gave none."""

    hits: Sequence[Hit]
    placed: frozenset[str] = frozenset()
    note: str = ""


def put_in_order(
    conn: psycopg.Connection,
    store: VersionStore,
    query: Vectors,
    hits: Sequence[Hit],
    k: int,
    depth: int,
    among: Callable[[Sequence[str]], Set[str]] | None = None,
) -> Refined:
    """The first `k` of a list whose first `depth` places are put in order by the version of `store`; `query` is in its space.

    The list is read first and the distances afterwards. A document that is written in between is compared as it is now; one whose change
    is still to come is left where it is, since its vector here may be of an older text than the list's. `among`: which documents of a list
    may be moved at all; None: all.
    """
    ids = [hit.doc_id for hit in hits[:depth]]
    may_move = ids if among is None else sorted(among(ids))
    distances = store.distances(conn, query, may_move)
    order = [*places(ids, distances), *range(len(ids), len(hits))][:k]
    shown = [hits[position] for position in order]
    return Refined(shown, frozenset(hit.doc_id for hit in shown if hit.doc_id in distances))
