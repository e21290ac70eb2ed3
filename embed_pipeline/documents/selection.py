"""The filter of a search, and the columns that it returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from embed_pipeline.documents.filters import queries
from embed_pipeline.documents.source import Source
from embed_pipeline.errors import ConfigurationError

NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Document:
    """A document as the reader saw it: its text columns joined, as they are embedded, and the columns that were asked for."""

    text: str
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Selection:
    """`where`: what their columns must be. `visible_only`: those that row security lets the reader see.

    `columns`: what hits bring of their documents; None: nothing, (): the text alone, True: every column.
    """

    where: Mapping[str, Any] = field(default_factory=dict)
    visible_only: bool = False
    columns: tuple[str, ...] | bool | None = None

    @classmethod
    def of(cls, where: Mapping[str, Any] | None, with_documents: bool | Sequence[str], visible_only: bool) -> Selection:
        """As an application asks for it."""
        if isinstance(with_documents, str) or not isinstance(with_documents, (bool, Sequence)):
            raise ConfigurationError(
                f"with_documents is {with_documents!r}, and it takes True, False or a list of columns.",
                next_step='Write with_documents=["title"].',
            )
        columns: tuple[str, ...] | bool | None = (
            tuple(with_documents) if not isinstance(with_documents, bool) else with_documents or None
        )
        return cls(where if where is not None else NOTHING, visible_only, columns)

    @property
    def is_everything(self) -> bool:
        """Whether no document is looked at."""
        return not self.where and not self.visible_only and self.columns is None


EVERYTHING = Selection()


class Shown:
    """Reads documents with the rights of whoever searches."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def read(
        self,
        conn: psycopg.Connection,
        doc_ids: Sequence[str],
        selection: Selection,
        condition: sql.Composable,
        values: Mapping[str, Any],
    ) -> dict[str, Document]:
        """Those of the documents that the reader sees and that meet the condition, in one round trip."""
        source, columns = self._source, selection.columns
        named = [sql.Identifier("d", name) for name in columns] if isinstance(columns, tuple) else []
        query = queries(
            "shown",
            text=source.text() if columns is not None else sql.SQL("''"),
            columns=sql.SQL("d.*") if columns is True else sql.SQL(", ").join([*named, sql.SQL("true")]),
            documents=source.identifier,
            key_is_wanted=source.key_matches(sql.SQL("w.doc_id")),
            condition=condition,
        )
        with conn.pipeline():  # one transaction, as in `slices.read`
            conn.execute(queries("as_the_reader"))
            found = conn.execute(query, {**values, "doc_ids": list(doc_ids)})
        names = [column.name for column in found.description or ()][2:]
        wanted = len(names) if columns is True else len(named)
        return {row[0]: Document(row[1], dict(zip(names[:wanted], row[2:], strict=False))) for row in found.fetchall()}
