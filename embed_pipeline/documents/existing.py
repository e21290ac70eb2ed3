"""Documents that a store held before there was a documents table: checked, and inserted where the table has no such row.

One payload field is the text. Every other field needs a place: a column of documents.payload, or the object column.

Until its vector is marked, an inserted document is pending for its version, which is not registered yet. An adoption that was killed in
between does not insert it again: when its row is gone, the application has deleted it, and the dual-write will see to its vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from embed_pipeline.documents.source import Source, applications_names
from embed_pipeline.errors import AdoptRefused
from embed_pipeline.foreign_words import is_text
from embed_pipeline.postgres import failures
from embed_pipeline.postgres.queries import Queries

queries = Queries(__file__, "existing.sql")


@dataclass(frozen=True)
class ExistingDocument:
    """A document as it was found in a store that knew nothing of this package. `text` and `payload` are as found, unchecked."""

    doc_id: str
    text: Any
    payload: Mapping[str, Any]


@dataclass(frozen=True)
class Places:
    """Where a found document goes: its text into `text`, fields into columns of their names, the rest into the object column."""

    source: Source
    text: str
    field: str
    """The payload field that the text came from, for messages."""

    @classmethod
    def of(cls, source: Source, field: str) -> Places:
        """One text column takes the whole text. AdoptRefused when it is not clear which, or the key has several columns."""
        if len(source.key) > 1:
            raise AdoptRefused(
                f"The key of {source} has {len(source.key)} columns, and a point has one id.",
                next_step="Declare a documents table with a key of one column.",
            )
        columns = source.text_columns
        # The table that this package makes has a title and a text; the title of a found document is a field like any other.
        text = field if field in columns else columns[0] if len(columns) == 1 else "text" if "text" in columns else None
        if text is None:
            raise AdoptRefused(
                f"Which of the text columns {', '.join(columns)} of {source} takes the payload field {field!r} is not clear.",
                next_step="Declare one text column, or one with the field's name.",
            )
        taken = sorted({*columns, source.key[0].name} & set(source.payload_columns))
        if taken:
            raise AdoptRefused(
                f"The column {taken[0]!r} of {source} is both the document's own and a field of documents.payload.",
                next_step="Take it out of documents.payload: the text is kept in the points by store.adopt.",
            )
        return cls(source, text, field)

    def require(self, conn: psycopg.Connection, found: Sequence[ExistingDocument]) -> None:
        """AdoptRefused names the first document that cannot go into the table, and why."""
        for document in found:
            if document.text is not None and not isinstance(document.text, str):
                raise AdoptRefused(
                    f"The payload field {self.field!r} of point {document.doc_id} is no text ({type(document.text).__name__}).",
                    next_step="Correct the point, or name the field that holds the text in store.adopt.text.",
                )
            if document.text is not None and not is_text(document.text):
                raise AdoptRefused(
                    f"The text of point {document.doc_id} has a character that PostgreSQL cannot hold; nothing was written.",
                    next_step="Remove it (NUL, or half a surrogate pair) from the point.",
                )
            lost = [name for name in document.payload if name not in self.source.payload_columns]
            if lost and self.source.payload_object is None:
                raise AdoptRefused(
                    f"The payload field {lost[0]!r} of point {document.doc_id} has nowhere to go in {self.source}; nothing was written.",
                    next_step="Add a column and name it in documents.payload, or name a jsonb column in documents.payload_object.",
                )
        self._require_ids(conn, [document.doc_id for document in found])

    def _require_ids(self, conn: psycopg.Connection, doc_ids: list[str]) -> None:
        key = self.source.key[0]
        try:
            row = conn.execute(queries("first_unfit_id", key_type=key.cast), {"doc_ids": doc_ids}).fetchone()
        except psycopg.Error as refused:
            if refused.sqlstate is None or not refused.sqlstate.startswith("22"):
                raise
            raise self._no_key(f"a point's id is not a valid key ({refused.diag.message_primary})") from refused
        if row is not None:
            raise self._no_key(f"{row[0]} would become another one")

    def _no_key(self, what: str) -> AdoptRefused:
        key = self.source.key[0]
        return AdoptRefused(
            f"The key {key.name!r} of {self.source} is {key.type}, and {what}; nothing was written.",
            next_step="Declare a documents table whose key takes every id, text for instance.",
        )

    def insert(
        self, conn: psycopg.Connection, index: str, version: str, found: Sequence[ExistingDocument], *, again: bool = False
    ) -> dict[str, int]:
        """Insert those whose key is not taken, in the caller's transaction. Returns them with the seq under which they are pending now.

        What is pending already is left out, but for `again`: rows that were taken back in the same transaction.
        """
        key, fields = self.source.key[0], self.source.payload_columns
        columns = [key.name, self.text, *fields]
        values: list[sql.Composable] = [sql.SQL("w.doc_id::{}").format(key.cast), sql.SQL("w.text")]
        values += [sql.Identifier("r", name) for name in fields]
        if self.source.payload_object is not None:
            columns.append(self.source.payload_object)
            values.append(sql.SQL("w.object"))
        query = queries(
            "insert_existing",
            documents=self.source.identifier,
            columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
            values=sql.SQL(", ").join(values),
            key_type=key.cast,
            key=sql.Identifier(key.name),
        )
        try:
            values_of = {**self._rows(found), "index": index, "version": version, "again": again}
            with applications_names(conn, self.source):
                inserted = [doc_id for (doc_id,) in conn.execute(query, values_of)]
            noted = conn.execute(queries("note_inserted"), {"index": index, "version": version, "doc_ids": inserted})
            return dict(noted.fetchall())
        except psycopg.Error as refused:
            if not failures.is_about_the_data(refused):
                raise
            first, last = found[0].doc_id, found[-1].doc_id
            raise AdoptRefused(
                f"PostgreSQL refused documents of the points {first} to {last} in {self.source}: {refused.diag.message_primary}; "
                "none of these was written.",
                next_step=f"Correct the points, or the table {self.source}, and run the same command again.",
            ) from refused

    def _rows(self, found: Sequence[ExistingDocument]) -> Mapping[str, Any]:
        own = set(self.source.payload_columns)
        return {
            "doc_ids": [document.doc_id for document in found],
            "texts": [document.text for document in found],
            "fields": [Jsonb({name: value for name, value in each.payload.items() if name in own}) for each in found],
            "objects": [Jsonb({name: value for name, value in each.payload.items() if name not in own}) for each in found],
        }

    def take_back(self, conn: psycopg.Connection, inserted: Mapping[str, bytes]) -> set[str]:
        """Remove rows (id -> hash of the text inserted) that hold that text still, in the caller's transaction. Returns them."""
        parts = self.source.parts()
        query = queries("take_back", **{name: parts[name] for name in ("documents", "key_is_wanted", "source_hash")})
        with applications_names(conn, self.source):
            rows = conn.execute(query, {"doc_ids": list(inserted), "hashes": list(inserted.values())})
            return {doc_id for (doc_id,) in rows}


def forget_inserted(conn: psycopg.Connection, index: str, version: str, inserted: Mapping[str, int]) -> None:
    """Take what `Places.insert` has queued out of the queue, once the vectors are marked; later changes stay."""
    values = {"index": index, "version": version, "doc_ids": list(inserted), "seqs": list(inserted.values())}
    conn.execute(queries("forget_inserted"), values)
