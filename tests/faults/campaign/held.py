"""What a version's store holds, read by the campaign itself: its table of pgvector, or its points of Qdrant by a client of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
from qdrant_client import QdrantClient, models

# A vector as text, and where its passage begins and ends in the document's text.
Vector = tuple[str, int | None, int | None]
# Hash of the text, how many vectors there should be, and model_name, model_version, fingerprint.
Row = tuple[bytes, int, str, str, str]


@dataclass
class Held:
    """By document: its row (of passage 0), its vectors by the number of the passage, and passages that are labelled otherwise than their
    document's row."""

    rows: dict[str, Row] = field(default_factory=dict)
    vectors: dict[str, dict[int, Vector]] = field(default_factory=dict)
    strays: dict[str, list[int]] = field(default_factory=dict)


def held(conn: psycopg.Connection, version: str) -> Held:
    """Everything that the version has."""
    store = _store(conn)
    return _in_points(conn, version, store) if store["kind"] == "qdrant" else _in_table(conn, version)


def hashes(conn: psycopg.Connection, version: str) -> dict[str, bytes]:
    """Document -> the hash that its vectors are labelled with."""
    store = _store(conn)
    if store["kind"] == "qdrant":
        return {doc_id: row[0] for doc_id, row in _in_points(conn, version, store).rows.items()}
    rows = conn.execute(f"SELECT doc_id, source_hash FROM embed_pipeline.docs__{version} WHERE chunk = 0")  # type: ignore[arg-type]
    return {doc_id: bytes(digest) for doc_id, digest in rows}


def _store(conn: psycopg.Connection) -> dict[str, Any]:
    row = conn.execute("SELECT store FROM embed_pipeline.indexes WHERE index_name = 'docs'").fetchone()
    assert row is not None
    return dict(row[0])


def _in_table(conn: psycopg.Connection, version: str) -> Held:
    found = Held()
    labels: dict[tuple[str, int], Row] = {}
    for doc_id, chunk, vector, start, end, digest, *rest in conn.execute(
        "SELECT doc_id, chunk, embedding::text, passage_start, passage_end, source_hash, chunks, model_name, model_version, fingerprint "
        f"FROM embed_pipeline.docs__{version}"  # type: ignore[arg-type]
    ):
        found.vectors.setdefault(doc_id, {})[chunk] = (vector, start, end)
        labels[doc_id, chunk] = (bytes(digest), *rest)
        if chunk == 0:
            found.rows[doc_id] = labels[doc_id, chunk]
    for (doc_id, chunk), label in labels.items():
        if doc_id in found.rows and label != found.rows[doc_id]:
            found.strays.setdefault(doc_id, []).append(chunk)
    return found


def _in_points(conn: psycopg.Connection, version: str, store: dict[str, Any]) -> Held:
    """As docs/qdrant.md says where a version is and what a point holds. A point without the version's vector is none of it."""
    row = conn.execute(
        "SELECT fingerprint, nullif(spec -> 'chunker', 'null') IS NOT NULL FROM embed_pipeline.index_versions "
        "WHERE index_name = 'docs' AND version = %s",
        (version,),
    ).fetchone()
    assert row is not None
    fingerprint, chunked = row
    label = f"{version}__{fingerprint[:8]}"
    shared = store["layout"] == "named_vectors"
    collection, name = (store["collection"], label) if shared else (f"{store['collection']}__{label}", "")
    found = Held()
    with _client(store["url"]) as client:
        for record in _every_point(client, collection):
            vectors = record.vector if isinstance(record.vector, dict) else {"": record.vector}
            ours = (record.payload or {}).get("embed_pipeline", {})
            doc_id = ours.get("doc_id", f"point {record.id}")
            entry = ours.get("versions", {}).get(version)
            if vectors.get(name) is not None:
                rows = vectors[name] if chunked else [vectors[name]]
                offsets = (entry or {}).get("offsets") or [(None, None)] * len(rows)
                found.vectors[doc_id] = {
                    number: (",".join(map(str, values)), start, end)
                    for number, (values, (start, end)) in enumerate(zip(rows, offsets, strict=True))
                }
            if entry is not None:
                labels = (entry["model_name"], entry["model_version"], entry["fingerprint"])
                found.rows[doc_id] = (bytes.fromhex(entry["source_hash"]), entry["chunks"], *labels)
    return found


@contextmanager
def _client(url: str) -> Iterator[QdrantClient]:
    client = QdrantClient(url=url, check_compatibility=False, timeout=30)
    try:
        yield client
    finally:
        client.close()


def _every_point(client: QdrantClient, collection: str) -> Iterator[models.Record]:
    offset: Any = None
    while True:
        records, offset = client.scroll(collection, limit=1_000, offset=offset, with_payload=True, with_vectors=True)
        yield from records
        if offset is None:
            return
