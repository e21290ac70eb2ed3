"""Readers that make it hard to answer them right: vectors of their own, kept vectors, rare filters, documents of many passages.

v1 serves, v2 is beside it with a graph that is looked at ten documents at a time, v3 splits its texts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from embed_pipeline.errors import WrongSpace
from embed_pipeline.search import QueryVector, Searcher
from tests.faults.campaign import models, readers
from tests.faults.campaign.declared import CHUNKER, space, with_parameter
from tests.faults.campaign.load import ANCHORS, anchor_text
from tests.faults.campaign.records import Log
from tests.faults.campaign.stage import Scene, Stage

EXPLORED = 10
GRAPH = {"versions": {"v2": {"hnsw": {"ef_search": EXPLORED}}}}
SPLIT = {"versions": {"v3": {"chunker": CHUNKER}}}
RARE = 77
SOME = 3
# As long as a chunk, so that each is one. More than a search asks for at first.
PASSAGE, PASSAGES = "a passage about the rivers of a land", 40
IN_SQL = "SELECT doc_id, distance FROM embed_pipeline.search('docs', %s, %s, %s::public.vector, 5)"


@contextmanager
def searching(stage: Stage, **options: Any) -> Iterator[tuple[Searcher, Log]]:
    # Left alone, the planner would rather sort so few; whoever may not sort has to take the graph.
    url = with_parameter(stage.run.url, "options", "-c enable_sort=off")
    with (
        Log(stage.run.place / "reader-scene.log") as log,
        Searcher("docs", url, refresh_seconds=0, max_connections=2, **options) as searcher,
    ):
        yield searcher, log


def two_live_versions(stage: Stage) -> None:
    stage.run.changes = GRAPH
    stage.register("v2")
    stage.steps("v2", "backfill", "ann_index", "gate")


def vectors_of_another_version(stage: Stage) -> None:
    """A reader keeps a query vector and gives it to another version, in Python and in SQL. It would compute, and mean nothing."""
    with searching(stage) as (searcher, log):
        stage.run.count_strike("readers", "a vector of another version")
        query = searcher.embed(anchor_text(1), "v2")
        try:
            answer = searcher.search_vector(dataclasses.replace(query, version="v1"))
        except WrongSpace:
            pass
        else:
            with log.timed("search") as record:
                record["asked"] = "v1"
                readers.note(record, answer)
        stage.run.count_strike("readers", "a vector of another version in SQL")
        hits = _in_sql(stage, "v1", query)
        if hits is not None:
            with log.timed("search") as record:
                record |= {"asked": "v1", "version": "v1", "fingerprint": query.fingerprint, "generation": 1, "hits": hits}


def _in_sql(stage: Stage, version: str, query: QueryVector) -> list[tuple[str, float]] | None:
    """What it finds; None when it is refused."""
    with stage.run.connect() as conn:
        try:
            return conn.execute(IN_SQL, (version, query.fingerprint, str(query.values.tolist()))).fetchall()
        except psycopg.errors.InvalidParameterValue:
            return None


def rarely_matching(stage: Stage) -> None:
    """A filter that few documents pass, and these are the farthest from the query of all."""
    query = models.query_vector(space("v2"), anchor_text(1))
    far = sorted(range(1, ANCHORS + 1), key=lambda number: query @ models.document_vector(space("v2"), anchor_text(number)))
    stage.do("UPDATE articles SET views = %s WHERE id = ANY (%s)", RARE, far[:SOME])
    stage.run.count_strike("readers", "a rare filter")
    with searching(stage) as (searcher, log), log.timed("search") as record:
        record |= {"asked": "v2", "wanted": SOME}
        readers.note(record, searcher.search(anchor_text(1), SOME, version="v2", where={"views": RARE}))


def one_document_with_all_the_nearest_passages(stage: Stage) -> None:
    """Of a version that splits its texts: one document has more near passages than a search asks for at first."""
    (key,) = stage.documents(1)
    stage.edit(key, "\n\n".join([PASSAGE] * PASSAGES))
    stage.sync()
    stage.run.changes = SPLIT
    stage.register("v3")
    stage.steps("v3", "backfill", "ann_index")
    stage.run.count_strike("readers", "documents of many passages")
    with searching(stage) as (searcher, log), log.timed("search") as record:
        record |= {"asked": "v3", "wanted": SOME}
        readers.note(record, searcher.search(PASSAGE, SOME, version="v3"))


def kept_over_a_cutover(stage: Stage) -> None:
    """A searcher that keeps the vectors of its queries is asked the same before a cutover and after it."""
    stage.run.count_strike("readers over a flip", "cutover")
    with searching(stage, query_cache=10) as (searcher, log):
        for version in ("v1", "v2"):
            if version == "v2":
                stage.steps("v2", "cutover")
            for _ in range(2):
                with log.timed("search") as record:
                    record |= {"asked": None, "anchor": "2"}
                    readers.note(record, searcher.search(anchor_text(2)))


SCENES: tuple[Scene, ...] = (
    two_live_versions,
    vectors_of_another_version,
    rarely_matching,
    kept_over_a_cutover,
    one_document_with_all_the_nearest_passages,
)
