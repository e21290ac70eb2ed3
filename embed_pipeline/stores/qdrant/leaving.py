"""What an index takes with it out of Qdrant when it is removed: what it made. An adopted collection stays, and so do its points."""

from __future__ import annotations

from contextlib import suppress

import psycopg
from qdrant_client import models

from embed_pipeline.catalog.versions import Version
from embed_pipeline.spec import QdrantSpec
from embed_pipeline.stores.protocol import Leaving
from embed_pipeline.stores.qdrant.engine import CollectionGone, Engine
from embed_pipeline.stores.qdrant.layout import Collections, Layout, NamedVectors
from embed_pipeline.stores.qdrant.own_fields import DELETED_AT, KEY
from embed_pipeline.stores.qdrant.ownership import LEDGER
from embed_pipeline.stores.qdrant.payload_indexes import drop_own
from embed_pipeline.stores.qdrant.portions import portions


class Departure:
    """One version's way out. Doing it twice is allowed."""

    def __init__(self, engine: Engine, layout: Layout, spec: QdrantSpec, version: Version) -> None:
        self._engine, self._layout, self._version = engine, layout, version
        self._adopted = None if spec.adopt is None else spec.adopt.collection
        self._is_adopted = spec.adopt is not None and version.name == spec.adopt.version
        self._collection = layout.place(version).collection

    def words(self, *, fields: bool) -> Leaving:
        """What goes and what stays."""
        at = f"{self._collection} at {self._engine.address}"
        alias = (f"the alias {self._layout.alias}",) if isinstance(self._layout, Collections) else ()
        if self._collection != self._adopted:
            return Leaving((*alias, f"the collection {at}"), ())
        vector = f"the vector {self._layout.place(self._version).vector} in {at}"
        goes = (vector,) if not self._is_adopted else alias
        ours = f"the payload field {KEY} in its points, its indexes, and the metadata keys {KEY} and {LEDGER}"
        kept = f"the collection {at}, as it was adopted" + ("" if fields else f", with {ours} (--fields takes them out)")
        return Leaving((*goes, *((f"of {at}: {ours}",) if fields else ())), (kept,))

    def leave(self, conn: psycopg.Connection, *, fields: bool) -> None:
        """Take out what is this version's."""
        writer = self._layout.own.writer(conn)
        with suppress(CollectionGone):
            if isinstance(self._layout, Collections):
                self._drop_alias(conn, self._layout.alias)
            if self._collection != self._adopted:
                writer.write(self._collection, lambda client: client.delete_collection(self._collection))
                return
            if not self._is_adopted and isinstance(self._layout, NamedVectors):
                self._layout.drop(conn, self._version)
            if fields:
                self._take_fields_out(conn)

    def _drop_alias(self, conn: psycopg.Connection, alias: str) -> None:
        found = self._engine.call(lambda client: client.get_aliases().aliases)
        if any(each.alias_name == alias and each.collection_name == self._collection for each in found):
            gone = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))
            writer = self._layout.own.writer(conn)
            writer.write(self._collection, lambda client: client.update_collection_aliases([gone]))

    def _take_fields_out(self, conn: psycopg.Connection) -> None:
        name, writer = self._collection, self._layout.own.writer(conn)
        drop_own(writer, name, self._version.name)
        if not self._engine.is_local and DELETED_AT in self._engine.limits(name, afresh=True).schema:
            writer.write(name, lambda client: client.delete_payload_index(name, DELETED_AT, wait=True))
        for these in portions(self._engine, name, models.Filter()):
            points = models.Filter(must=these)
            writer.write(name, lambda client, points=points: client.delete_payload(name, [KEY], points=points))  # type: ignore[misc]
        # The ledger's name last: whoever writes has to find it. Qdrant merges metadata, and a key that is null names nobody.
        writer.write(name, lambda client: client.update_collection(name, metadata={KEY: None, LEDGER: None}))
