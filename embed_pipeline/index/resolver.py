"""From the serving pointer to what a query goes through: vectors and models of each version of the route, as one look found them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass

import psycopg

from embed_pipeline.accounts.terms import Terms
from embed_pipeline.catalog import adapters, indexes, serving, versions
from embed_pipeline.catalog.adapters import Adapter
from embed_pipeline.catalog.indexes import RegisteredIndex
from embed_pipeline.catalog.route import Route
from embed_pipeline.catalog.serving import Pointer
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents.source import inspect
from embed_pipeline.embedders.checked import VersionEmbedder
from embed_pipeline.errors import CatalogError
from embed_pipeline.index.space import NO_MODEL, OwnPlace, Space, Spaces, at_own_place
from embed_pipeline.postgres.connection import connect
from embed_pipeline.stores.protocol import VersionStore

logger = logging.getLogger("embed_pipeline.search")


@dataclass(frozen=True)
class Refining:
    """The version that puts in order what is found in another one's vectors."""

    version: Version
    store: VersionStore
    embedder: VersionEmbedder
    depth: int


@dataclass(frozen=True)
class Bridge:
    """The version whose model embeds queries, and the map that takes them into the space that is searched."""

    version: Version
    embedder: VersionEmbedder
    adapter: Adapter


@dataclass(frozen=True)
class Serving:
    """The result of one look at the pointer: all that a query needs of the version that serves and of the other one on its route.

    `note`: why this machine leaves out the other version of the serving route; empty while it does not.
    """

    generation: int
    version: Version
    store: VersionStore
    embedder: VersionEmbedder
    """Of the version; on a bridge of the other one, whose queries are mapped."""
    refining: Refining | None = None
    note: str = ""
    bridge: Bridge | None = None

    @property
    def route(self) -> Route:
        """The route of this machine's queries."""
        by, bridge = self.refining, self.bridge
        if bridge is not None:
            return Route(self.version.name, queries=bridge.version.name, adapter=bridge.adapter.id)
        return Route(self.version.name) if by is None else Route(self.version.name, by.version.name, by.depth)


