"""Where a version's vectors are in Qdrant, and how readers who do not ask the catalog learn which version serves.

`collections`: a collection for each version behind one alias. `named_vectors`: one collection, a named vector for each version. The names
carry the beginning of the fingerprint, so that a name never stands for two spaces.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Protocol

import psycopg
from qdrant_client import QdrantClient, models

from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents.source import Source
from embed_pipeline.errors import ConfigurationError
from embed_pipeline.signals import signal
from embed_pipeline.spec import QdrantSpec
from embed_pipeline.stores.qdrant import allowed, configuration, indexing, payload_indexes
from embed_pipeline.stores.qdrant.engine import MINIMUM_SERVER, AlreadyThere, CollectionGone, Engine
from embed_pipeline.stores.qdrant.own_fields import KEY
from embed_pipeline.stores.qdrant.ownership import Ownership, stamp_of
from embed_pipeline.stores.qdrant.place import Place, wait_until_green
from embed_pipeline.stores.qdrant.portions import portions


class Layout(Protocol):
    """One of the two ways to lay out versions."""

    own: Ownership
    """Whose the index's collections are, and the way by which they are written."""

    def place(self, version: Version) -> Place:
        """Where the version's vectors are, whether made yet or not."""
        ...

    def vector_of(self, version: str, fingerprint: str) -> str:
        """The name of the vector that a version's label in a point belongs to."""
        ...

    def prepare(self, conn: psycopg.Connection, version: Version) -> None:
        """Make room for a version; repeating it changes nothing. AnotherLedger where what is there is not this ledger's."""
        ...

    def drop(self, conn: psycopg.Connection, version: Version) -> None:
        """Remove the version's vectors; repeating it changes nothing."""
        ...

    def serve(self, conn: psycopg.Connection, version: Version, generation: int) -> None:
        """Tell readers who do not ask the catalog that this version serves."""
        ...

    def require_ours(self, conn: psycopg.Connection, version: Version) -> None:
        """AnotherLedger where the version's vectors, or what tells readers of them, are another ledger's. Of what is gone nothing."""
        ...

    def gone(self, version: Version) -> str:
        """What of the version's place is not there, in words; empty while all is."""
        ...

    def untold(self, version: Version) -> str:
        """What of that which `serve` says is not there or says otherwise, in words; empty while readers are told so."""
        ...

    def beside(self, version: Version) -> str | None:
        """The other collection that has the documents' further vectors; None: there is none, or no other one."""
        ...


def open_layout(engine: Engine, spec: QdrantSpec, index: str, source: Source) -> Layout:
    """The layout that the declaration names."""
    name = spec.collection or index
    own = Ownership(engine, index, None if spec.adopt is None else spec.adopt.collection)
    kind = NamedVectors if spec.layout == "named_vectors" else Collections
    return kind(engine, own, spec, name, source)


