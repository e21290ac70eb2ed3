"""Qdrant builds its ANN index by itself, segment by segment. A new collection is filled with that held back, and then let go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qdrant_client import QdrantClient, models

from embed_pipeline.stores.protocol import AnnIndex
from embed_pipeline.stores.qdrant.configuration import params_of
from embed_pipeline.stores.qdrant.engine import Engine
from embed_pipeline.stores.qdrant.own_fields import KEY
from embed_pipeline.stores.qdrant.ownership import Writer
from embed_pipeline.stores.qdrant.place import Place, wait_until_green

HELD = "indexing_threshold"
"""Kept in the collection's metadata while indexing is held back: the threshold to return to."""


LOCAL = "local mode has no ANN index: every search is exact, and ANN recall says nothing"


def hold(writer: Writer, collection: str) -> None:
    """Build no index until `build`, rather than one after another while points arrive. Repeating it changes nothing."""

    def work(client: QdrantClient) -> None:
        info = client.get_collection(collection)
        if HELD in _ours(info):
            return
        threshold = info.config.optimizer_config.indexing_threshold
        client.update_collection(
            collection,
            optimizers_config=models.OptimizersConfigDiff(indexing_threshold=0),
            metadata={KEY: {**_ours(info), HELD: threshold}},
        )

    writer.write(collection, work)


def build(writer: Writer, place: Place, progress: Callable[[str, float], None] | None = None) -> None:
    """Let indexing go on where it was held back, and wait until no optimizer is at work."""

    def release(client: QdrantClient) -> None:
        info = client.get_collection(place.collection)
        ours = _ours(info)
        if HELD in ours:
            threshold = ours.pop(HELD)
            # None: the server's own default counts, whatever it is.
            client.update_collection(
                place.collection,
                optimizers_config=models.OptimizersConfigDiff(indexing_threshold=10_000 if threshold is None else threshold),
                metadata={KEY: ours},
            )

    writer.write(place.collection, release)
    wait_until_green(writer.engine, place.collection, progress)


def find(engine: Engine, place: Place, identity: int) -> AnnIndex | None:
    """The index as it stands; how large it is, Qdrant does not tell.

    `identity` names the collection and the vector: Qdrant rebuilds segments all the time, and tells of none.
    """

    def look(client: QdrantClient) -> AnnIndex | None:
        if not client.collection_exists(place.collection):
            return None
        info = client.get_collection(place.collection)
        if params_of(info, place.vector) is None:
            return None
        healthy = info.status != models.CollectionStatus.RED and info.optimizer_status == models.OptimizersStatusOneOf.OK
        return AnnIndex(identity, healthy and HELD not in _ours(info), None, LOCAL if engine.is_local else "")

    return engine.call(look)


def _ours(info: models.CollectionInfo) -> dict[str, Any]:
    return dict((info.config.metadata or {}).get(KEY) or {})
