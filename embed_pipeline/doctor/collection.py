"""The probe of a collection in Qdrant, whoever made it. It reads, and changes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from qdrant_client import models

from embed_pipeline.doctor import mixture, vectors
from embed_pipeline.doctor.ann_index import WORTH_AN_INDEX
from embed_pipeline.doctor.findings import Diagnosis, Finding
from embed_pipeline.doctor.sample import Row, Sample
from embed_pipeline.errors import StoreRefused
from embed_pipeline.stores.qdrant.configuration import params_of
from embed_pipeline.stores.qdrant.engine import Address, Engine

TIMEOUT_SECONDS = 60.0
KEY_VARIABLE = "QDRANT_API_KEY"
# Points that are asked for in one request: with vectors of 3,072 numbers an answer of 3 MB.
AT_ONCE = 250


def diagnose(name: str, url: str, vector: str, text: str | None, limit: int) -> Diagnosis:
    """Look at one vector of a collection; `vector` empty: the unnamed one. StoreRefused where it is not there."""
    engine = Engine(Address(url, None, KEY_VARIABLE, TIMEOUT_SECONDS), os.environ.get)
    try:
        if not engine.call(lambda client: client.collection_exists(name)):
            raise StoreRefused(f"There is no collection {name} at {url}.", next_step="Name another one with --collection.")
        info = engine.call(lambda client: client.get_collection(name))
        params = params_of(info, vector)
        if params is None:
            raise StoreRefused(
                f"Collection {name} has no {f'vector {vector!r}' if vector else 'unnamed vector'}.",
                next_step="Name one of its vectors with --vector.",
            )
        sample = Sample(_rows(engine, name, vector, text, limit), info.points_count or 0, text is not None)
    finally:
        engine.close()
    again = f"Embed these points of {name} again with the model of the others."
    found = [*_around(info, name), *_lengths(params, sample), *vectors.judge(sample, again), *mixture.judge(sample, again)]
    subject = f"{name} at {url}" if not vector else f"{name}.{vector} at {url}"
    return Diagnosis.of(subject, sample.looked_at.replace("rows", "points"), found)


def _rows(engine: Engine, name: str, vector: str, text: str | None, limit: int) -> list[Row]:
    ids = engine.call(
        lambda client: client.query_points(
            name, query=models.SampleQuery(sample=models.Sample.RANDOM), limit=limit, with_payload=False, using=vector or None
        )
    ).points
    rows = []
    for start in range(0, len(ids), AT_ONCE):
        wanted = [each.id for each in ids[start : start + AT_ONCE]]
        found = engine.call(
            lambda client, wanted=wanted: client.retrieve(  # type: ignore[misc]
                name, wanted, with_payload=False if text is None else [text], with_vectors=[vector] if vector else True
            )
        )
        rows += [Row(str(each.id), _vector(each.vector, vector), _text(each.payload, text)) for each in found]
    return rows


def _vector(found: Any, name: str) -> np.ndarray | None:
    one = found.get(name) if isinstance(found, dict) else found
    # Several vectors for a point (multivectors) are judged by none of what follows.
    return np.array(one, dtype=np.float32) if isinstance(one, Sequence) and one and not isinstance(one[0], Sequence) else None


def _text(payload: dict[str, Any] | None, field: str | None) -> str | None:
    value: Any = payload
    for part in (field or "").split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value if isinstance(value, str) else None


def _around(info: models.CollectionInfo, name: str) -> Iterator[Finding]:
    if info.status == models.CollectionStatus.RED:
        sentence = f"Collection {name} is red: an operation on it has failed, and its optimizer stands still."
        yield Finding("error", "collection_red", sentence, "Look into the server's log, and restart it once the cause is gone.")
    if info.status == models.CollectionStatus.GREY:
        sentence = f"Collection {name} is grey: optimizations wait for the next write, and searches compare what is not indexed."
        yield Finding(
            "warning",
            "collection_grey",
            sentence,
            f'Write any point, or PATCH /collections/{name} with {{"optimizers_config": {{}}}}.',
        )
    points, indexed = info.points_count or 0, info.indexed_vectors_count or 0
    if points >= WORTH_AN_INDEX and not indexed and info.status != models.CollectionStatus.YELLOW:
        sentence = f"None of about {points:,} points is in an index: each search compares them all."
        yield Finding(
            "warning", "no_index", sentence, "See indexing_threshold in the collection's optimizers_config, and hnsw_config.m."
        )


def _lengths(params: models.VectorParams, sample: Sample) -> Iterator[Finding]:
    rows, found = sample.of_one_length()
    if params.distance != models.Distance.DOT or not rows:
        return
    lengths = np.linalg.norm(found, axis=1)
    if lengths.max() / lengths.min() > 1 + 2 * vectors.UNIT:
        sentence = (
            f"The distance is Dot, and lengths differ ({lengths.min():.3g} to {lengths.max():.3g}): it puts long vectors first."
        )
        yield Finding("warning", "operator_class", sentence, "Use a collection with distance Cosine.")