class Collections:
    """A collection for each version, and an alias on the one that serves."""

    def __init__(self, engine: Engine, own: Ownership, spec: QdrantSpec, alias: str, source: Source) -> None:
        self._engine = engine
        self.own = own
        self._adopt = spec.adopt
        self._config = spec.collection_config
        self._source = source
        self.alias = alias

    def place(self, version: Version) -> Place:
        if self._adopt is not None and version.name == self._adopt.version:
            return Place(self._adopt.collection, self._adopt.vector, shared=False)
        vector = self.vector_of(version.name, version.fingerprint)
        return Place(f"{self.alias}__{version.name}__{version.fingerprint[:8]}", vector, shared=False)

    def vector_of(self, version: str, fingerprint: str) -> str:
        """A plain client that follows the alias names the same vector before and after a cutover."""
        return "" if self._adopt is None else self._adopt.vector

    def prepare(self, conn: psycopg.Connection, version: Version) -> None:
        require_version(self._engine)
        place = self.place(version)
        if _info(self._engine, self.alias, exactly=True) is not None:
            raise ConfigurationError(
                f"{self.alias!r} is a collection at {self._engine.address}, and cannot also be the alias of the one that serves.",
                next_step="Set store.collection to another name, which your clients then use, and store.adopt.collection to this one.",
            )
        self._refuse_alias(conn)
        found = _info(self._engine, place.collection)
        if found is not None:
            self.own.refuse(conn, place.collection, found)
            _require_vector(found, place, version)
        if self._adopt is not None and version.name == self._adopt.version:
            if found is None:
                raise _nothing_to_adopt(place.collection, self._engine)
            configuration.refuse_own_sharding(found, place.collection)
            allowed.refuse(conn, place, found, version, self._source)
            if stamp_of(found) is not None:
                payload_indexes.make(self.own.writer(conn), place.collection, allowed.indexes(version, self._source, None))
            return
        like_name = self.beside(version)
        like = None if like_name is None else _info(self._engine, like_name)
        if like is not None and like_name is not None:
            configuration.refuse_own_sharding(like, like_name)
        if found is None:
            signal("qdrant.making")
            # Another process may have made it by now, and it may be another ledger's: whose it is, the next write looks.
            with suppress(AlreadyThere):
                configuration.create_collection(
                    self._engine,
                    place.collection,
                    version,
                    place.vector,
                    like,
                    place.vector,
                    self.own.metadata(conn, place.collection),
                    configuration.Declared.of(self._config, version),
                )
        # Also of a collection that is there: whoever made it may have died before this.
        writer = self.own.writer(conn)
        allowed.refuse(
            conn,
            place,
            _there(self._engine, place.collection),
            version,
            self._source,
            like,
            new=writer if found is None else None,
        )
        payload_indexes.make(writer, place.collection, allowed.indexes(version, self._source, like))
        indexing.hold(writer, place.collection)

    def drop(self, conn: psycopg.Connection, version: Version) -> None:
        place = self.place(version)
        # Deleting a collection would take the alias with it.
        if _behind(self._engine, self.alias) == place.collection:
            raise ConfigurationError(
                f"The alias {self.alias!r} still leads to {place.collection}.",
                next_step="Run: embed-pipeline status; point the alias at the serving version first.",
            )
        with suppress(CollectionGone):
            self.own.writer(conn).write(place.collection, lambda client: client.delete_collection(place.collection))

    def serve(self, conn: psycopg.Connection, version: Version, generation: int) -> None:
        place = self.place(version)
        if _info(self._engine, place.collection) is None:
            raise CollectionGone(f"There is no collection {place.collection}.", next_step="Run: embed-pipeline status")
        self._refuse_alias(conn)
        # One operation, which overwrites the alias. Deleting and creating it is two, and a crash between them leaves none.
        operation = models.CreateAliasOperation(
            create_alias=models.CreateAlias(collection_name=place.collection, alias_name=self.alias)
        )
        self.own.writer(conn).write(place.collection, lambda client: client.update_collection_aliases([operation]))

    def require_ours(self, conn: psycopg.Connection, version: Version) -> None:
        self._refuse_alias(conn)
        found = _info(self._engine, self.place(version).collection)
        if found is not None:
            self.own.refuse(conn, self.place(version).collection, found)

    def gone(self, version: Version) -> str:
        place = self.place(version)
        found = _info(self._engine, place.collection)
        if found is None:
            return f"the collection {place.collection} at {self._engine.address} is not there"
        return _without_vector(found, place)

    def untold(self, version: Version) -> str:
        behind, collection = _behind(self._engine, self.alias), self.place(version).collection
        if behind == collection:
            return ""
        return f"the alias {self.alias} {'is not there' if behind is None else f'leads to {behind}'}, and not to {collection}"

    def _refuse_alias(self, conn: psycopg.Connection) -> None:
        """One alias cannot tell the readers of two ledgers which version serves. Moved by hand to nobody's collection, it is put right."""
        behind = _behind(self._engine, self.alias)
        if behind is not None:
            self.own.refuse_another(conn, behind)

    def beside(self, version: Version) -> str | None:
        """What serves; before the first cutover it is the adopted collection that does."""
        adopted = None if self._adopt is None else self._adopt.collection
        found = _behind(self._engine, self.alias) or adopted
        return None if found == self.place(version).collection else found


