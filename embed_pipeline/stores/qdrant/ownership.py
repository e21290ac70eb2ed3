"""Whose points they are: a collection's metadata names its ledger, and whoever writes looks there first.

Several ledgers can reach one Qdrant: a copy of the database brings its declaration along. The name is written with the collection, in one
request; later it is only written by an adoption and by `take-over`. Qdrant knows no compare-and-set on metadata: so whoever writes it waits
until every other writer has looked again, and looks whether it still stands there (docs/decisions/0026).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
from qdrant_client import QdrantClient, models

from embed_pipeline.catalog import ledger
from embed_pipeline.catalog.ledger import Ledger
from embed_pipeline.errors import AnotherLedger
from embed_pipeline.signals import signal
from embed_pipeline.stores.qdrant.engine import CollectionGone, Engine

T = TypeVar("T")

# A key of its own: Qdrant merges metadata by its top-level keys, and what else is ours there is written at other moments.
LEDGER = "embed_pipeline_ledger"
# For so long a look counts: of a writer, and of a search. A request that is under way is not called back.
WRITE_SECONDS = 1.0
READ_SECONDS = 10.0


def stamp_of(info: models.CollectionInfo) -> Mapping[str, Any] | None:
    """What a collection says of its ledger; None where it names none."""
    found = (info.config.metadata or {}).get(LEDGER)
    return found if isinstance(found, Mapping) else None


class Ownership:
    """What one index may write in one Qdrant. Thread-safe.

    `adopts`: a collection that is declared to become this index's; it is claimed by the first write where it names no ledger.
    """

    def __init__(self, engine: Engine, index: str, adopts: str | None) -> None:
        self._engine = engine
        self._index = index
        self._adopts = adopts
        self._looked: dict[tuple[str, bool], float] = {}
        self._lock = threading.Lock()

    def writer(self, conn: psycopg.Connection) -> Writer:
        """The way by which everything is written."""
        return Writer(self._engine, self, conn)

    def metadata(self, conn: psycopg.Connection, collection: str) -> dict[str, Any]:
        """What a new collection is made with. What was seen of one of this name before says nothing about it."""
        with self._lock:
            self._looked = {key: at for key, at in self._looked.items() if key[0] != collection}
        return {LEDGER: ledger.read(conn).stamp(self._index)}

    def require(self, conn: psycopg.Connection, collection: str, *, to_read: bool = False) -> None:
        """AnotherLedger unless the collection is this index's of this ledger. CollectionGone where there is none."""
        now = time.monotonic()
        with self._lock:
            looked = self._looked.get((collection, to_read))
        if looked is not None and now - looked < (READ_SECONDS if to_read else WRITE_SECONDS):
            return
        info = self._engine.call(lambda client: client.get_collection(collection))
        self._engine.learn(collection, info)
        if stamp_of(info) is None and collection == self._adopts:
            if to_read:
                return
            self.claim(conn, collection)
            return
        self.refuse(conn, collection, info, to_read=to_read)
        with self._lock:
            self._looked[collection, to_read] = now

    def refuse(self, conn: psycopg.Connection, collection: str, info: models.CollectionInfo, *, to_read: bool = False) -> None:
        """AnotherLedger where the collection names another ledger, or none and is not to be adopted."""
        found = stamp_of(info)
        if found is None:
            if collection != self._adopts:
                raise self._nobodys(collection)
            return
        here = ledger.read(conn)
        if not here.is_named_by(found, self._index, to_read=to_read):
            raise self._anothers(collection, found, here)

    def refuse_another(self, conn: psycopg.Connection, collection: str) -> None:
        """AnotherLedger where the collection names another ledger. One that names none may be anybody's."""
        with suppress(CollectionGone):
            info = self._engine.call(lambda client: client.get_collection(collection))
            if stamp_of(info) is not None:
                self.refuse(conn, collection, info)

    def whose(self, conn: psycopg.Connection, collection: str) -> str | None:
        """Whose the collection is in words; None: this ledger's."""
        info = self._engine.call(lambda client: client.get_collection(collection))
        found = stamp_of(info)
        if found is None:
            return "no ledger"
        return None if ledger.read(conn).is_named_by(found, self._index, to_read=False) else ledger.named(found)

    def claim(self, conn: psycopg.Connection, collection: str) -> None:
        """Write this ledger's name, wait until whoever looked before has looked again, and see that it still stands there.

        Of two that claim at the same moment the one that wrote last keeps it, and the other one is refused here.
        """
        mine = self.metadata(conn, collection)
        self._engine.call(lambda client: client.update_collection(collection, metadata=mine))
        signal("ledger.claimed")
        time.sleep(WRITE_SECONDS)
        info = self._engine.call(lambda client: client.get_collection(collection))
        self.refuse(conn, collection, info)
        with self._lock:
            self._looked[collection, False] = time.monotonic()

    def _nobodys(self, collection: str) -> AnotherLedger:
        return AnotherLedger(
            f"There is a collection {collection} at {self._engine.address} that names no ledger: this index did not make it. Nothing was "
            "written to it.",
            next_step="Declare it in store.adopt, delete it, or set store.collection to another name; where its points are this index's: "
            f"embed-pipeline take-over {self._index} --confirm {self._index}",
            reason="no_ledger",
            collection=collection,
        )

    def _anothers(self, collection: str, found: Mapping[str, Any], here: Ledger) -> AnotherLedger:
        return AnotherLedger(
            f"Collection {collection} at {self._engine.address} belongs to {ledger.named(found)}; this is "
            f"{ledger.named(here.stamp(self._index))}. Nothing was written to it.",
            next_step="A copy of a database needs a Qdrant of its own (store.url). Where this database has replaced that one: "
            f"embed-pipeline take-over {self._index} --confirm {self._index}",
            reason="another_ledger",
            collection=collection,
            ledger=str(found.get("id")),
            database=str(found.get("database")),
            address=str(found.get("address")),
        )


@dataclass(frozen=True)
class Writer:
    """One writer's way to Qdrant: nothing is written to a collection, and none is removed, before it was seen to be this ledger's."""

    engine: Engine
    ownership: Ownership
    conn: psycopg.Connection

    def write(self, collection: str, work: Callable[[QdrantClient], T]) -> T:
        """What `work` returns, which writes to this collection and no other."""
        self.ownership.require(self.conn, collection)
        signal("ledger.looked")
        return self.engine.call(work)
