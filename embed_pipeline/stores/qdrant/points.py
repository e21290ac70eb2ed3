"""What a point holds: the document's payload, and under one key of ours its id, its seq and each version's provenance.

`seq` is drawn anew from the ledger's sequence for every write of ours, and is what the guards compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

from qdrant_client import models

from embed_pipeline.catalog.versions import Version
from embed_pipeline.stores.qdrant.own_fields import KEY

PointId = int | str
Vectors = Mapping[str, Any]
"""Vectors of a point by name; the unnamed one is ""."""


@dataclass(frozen=True)
class Stored:
    """A point as it was read. `seq` None: no write of ours yet. `deleted_at` (seconds since 1970): a tombstone."""

    id: PointId
    doc_id: str | None
    seq: int | None
    deleted_at: float | None
    versions: Mapping[str, Mapping[str, Any]]
    payload: Mapping[str, Any]
    payload_hash: str | None
    vectors: Vectors

    def hash_of(self, version: str) -> str | None:
        """source_hash (hex) of the version's vector in this point."""
        found = self.versions.get(version)
        return None if found is None else found.get("source_hash")


@dataclass(frozen=True)
class Content:
    """What a point shall hold. Written whole: nothing of what was there before is left."""

    doc_id: str
    vectors: Vectors
    versions: Mapping[str, Mapping[str, Any]]
    payload: Mapping[str, Any] = field(default_factory=dict)
    payload_hash: str | None = None
    deleted_at: float | None = None

    def without(self, version: str, vector: str) -> Content:
        """The same without what one version has there."""
        return replace(
            self,
            vectors={name: value for name, value in self.vectors.items() if name != vector},
            versions={name: value for name, value in self.versions.items() if name != version},
        )

    def point(self, point_id: PointId, seq: int) -> models.PointStruct:
        ours: dict[str, Any] = {"doc_id": self.doc_id, "seq": seq, "versions": dict(self.versions)}
        if self.payload_hash is not None:
            ours["payload_hash"] = self.payload_hash
        if self.deleted_at is not None:
            ours["deleted_at"] = self.deleted_at
        # An unnamed vector is written by its name "", which a collection takes whether it has named ones as well or not.
        return models.PointStruct(id=point_id, vector=dict(self.vectors), payload={**self.payload, KEY: ours})


def stored(record: models.Record) -> Stored:
    """A record of retrieve or scroll."""
    payload = dict(record.payload or {})
    ours = payload.pop(KEY, None)
    if not isinstance(ours, dict):
        ours = {}
    return Stored(
        id=record.id if isinstance(record.id, int) else str(record.id),
        doc_id=ours.get("doc_id"),
        seq=ours.get("seq"),
        deleted_at=ours.get("deleted_at"),
        versions=ours.get("versions") or {},
        payload=payload,
        payload_hash=ours.get("payload_hash"),
        vectors=_by_name(record.vector),
    )


def _by_name(vector: Any) -> dict[str, Any]:
    if vector is None:
        return {}
    return dict(vector) if isinstance(vector, dict) else {"": vector}


def provenance(
    version: Version,
    source_hash: bytes,
    chunks: int,
    offsets: Sequence[Sequence[int]] | None = None,
    partition: int | None = None,
) -> dict[str, Any]:
    """What stands beside a vector of `version`: whose it is, of which text, since when, and where its passages lie.

    `partition`: of the backfill that has written it. None: a dual-write did, or an adoption.
    """
    entry: dict[str, Any] = {
        "model_name": version.model_name,
        "model_version": version.model_version,
        "fingerprint": version.fingerprint,
        "source_hash": source_hash.hex(),
        "embedded_at": datetime.now(timezone.utc).isoformat(),
        "chunks": chunks,
    }
    if partition is not None:
        entry["partition"] = partition
    if offsets is not None:
        entry["offsets"] = [list(map(int, each)) for each in offsets]
    return entry


def as_read(point: Stored, version: str, text_field: str | None = None) -> models.Filter:
    """The guard of one point: it is still what was read of it, its seq and the source_hash of one version.

    A point that no write of ours has touched has neither. There the payload field of its text, if one is known, stands in for them.
    """
    must = [
        models.HasIdCondition(has_id=[point.id]),
        _equals(f"{KEY}.seq", point.seq),
        _equals(f"{KEY}.versions.{version}.source_hash", point.hash_of(version)),
    ]
    text = None if text_field is None else point.payload.get(text_field)
    if point.seq is None and text_field is not None and (text is None or isinstance(text, str)):
        must.append(_equals(as_path(text_field), text))
    return models.Filter(must=must)


def as_path(field: str) -> str:
    """A payload field's name as a path of filters: one with a dot or a bracket in it is quoted."""
    return field if field.replace("_", "").replace("-", "").isalnum() else f'"{field}"'


def _equals(key: str, value: int | str | None) -> models.FieldCondition | models.IsEmptyCondition:
    if value is None:
        return models.IsEmptyCondition(is_empty=models.PayloadField(key=key))
    return models.FieldCondition(key=key, match=models.MatchValue(value=value))