class NamedVectors:
    """One collection, a named vector for each version; which one serves stands in the collection's metadata."""

    def __init__(self, engine: Engine, own: Ownership, spec: QdrantSpec, collection: str, source: Source) -> None:
        self._engine = engine
        self.own = own
        self._adopt = spec.adopt
        self._config = spec.collection_config
        self._source = source
        self.collection = collection if spec.adopt is None else spec.adopt.collection

    def place(self, version: Version) -> Place:
        return Place(self.collection, self.vector_of(version.name, version.fingerprint), shared=True)

    def vector_of(self, version: str, fingerprint: str) -> str:
        if self._adopt is not None and version == self._adopt.version:
            return self._adopt.vector
        return f"{version}__{fingerprint[:8]}"

    def prepare(self, conn: psycopg.Connection, version: Version) -> None:
        require_version(self._engine)
        place = self.place(version)
        if self._adopt is not None and self._adopt.vector == "":
            raise ConfigurationError(
                f"The vector of collection {self.collection} has no name, and Qdrant adds named vectors to collections of named ones only.",
                next_step="Use layout: collections.",
            )
        declared = configuration.Declared.of(self._config, version)
        writer = self.own.writer(conn)
        indexes = allowed.indexes(version, self._source, None)
        found = _info(self._engine, self.collection)
        if found is None:
            if self._adopt is not None:
                raise _nothing_to_adopt(self.collection, self._engine)
            signal("qdrant.making")
            # Another process may have made it by now, with another version's vector in it.
            with suppress(AlreadyThere):
                configuration.create_collection(
                    self._engine,
                    self.collection,
                    version,
                    place.vector,
                    None,
                    place.vector,
                    self.own.metadata(conn, self.collection),
                    declared,
                )
                made = _there(self._engine, self.collection)
                allowed.refuse(conn, place, made, version, self._source, new=writer)
                payload_indexes.make(writer, self.collection, indexes)
                return
            found = _there(self._engine, self.collection)
        self.own.refuse(conn, self.collection, found)
        configuration.refuse_own_sharding(found, self.collection)
        allowed.refuse(conn, place, found, version, self._source)
        is_adopted = self._adopt is not None and version.name == self._adopt.version
        if not is_adopted or stamp_of(found) is not None:
            payload_indexes.make(writer, self.collection, indexes)
        like = next((configuration.params_of(found, each) for each in _vectors(found) if each != place.vector), None)
        if configuration.params_of(found, place.vector) is not None:
            _require_vector(found, place, version)
        else:
            wait_until_green(self._engine, self.collection)
            configuration.add_vector(writer, self.collection, version, place.vector, like)
        if not is_adopted:
            # Also of a vector that is there: whoever added it may have died before this.
            configuration.tune_vector(writer, self.collection, version, place.vector, like, declared)

    def drop(self, conn: psycopg.Connection, version: Version) -> None:
        place = self.place(version)
        found = _info(self._engine, self.collection)
        if found is None:
            return
        writer = self.own.writer(conn)
        if configuration.params_of(found, place.vector) is not None:
            wait_until_green(self._engine, self.collection)
            writer.write(self.collection, lambda client: client.delete_vector_name(self.collection, place.vector))
        signal("qdrant.vector_gone")
        payload_indexes.drop_own(writer, self.collection, version.name)

        def forget(these: list[models.Condition]) -> None:
            label, points = f"{KEY}.versions.{version.name}", models.Filter(must=these)
            writer.write(self.collection, lambda client: client.delete_payload(self.collection, [label], points=points))

        for these in portions(self._engine, self.collection, models.Filter()):
            forget(these)

    def serve(self, conn: psycopg.Connection, version: Version, generation: int) -> None:
        place = self.place(version)
        # Metadata is merged at the top level only: what is ours is one key, written whole.
        ours = {"version": version.name, "vector": place.vector, "fingerprint": version.fingerprint, "generation": generation}
        metadata = {KEY: {"serving": ours}}
        self.own.writer(conn).write(self.collection, lambda client: client.update_collection(self.collection, metadata=metadata))

    def require_ours(self, conn: psycopg.Connection, version: Version) -> None:
        found = _info(self._engine, self.collection)
        if found is not None:
            self.own.refuse(conn, self.collection, found)

    def gone(self, version: Version) -> str:
        found = _info(self._engine, self.collection)
        if found is None:
            return f"the collection {self.collection} at {self._engine.address} is not there"
        return _without_vector(found, self.place(version))

    def untold(self, version: Version) -> str:
        found = _info(self._engine, self.collection)
        said = ((None if found is None else found.config.metadata) or {}).get(KEY, {}).get("serving", {}).get("version")
        return (
            ""
            if said == version.name
            else f"the metadata of the collection {self.collection} does not name {version.name} as serving"
        )

    def beside(self, version: Version) -> str | None:
        """None: all vectors of a document are in one point."""
        return None


