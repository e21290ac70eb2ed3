"""How a collection is made: like the one that it replaces, with another model's vectors in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qdrant_client import models

from embed_pipeline.catalog.versions import Version
from embed_pipeline.errors import ConfigurationError
from embed_pipeline.spec.collection_config import OF_A_COLLECTION
from embed_pipeline.stores.qdrant.engine import Engine
from embed_pipeline.stores.qdrant.own_fields import KEY
from embed_pipeline.stores.qdrant.ownership import LEDGER, Writer

DISTANCES = {
    "cosine": models.Distance.COSINE,
    "inner_product": models.Distance.DOT,
    "l2": models.Distance.EUCLID,
}


def multivector(version: Version) -> models.MultiVectorConfig | None:
    """Of a version with a chunker: a document's passages are one multivector, and the nearest passage is what counts."""
    if not version.is_chunked:
        return None
    return models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)


def datatype(version: Version, like: models.VectorParams | None) -> models.Datatype | None:
    if version.precision == "halfvec":
        return models.Datatype.FLOAT16
    return None if like is None else like.datatype


@dataclass(frozen=True)
class Declared:
    """What is declared of a new collection: for all (`store.collection_config`), and over that for one version."""

    settings: Mapping[str, Any]

    @classmethod
    def of(cls, for_all: Mapping[str, Any], version: Version) -> Declared:
        return cls(_over(for_all, version.declared.store_config))

    @property
    def unquantized(self) -> bool:
        return self.settings.get("quantization_config") == models.Disabled.DISABLED.value

    def of_a_vector(self, like: models.VectorParams | None, own: models.HnswConfigDiff) -> dict[str, Any]:
        """Index and storage settings of a vector: as declared, else as those of the one that it replaces, else `own`."""
        before = own if like is None else like.hnsw_config
        hnsw = _over(_given(before), self.settings.get("hnsw_config", {}))
        quantization = self.settings.get("quantization_config", None if like is None else _given(like.quantization_config))
        return {
            "hnsw_config": models.HnswConfigDiff(**hnsw) if hnsw else None,
            "quantization_config": None if self.unquantized or not quantization else quantization,
            "on_disk": self.settings.get("on_disk", None if like is None else like.on_disk),
        }

    def of_a_collection(self, like: models.CollectionInfo | None) -> dict[str, Any]:
        """The arguments of `create_collection` but the vectors."""
        found = {} if like is None else _settings(like)
        if self.unquantized:
            found["quantization_config"] = None
        kinds = {
            "hnsw_config": models.HnswConfigDiff,
            "optimizers_config": models.OptimizersConfigDiff,
            "wal_config": models.WalConfigDiff,
            "strict_mode_config": models.StrictModeConfig,
        }
        for name in ("hnsw_config", *OF_A_COLLECTION):
            if name in self.settings:
                value = self.settings[name]
                kind = kinds.get(name)
                found[name] = value if kind is None else kind(**_over(_given(found.get(name)), value))
        return found


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`below` with `above` laid over it; what is an object in both, by its own fields. A quantization is one piece."""
    both = dict(below)
    for name, value in above.items():
        nested = isinstance(value, Mapping) and isinstance(both.get(name), Mapping) and name != "quantization_config"
        both[name] = _over(both[name], value) if nested else value
    return both


def _given(settings: Any) -> dict[str, Any]:
    return {} if settings is None else dict(settings.model_dump(mode="json", exclude_none=True))


def vector_params(version: Version, like: models.VectorParams | None, declared: Declared) -> models.VectorParams:
    """The vector of `version`: as declared, with the index and storage settings of the vector that it replaces below that."""
    hnsw = version.declared.hnsw
    own = models.HnswConfigDiff(m=hnsw.m, ef_construct=hnsw.ef_construction)
    return models.VectorParams(
        size=version.dimensions,
        distance=DISTANCES[version.distance],
        **declared.of_a_vector(like, own),
        memory=None if like is None else like.memory,
        datatype=datatype(version, like),
        multivector_config=multivector(version),
    )


def params_of(info: models.CollectionInfo, vector: str) -> models.VectorParams | None:
    """The settings of one vector of a collection; None when it has no such vector."""
    vectors = info.config.params.vectors
    if isinstance(vectors, models.VectorParams):
        return vectors if vector == "" else None
    return (vectors or {}).get(vector)


def create_collection(
    engine: Engine,
    name: str,
    version: Version,
    vector: str,
    like: models.CollectionInfo | None,
    like_vector: str,
    whose: Mapping[str, Any],
    declared: Declared,
) -> None:
    """Make the collection of `version`: as declared, and else its settings, sparse vectors and further vectors as in `like`. AlreadyThere
    when it is.

    `whose`: the ledger that its metadata names from the first moment on.
    """
    arguments = declared.of_a_collection(like)
    own = vector_params(version, None if like is None else params_of(like, like_vector), declared)
    further = _further(like, like_vector)
    arguments["vectors_config"] = own if vector == "" and not further else {**further, vector: own}
    arguments["metadata"] = {**_metadata(like), KEY: {"version": version.name, "fingerprint": version.fingerprint}, **whose}
    engine.call(lambda client: client.create_collection(name, **arguments))
    engine.forget(name)


def _settings(like: models.CollectionInfo) -> dict[str, Any]:
    config, params = like.config, like.config.params
    return {
        "sparse_vectors_config": params.sparse_vectors,
        "shard_number": params.shard_number,
        "replication_factor": params.replication_factor,
        "write_consistency_factor": params.write_consistency_factor,
        "on_disk_payload": params.on_disk_payload,
        "hnsw_config": _same(models.HnswConfigDiff, config.hnsw_config),
        "optimizers_config": _same(models.OptimizersConfigDiff, config.optimizer_config),
        "wal_config": _same(models.WalConfigDiff, config.wal_config),
        "quantization_config": config.quantization_config,
        "strict_mode_config": _same(models.StrictModeConfig, config.strict_mode_config),
    }


def _same(kind: type[Any], settings: Any) -> Any:
    """Settings as they are read, in the form in which they are given."""
    if settings is None:
        return None
    given = settings.model_dump(exclude_none=True)
    return kind(**{name: value for name, value in given.items() if name in kind.model_fields})


def _further(like: models.CollectionInfo | None, like_vector: str) -> dict[str, models.VectorParams]:
    vectors = None if like is None else like.config.params.vectors
    if not isinstance(vectors, dict):
        return {}
    return {name: params for name, params in vectors.items() if name != like_vector}


def _metadata(like: models.CollectionInfo | None) -> Mapping[str, Any]:
    metadata = (like.config.metadata if like is not None else None) or {}
    return {name: value for name, value in metadata.items() if name not in (KEY, LEDGER)}


def add_vector(writer: Writer, collection: str, version: Version, vector: str, like: models.VectorParams | None) -> None:
    """Add the version's named vector to a collection that is in use. The same once more changes nothing."""
    config = models.DenseVectorNameConfig(
        dense=models.DenseVectorConfig(
            size=version.dimensions,
            distance=DISTANCES[version.distance],
            multivector_config=multivector(version),
            datatype=datatype(version, like),
        )
    )
    writer.write(collection, lambda client: client.create_vector_name(collection, vector, config))


def tune_vector(
    writer: Writer, collection: str, version: Version, vector: str, like: models.VectorParams | None, declared: Declared
) -> None:
    """Index and storage settings of a vector that was added: they can only be given afterwards."""
    params = vector_params(version, like, declared)
    tuned = models.VectorParamsDiff(
        hnsw_config=params.hnsw_config, quantization_config=params.quantization_config, on_disk=params.on_disk
    )
    writer.write(collection, lambda client: client.update_collection(collection, vectors_config={vector: tuned}))


def refuse_own_sharding(info: models.CollectionInfo, collection: str) -> None:
    """Which of the user's own shard keys a new document belongs to is not known here."""
    if info.config.params.sharding_method == models.ShardingMethod.CUSTOM:
        raise ConfigurationError(
            f"Collection {collection} is sharded by keys of your own, and which one a new document belongs to is not known here.",
            next_step="Use a collection with automatic sharding.",
        )
