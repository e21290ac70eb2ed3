"""The registered indexes: where the documents of each are, and which store was declared for its vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from embed_pipeline.catalog.versions import queries
from embed_pipeline.postgres.storable import storable_json
from embed_pipeline.spec import DocumentsSpec, StoreSpec, read_store


@dataclass(frozen=True)
class RegisteredIndex:
    """What the catalog keeps of an index's declaration."""

    documents: DocumentsSpec
    store: StoreSpec


def find(conn: psycopg.Connection, index: str) -> RegisteredIndex | None:
    """The index as it is registered; None where it is not."""
    row = conn.execute(queries("find_index"), {"index": index}).fetchone()
    if row is None:
        return None
    table, key, text, store, payload, payload_object, indexes = row
    documents = DocumentsSpec(
        table=table, key=key, text=text, payload=payload, payload_object=payload_object, payload_indexes=indexes
    )
    return RegisteredIndex(documents, read_store(store))


def kinds_of_store(conn: psycopg.Connection) -> list[tuple[str, str]]:
    """Every index with its kind of store, by name."""
    return conn.execute(queries("list_indexes")).fetchall()


def insert(conn: psycopg.Connection, index: str, wanted: RegisteredIndex) -> None:
    """Register an index, with its pointer and its control, in the caller's transaction; where it is registered, nothing changes."""
    conn.execute(queries("insert_index"), _values(index, wanted))
    conn.execute(queries("insert_pointer"), {"index": index})
    conn.execute(queries("insert_control"), {"index": index})


def rename(conn: psycopg.Connection, index: str, wanted: RegisteredIndex) -> None:
    """Keep another table, and other names of its columns."""
    conn.execute(queries("rename_index"), _values(index, wanted))


def update(conn: psycopg.Connection, index: str, wanted: RegisteredIndex) -> None:
    """Keep another store and another payload."""
    conn.execute(queries("update_index"), _values(index, wanted))


def keep_judges_by(conn: psycopg.Connection, index: str, rule: dict[str, Any]) -> None:
    """Keep by what rule the declaration judges, for moves that are made by SQL."""
    conn.execute(queries("keep_judges_by"), {"index": index, "judges_by": storable_json(conn, rule)})


def _values(index: str, wanted: RegisteredIndex) -> dict[str, object]:
    documents = wanted.documents
    return {
        "index": index,
        "documents_table": documents.table,
        "key_columns": documents.key,
        "text_columns": documents.text,
        "store": Jsonb(wanted.store.model_dump(mode="json")),
        "payload_columns": documents.payload,
        "payload_object": documents.payload_object,
        "payload_indexes": Jsonb(documents.payload_indexes),
    }