def require_version(engine: Engine) -> None:
    """Refuse a server that is too old. Local mode is as new as the client."""
    if engine.is_local:
        return
    said = engine.call(lambda client: client.info().version)
    numbers = tuple(int(part) for part in said.split("-")[0].split(".")[:2])
    if numbers < MINIMUM_SERVER:
        least = ".".join(map(str, MINIMUM_SERVER))
        raise ConfigurationError(
            f"Qdrant at {engine.address} is {said}; guarded writes are safe from {least} on.", next_step="Upgrade the server."
        )


def _info(engine: Engine, name: str, *, exactly: bool = False) -> models.CollectionInfo | None:
    """The collection behind a name, or None. `exactly`: an alias of that name does not count."""

    def look(client: QdrantClient) -> models.CollectionInfo | None:
        if exactly and any(alias.alias_name == name for alias in client.get_aliases().aliases):
            return None
        return client.get_collection(name) if client.collection_exists(name) else None

    return engine.call(look)


def _there(engine: Engine, name: str) -> models.CollectionInfo:
    return engine.call(lambda client: client.get_collection(name))


def _behind(engine: Engine, alias: str) -> str | None:
    aliases = engine.call(lambda client: client.get_aliases().aliases)
    return next((each.collection_name for each in aliases if each.alias_name == alias), None)


def _vectors(info: models.CollectionInfo) -> list[str]:
    vectors: Any = info.config.params.vectors
    return list(vectors) if isinstance(vectors, dict) else [""]


def _without_vector(info: models.CollectionInfo, place: Place) -> str:
    if configuration.params_of(info, place.vector) is not None:
        return ""
    return f"the collection {place.collection} has no {f'vector {place.vector}' if place.vector else 'unnamed vector'}"


def _require_vector(info: models.CollectionInfo, place: Place, version: Version) -> None:
    params = configuration.params_of(info, place.vector)
    named = f"vector {place.vector!r}" if place.vector else "an unnamed vector"
    if params is None:
        raise ConfigurationError(
            f"Collection {place.collection} has no {named}; it has {', '.join(map(repr, _vectors(info)))}.",
            next_step="Correct store.adopt.vector in the index's defs.yaml.",
        )
    wanted = (version.dimensions, configuration.DISTANCES[version.distance])
    if (params.size, params.distance) != wanted:
        raise ConfigurationError(
            f"{named} of collection {place.collection} has {params.size} dimensions and distance {params.distance.value}; "
            f"version {version.name} declares {wanted[0]} and {wanted[1].value}.",
            next_step="Declare the version as the collection is.",
        )


def _nothing_to_adopt(collection: str, engine: Engine) -> ConfigurationError:
    return ConfigurationError(
        f"There is no collection {collection} at {engine.address} to adopt.", next_step="Correct store.adopt.collection."
    )
