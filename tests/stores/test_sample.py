"""A sampled verification: a vector that was put in by hand beside the right hash is found in every store."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import psycopg
import pytest
from qdrant_client import QdrantClient, models

from embed_pipeline.documents.drawn import drawn
from embed_pipeline.errors import VectorsGone
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import backfill, dual_write, sample, verify
from tests.harness.articles import DOCUMENTS, change, require_consistent, settle

Open = Callable[..., OpenIndex]


def put_in_by_hand(app: psycopg.Connection, index: OpenIndex, doc_id: int) -> None:
    """Another vector for a document, beside the hash of its text."""
    if index.spec.store.kind == "pgvector":
        app.execute(
            "UPDATE embed_pipeline.docs__v1 SET embedding = array_fill(0.25::real, ARRAY[16])::vector WHERE doc_id = %s",
            (str(doc_id),),
        )
        return
    url = getattr(index.spec.store, "url", None)
    assert url is not None
    client = QdrantClient(url=url, check_compatibility=False)
    with index.connection() as conn:
        place = index.store(index.version(conn, "v1")).place  # type: ignore[attr-defined]
    client.update_vectors(place.collection, [models.PointVectors(id=doc_id, vector={place.vector: [0.25] * 16})])
    client.close()


@pytest.mark.parametrize("store", ["pgvector", "loopback-named_vectors"], indirect=True)
def test_a_vector_that_was_put_in_by_hand_is_found(app: psycopg.Connection, open_stored: Open) -> None:
    index = open_stored("v1", partitions=1)
    backfill.fill_partition(index, "v1", "00")
    (found,) = sample.sample(index, None, 1_000)
    assert (found.asked, found.compared, found.skipped, found.differing) == (DOCUMENTS, DOCUMENTS, 0, {})
    assert found.lowest == pytest.approx(1.0, abs=1e-4)
    put_in_by_hand(app, index, 7)
    change(app, 9, "changed, and not embedded yet")
    assert verify.verify(index)["v1"].differences == 0
    (found,) = sample.sample(index, "v1", 1_000)
    assert (found.compared, found.skipped, list(found.differing)) == (DOCUMENTS - 1, 1, ["7"])
    (few,) = sample.sample(index, "v1", 5)
    assert few.asked == 5


def test_how_a_vector_that_is_not_the_models_is_mended(app: psycopg.Connection, open_docs: Open) -> None:
    """As the sentence of the verb says; and what else may be wrong is an error of its own."""
    chunked = {
        "provider": "tests.harness.fakes:HashEmbedder",
        "model_name": "m",
        "dimensions": 16,
        "distance": "l2",
        "precision": "halfvec",
        "chunker": {"size": 10},
    }
    index = open_docs(versions={"v1": chunked}, partitions=1)
    app.execute("UPDATE articles SET body = 'a text that has several passages' WHERE id = 7")
    backfill.fill_partition(index, "v1", "00")
    settle(index)
    assert sample.sample(index, "v1", 100)[0].differing == {}
    twice = "(embedding::vector * array_fill(2.0::real, ARRAY[16])::vector)::halfvec"
    app.execute(f"UPDATE embed_pipeline.docs__v1 SET embedding = {twice} WHERE doc_id = '7' AND chunk = 1")  # type: ignore[arg-type]
    assert list(sample.sample(index, "v1", 100)[0].differing) == ["7"]
    app.execute("DELETE FROM embed_pipeline.docs__v1 WHERE doc_id = '7'")
    assert verify.reconcile(index).queued == {"v1": 1}
    assert dual_write.sync(index)[0].error == ""
    assert sample.sample(index, "v1", 100)[0].differing == {}
    require_consistent(index)
    app.execute("DROP TABLE embed_pipeline.docs__v1 CASCADE")
    with pytest.raises(VectorsGone):
        sample.sample(index, "v1", 100)


def test_every_document_is_drawn_alike() -> None:
    chance = random.Random(1)
    counts = np.zeros(20)
    for _ in range(4_000):
        for doc_id in drawn(map(str, range(20)), 5, chance):
            counts[int(doc_id)] += 1
    assert counts.sum() == 20_000
    assert np.all(np.abs(counts - 1_000) < 150)
    assert drawn(["a", "b"], 5, chance) == ["a", "b"]


@pytest.mark.parametrize(
    ("there", "with_length", "expected"),
    [
        ([[1.0, 0.0], [0.0, 1.0]], False, 1.0),
        ([[2.0, 0.0], [0.0, 2.0]], False, 1.0),
        ([[2.0, 0.0], [0.0, 1.0]], True, 0.5),
        ([[1.0, 0.0], [1.0, 0.0]], False, 0.0),
        ([[1.0, 0.0]], False, 0.0),
        ([[0.0, 0.0], [0.0, 1.0]], False, 0.0),
        ([[float("nan"), 0.0], [0.0, 1.0]], True, 0.0),
    ],
)
def test_agreement_is_that_of_the_worst_passage(there: Any, with_length: bool, expected: float) -> None:
    now = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    assert sample.agreement(np.array(there, dtype=np.float32), now, with_length=with_length) == pytest.approx(expected)
