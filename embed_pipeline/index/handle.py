"""An index that is ready to be worked on: its declaration, its database, its documents table, its registered versions."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
from psycopg.pq import TransactionStatus

from embed_pipeline import forks
from embed_pipeline.accounts.meter import DatabaseMeter
from embed_pipeline.accounts.terms import Kind, Terms
from embed_pipeline.catalog import versions
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import capture
from embed_pipeline.documents import source as documents_source
from embed_pipeline.documents.source import Source
from embed_pipeline.embedders.checked import VersionEmbedder
from embed_pipeline.embedders.metering import Spent
from embed_pipeline.index.batch_size import BatchSize
from embed_pipeline.index.space import Space, Spaces
from embed_pipeline.postgres import poolers
from embed_pipeline.postgres.connection import connect
from embed_pipeline.spec import IndexSpec
from embed_pipeline.stores.protocol import VersionStore
from embed_pipeline.throttle.loop import Throttle
from embed_pipeline.throttle.probing import Probe

MOST_IDLE = 4


@dataclass
class OpenIndex:
    """The handle that every verb works with. Thread-safe; connections are made on demand and belong to their caller."""

    spec: IndexSpec
    url: str
    source: Source
    batch_sizes: dict[str, BatchSize] = field(default_factory=dict)
    throttles: dict[str, Throttle] = field(default_factory=dict)
    spaces: Spaces = field(init=False, repr=False, compare=False)
    _idle: list[psycopg.Connection] = field(default_factory=list)
    _proved: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.spaces = Spaces(self.name, self.url, lambda: Terms.declared(self.spec), self._as_declared)
        self.spaces.settle(self.spec.store, self.source)
        forks.tell(self)

    @property
    def name(self) -> str:
        return self.spec.name

    def forked(self) -> None:
        """See `forks.Holder`."""
        forks.abandon(*self._idle, self.throttles, self._lock)
        self.spaces.forked()
        self._idle, self.throttles, self.batch_sizes = [], {}, {}
        self._lock = threading.Lock()

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection]:
        """A connection in autocommit; transactions are opened where they are needed, and stay short.

        Connections are kept for the next one who asks, with the caches that PostgreSQL has built in them. Locks and settings of the
        session end with the block.
        """
        conn = self._idle_connection() or connect(self.url, autocommit=True)
        try:
            yield conn
        finally:
            self.keep(conn)

    def _idle_connection(self) -> psycopg.Connection | None:
        while True:
            with self._lock:
                if not self._idle:
                    return None
                conn = self._idle.pop()
            try:
                conn.execute("")  # The server may have closed it meanwhile.
            except psycopg.Error:
                conn.close()
                continue
            return conn

    def keep(self, conn: psycopg.Connection) -> None:
        """Keep a connection for the next one who asks, or close it."""
        try:
            if conn.closed or poolers.is_pooled(conn) or conn.info.transaction_status != TransactionStatus.IDLE:
                raise psycopg.OperationalError("not fit for another use")
            conn.execute("SELECT pg_advisory_unlock_all(); RESET ALL")
        except psycopg.Error:
            conn.close()
            return
        with self._lock:
            if len(self._idle) < MOST_IDLE:
                self._idle.append(conn)
                return
        conn.close()

    def version(self, conn: psycopg.Connection, name: str) -> Version:
        """The registered version as it is now; a name that is not declared is refused first."""
        return versions.get(conn, self.name, name)

    def _as_declared(self, version: Version) -> Version:
        """A version with the settings of this handle's declaration, which has been opened later on another machine perhaps; as it was
        declared last where this declaration no longer names it."""
        declared = self.spec.versions.get(version.name)
        return version if declared is None else version.with_settings(declared.settings())

    def space(self, version: Version) -> Space:
        """A registered version's store and model, opened once for this handle and closed with it."""
        return self.spaces.of(version)

    def store(self, version: Version) -> VersionStore:
        """The store of a registered version, or of one that is about to be."""
        return self.space(version).store

    def embedder(self, name: str) -> VersionEmbedder:
        """The model of a declared version, registered or not."""
        return self.spaces.model(name, self.spec.version(name))

    def embedder_of(self, version: Version) -> VersionEmbedder:
        """The model of a registered version; WrongSpace when it is no longer the one that was registered."""
        return self.space(version).embedder

    def meter(self, name: str) -> DatabaseMeter | None:
        """The meter that the requests of a version's provider pass through, once its model is open; None for a version without a provider."""
        return self.spaces.meter(name)

    def spent(self, name: str, *kinds: Kind) -> Spent:
        """What this handle has spent for a version, on these kinds of work or on all. Without a provider: nothing, and no price."""
        meter = self.meter(name)
        return Spent() if meter is None else meter.spent(*kinds)

    def provider_wait(self, name: str) -> str:
        """Why requests of a version wait for its provider's account; empty while none does."""
        meter = self.meter(name)
        return "" if meter is None or not meter.waiting else f"account {meter.account}: {meter.waiting}"

    def throttle(self, version: Version) -> Throttle:
        """The throttle of a version's backfill, kept from partition to partition: what it saw last still counts."""
        space = self.space(version)
        tables = (self.source.identifier, *space.store.tables())
        probe = Probe(self.name, version.name, self.store)
        throttle = Throttle(self.spec.throttle, self.name, version.name, tables, lambda: space.store.pressure(), probe)
        with self._lock:
            return self.throttles.setdefault(version.name, throttle)

    def look_at_table(self, conn: psycopg.Connection) -> bool:
        """Find the documents table again; whether it has other columns than this handle knows, and knows now. DocumentsTableError where it
        cannot be used any more. The caller has let go of every store."""
        source = documents_source.inspect(conn, self.spec.source())
        if source == self.source:
            return False
        self.source, self._proved = source, False
        self.spaces.settle(self.spec.store, source)
        return True

    def prove_capture(self, conn: psycopg.Connection) -> None:
        """Refuse unless a change reaches the queue: seen once in the life of this handle, by one row of the application's."""
        if not self._proved:
            capture.prove_live(conn, self.source, self.name)
            self._proved = True

    def close(self) -> None:
        """Close its spaces and idle connections."""
        self.spaces.close()
        while self._idle:
            self._idle.pop().close()
