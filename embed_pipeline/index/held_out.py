"""The held-out set of an index beside its documents: what it can prove here, before anything is judged."""

from __future__ import annotations

import random

import psycopg

from embed_pipeline.documents import census, slices
from embed_pipeline.errors import HoldoutError
from embed_pipeline.evaluate import examine, metrics, synthetic
from embed_pipeline.evaluate.examine import Examined, World
from embed_pipeline.evaluate.holdout import Holdout, load_holdout
from embed_pipeline.evaluate.made import MadeSet
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.spec import IndexSpec

# Of so many ids that are no document it is looked what else they could be.
LOOKED_UP = 1_000
# For each query so many documents are looked at: some begin with nothing that could be asked.
DRAWN = 3


def declared(index: OpenIndex) -> Holdout | None:
    """The held-out set as its file has it; None where none is declared."""
    return of(index.spec)


def of(spec: IndexSpec) -> Holdout | None:
    """The same of a declaration, with the columns that its gate makes slices of."""
    return None if spec.holdout is None else load_holdout(spec.holdout.path, tuple(spec.gate.slices))


def examined(conn: psycopg.Connection, index: OpenIndex, holdout: Holdout, documents: int | None = None) -> Examined:
    """Look at the set. `documents`: how many there are, where that was counted already."""
    assert index.spec.holdout is not None
    judged = sorted(holdout.document_ids())
    texts = {doc_id: text for doc_id, (text, _) in slices.read_current(conn, index.source, judged).items()}
    there = census.count(conn, index.source) if documents is None else documents
    found = examine.examine(
        holdout,
        World(there, texts),
        max_missing=index.spec.holdout.max_missing,
        min_queries=index.spec.gate.min_queries,
        cutoff=metrics.parse_metric(index.spec.gate.metric).cutoff,
    )
    refusal = found.refusal
    return found if refusal is None or refusal.kind != "missing" else examine.explained(found, _fits(conn, index, found))


def made(conn: psycopg.Connection, index: OpenIndex, size: int) -> MadeSet:
    """A provisional set of up to `size` queries, out of documents from everywhere in the table; the same ones each time."""
    _, chosen = census.count_and_choose(conn, index.source, DRAWN * size)
    # Sorted by their ids, which may be by age: the first of them are not a sample.
    random.Random(0).shuffle(chosen)
    texts = slices.read_current(conn, index.source, chosen)
    return synthetic.synthetic(((doc_id, texts[doc_id][0]) for doc_id in chosen if doc_id in texts), size)


def require(found: Examined) -> None:
    """HoldoutError for a set on which nothing may be judged."""
    refusal = found.refusal
    if refusal is not None:
        raise HoldoutError(refusal.sentence, next_step=refusal.next_step)


def _fits(conn: psycopg.Connection, index: OpenIndex, found: Examined) -> str:
    """What the ids that are no document fit instead: other columns, or the same ids written in another way. Empty: nothing."""
    missing = list(found.missing[:LOOKED_UP])
    alike, pair = examine.written_otherwise(missing, census.ids(conn, index.source))
    if pair is not None and 2 * alike >= len(missing):
        return f"But for how they are written they are ids of the table: {pair[0]!r} is {pair[1]!r} there."
    columns = {
        name: number for name, number in census.fitting_columns(conn, index.source, missing).items() if 2 * number >= len(missing)
    }
    if columns:
        named = ", ".join(f"{name} ({number} of {len(missing)})" for name, number in columns.items())
        return (
            f"They fit another column: {named}; judgements name documents by {', '.join(each.name for each in index.source.key)}."
        )
    return ""