class Resolver:
    """Looks at the pointer for one searcher, and keeps what it has opened. Thread-safe."""

    def __init__(self, index: str, url: str, models: Mapping[str, OwnPlace]) -> None:
        """`models`: by version, where its files are on this machine."""
        self._index = index
        self._url = url
        self._models = dict(models)
        self.spaces = Spaces(index, url, self._terms, self._here)
        self._found: RegisteredIndex | None = None
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._behind: str | None = None
        """The fingerprint that serves, while this machine lacks its model."""
        self._left_out: str | None = None
        """The fingerprint of the other version on the serving route, while this machine lacks its model."""
        self._map: Adapter | None = None

    def forked(self) -> None:
        """See `forks.Holder`."""
        self.spaces.forked()
        self._begin()

    def look(self, conn: psycopg.Connection, name: str | None) -> Serving:
        """The version that serves, or the live version `name`."""
        pointer = serving.read(conn, self._index)
        wanted = name or pointer.version
        if wanted is None:
            raise CatalogError(
                f"Index {self._index!r} serves nothing yet.", next_step=f"Run: embed-pipeline status {self._index}"
            )
        version = versions.get(conn, self._index, wanted)
        if not version.is_live:
            raise CatalogError(
                f"Version {wanted!r} of index {self._index!r} is retired.",
                next_step=f"Serving is {pointer.version}: search without naming a version.",
            )
        self._settle(conn)
        space = self.spaces.of(version)
        if name is not None:
            return Serving(pointer.generation, version, space.store, space.embedder)
        refining, note = None, ""
        if pointer.route is not None and pointer.route.adapter is not None:
            bridge, note = self._bridge(conn, pointer.route)
            if bridge is not None:
                return Serving(pointer.generation, space.version, space.store, bridge.embedder, bridge=bridge)
        space, embedder = self._followed(conn, pointer, space)
        if not note and pointer.route is not None and space.version.name == pointer.version:
            refining, note = self._refining(conn, pointer.route)
        return Serving(pointer.generation, space.version, space.store, embedder, refining, note)

    def _bridge(self, conn: psycopg.Connection, route: Route) -> tuple[Bridge | None, str]:
        """The version whose queries are mapped on this route, with its adapter; or why queries are not, here."""
        version, adapter = versions.get(conn, self._index, str(route.queries)), self._adapter(conn, route.adapter)
        if adapter is None:
            return None, f"There is no adapter {route.adapter}."
        try:
            space = self.spaces.of(version)
            return Bridge(space.version, self.spaces.try_model(space), adapter), ""
        except NO_MODEL as problem:
            return None, self._say_left_out(version, f"is asked by {version.name}", str(problem))

    def _adapter(self, conn: psycopg.Connection, adapter_id: int | None) -> Adapter | None:
        """A stored adapter is never changed, so it is read once."""
        if self._map is None or self._map.id != adapter_id:
            self._map = None if adapter_id is None else adapters.read(conn, self._index, adapter_id)
        return self._map

    def _refining(self, conn: psycopg.Connection, route: Route) -> tuple[Refining | None, str]:
        """The version that refines on this route, or why there is none here: then the list stays as it is, and no search fails."""
        if route.refine is None or route.depth is None:
            return None, ""
        version = versions.get(conn, self._index, route.refine)
        if not version.is_live:
            return None, f"{version.name} is retired."
        try:
            space = self.spaces.of(version)
            found = Refining(space.version, space.store, self.spaces.try_model(space), route.depth)
        except NO_MODEL as problem:
            return None, self._say_left_out(version, f"is refined by {version.name}", str(problem))
        except psycopg.errors.InsufficientPrivilege as problem:
            # Of its account with a provider: this role may search, and not ask that model.
            why = f"This role may not use {version.name}: {problem.diag.message_primary}."
            return None, self._say_left_out(version, f"is refined by {version.name}", why)
        self._left_out = None
        return found, ""

    def _say_left_out(self, version: Version, route: str, why: str) -> str:
        """In the log, once for each version; returns `why`."""
        with self._lock:
            if self._left_out == version.fingerprint:
                return why
            self._left_out = version.fingerprint
        logger.warning("%s %s, and searches of this machine are not: %s", self._index, route, why)
        return why

    def _followed(self, conn: psycopg.Connection, pointer: Pointer, space: Space) -> tuple[Space, VersionEmbedder]:
        """The space that serves; while this machine lacks its model, the one that served before, as long as that is live."""
        try:
            embedder = self.spaces.try_model(space)
        except NO_MODEL as problem:
            before = None if pointer.previous is None else versions.get(conn, self._index, pointer.previous)
            if before is None or not before.is_live:
                raise
            stays = self.spaces.of(before)
            try:
                embedder = self.spaces.try_model(stays)
            except NO_MODEL:
                raise problem from None
            self._say_behind(space.version, before, str(problem))
            return stays, embedder
        self._behind = None
        return space, embedder

    def _say_behind(self, serves: Version, before: Version, why: str) -> None:
        """In the log, once for each version that could not be followed."""
        with self._lock:
            if self._behind == serves.fingerprint:
                return
            self._behind = serves.fingerprint
        logger.warning(
            "%s serves %s, and this machine cannot embed queries for it: %s Searches go on with %s until that is retired.",
            self._index,
            serves.name,
            why,
            before.name,
        )

    def _settle(self, conn: psycopg.Connection) -> None:
        """Where documents and vectors are now. Stores are kept for the life of the searcher: a query that resolved earlier may be at one."""
        found = indexes.find(conn, self._index)
        assert found is not None
        with self._lock:
            if found != self._found:
                self.spaces.settle(found.store, inspect(conn, found.documents, captured=False), in_use=True)
                self._found = found

    def _here(self, version: Version) -> Version:
        place = self._models.get(version.name)
        return version if place is None else at_own_place(version, place)

    def _terms(self) -> Terms:
        # Over a connection of its own: the searcher's may all be waiting for this.
        with connect(self._url, autocommit=True) as conn:
            return Terms.read(conn, self._index)
