"""The spaces of an index: each version's store and model, opened once and in one way, for workers, readers and the gate alike.

A space is known by its version's name and fingerprint: a version that goes from building to ready is the same one. No model embeds for a
version but one whose fingerprint is the registered one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from embed_pipeline import forks
from embed_pipeline.accounts.meter import DatabaseMeter, RateLimiter
from embed_pipeline.accounts.terms import Terms
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents.source import Source
from embed_pipeline.embedders import registry as embedders
from embed_pipeline.embedders.checked import VersionEmbedder, fingerprint_of
from embed_pipeline.errors import ConfigurationError, EmbedderError, EmbedPipelineError, WrongSpace
from embed_pipeline.spec import LOCAL, HnswSpec, StoreSpec, VersionSpec
from embed_pipeline.stores import registry as stores
from embed_pipeline.stores.protocol import VersionStore

# To open a model may take seconds: one that failed is not opened again for so long, unless it is asked for by name.
AGAIN_SECONDS = 60.0

OwnPlace = str | Path | Mapping[str, str | Path]
"""Where the files of a version are on this machine."""

NO_MODEL = (ConfigurationError, EmbedderError, WrongSpace)
"""Errors that mean that this machine lacks the model of a version."""

Way = tuple[object, ...]


class Space:
    """One version's store, and its model with the meter of its provider. Thread-safe."""

    def __init__(self, spaces: Spaces, version: Version) -> None:
        self.version = version
        """As it was last seen: its state and its settings change."""
        self._spaces = spaces

    @property
    def store(self) -> VersionStore:
        """Where its vectors are, and how they are searched by the settings of now."""
        return self._spaces.store(self.version)

    @property
    def embedder(self) -> VersionEmbedder:
        """Its model. Raises what `NO_MODEL` lists when this machine lacks it."""
        version = self.version
        embedder = self._spaces.model(version.name, version.declared)
        if embedder.fingerprint != version.fingerprint:
            self._spaces.drop_model(embedder)
            raise wrong_model(version, embedder.fingerprint)
        return embedder


class Spaces:
    """The spaces of one index, and what they share. Thread-safe; a model that is being opened holds up nobody who needs another one."""

    def __init__(self, index: str, url: str, terms: Callable[[], Terms], own: Callable[[Version], Version]) -> None:
        """`terms`: what accounts with providers may do; asked for when the model of a provider is opened. `own`: a registered version with
        the settings that count here, which the catalog need not have."""
        self._index = index
        self._url = url
        self._terms = terms
        self._own = own
        self._place: tuple[StoreSpec, Source] | None = None
        self._stores: dict[tuple[str, str, HnswSpec], VersionStore] = {}
        self._left: list[VersionStore] = []
        self._limiter: RateLimiter | None = None
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._spaces: dict[tuple[str, str], Space] = {}
        self._models: dict[tuple[str, Way], VersionEmbedder] = {}
        self._meters: dict[str, DatabaseMeter] = {}
        self._failed: dict[str, tuple[float, EmbedPipelineError]] = {}

    def forked(self) -> None:
        """See `forks.Holder`. Models are opened again: a model computes in threads that a forked process does not have. Stores and the
        limiter see to what is theirs."""
        forks.abandon(*self._models.values(), self._lock, self._opening)
        self._begin()

    def settle(self, store: StoreSpec, source: Source, *, in_use: bool = False) -> None:
        """Where vectors and documents are from now on. The stores that were open are used no more; of those that somebody may still be at
        (`in_use`) `close` sees to it that they are closed."""
        with self._lock:
            if self._place == (store, source):
                return
            left = list(self._stores.values())
            self._place, self._stores = (store, source), {}
            if in_use:
                self._left += left
                return
        for each in left:
            each.close()

    def of(self, version: Version) -> Space:
        """The space of a version, which is `version` with the settings that count here from now on."""
        seen = self._own(version)
        with self._lock:
            space = self._spaces.setdefault((version.name, version.fingerprint), Space(self, seen))
            if space.version != seen:
                space.version = seen
            return space

    def store(self, version: Version) -> VersionStore:
        """The store of a version. One for each way to search that was ever set, since somebody may still be at it by the one before."""
        key = (version.name, version.fingerprint, version.declared.hnsw)
        with self._lock:
            found = self._stores.get(key)
            if found is None:
                assert self._place is not None, "settle comes first"
                found = self._stores[key] = stores.open_store(self._place[0], version, self._place[1])
            return found

    def model(self, name: str, declared: VersionSpec) -> VersionEmbedder:
        """The model of a declared version, registered or not. One for each way to a provider: a file that moves is the same model."""
        way = (
            (declared.account_name, declared.base_url, declared.api_version, declared.send_dimensions)
            if declared.is_remote
            else ()
        )
        with self._lock:
            found = self._models.get((name, way))
        if found is not None:
            return found
        with self._opening:
            found = self._models.get((name, way))
            if found is None:
                found = self._opened(name, declared)
                with self._lock:
                    self._models[name, way] = found
            return found

    def _opened(self, name: str, declared: VersionSpec) -> VersionEmbedder:
        # Only a version of a provider has an account; who may search another needs no right to read the terms.
        account = None
        if declared.is_remote:
            terms = self._terms()
            account = terms.account(declared)
            self._limiter = self._limiter or RateLimiter(self._url)
            meter = self._limiter.meter(self._index, name, declared, terms)
            if meter is not None:
                self._meters[name] = meter
        return VersionEmbedder.open(declared, name=name, account=account, meter=self._meters.get(name))

    def drop_model(self, embedder: VersionEmbedder) -> None:
        """Close a model that is the wrong one, so that its file may be exchanged."""
        with self._lock:
            self._models = {key: each for key, each in self._models.items() if each is not embedder}
        embedder.close()

    def meter(self, name: str) -> DatabaseMeter | None:
        """The meter that the requests of a version's provider pass through, once its model is open; None for a version without a provider."""
        return self._meters.get(name)

    def require_model(self, space: Space) -> None:
        """Raise what `NO_MODEL` lists if this machine cannot embed for a version, as far as that can be told without opening its model.

        Files are hashed. Of a provider the key is looked for; of an embedder of the user's own, its module.
        """
        version = space.version
        declared = version.declared
        with self._lock:
            is_open = any(
                name == version.name and each.fingerprint == version.fingerprint for (name, _), each in self._models.items()
            )
            failed = self._failed.get(version.fingerprint)
        if is_open:
            return
        account = self._terms().account(declared) if declared.is_remote else None
        identity = embedders.identity_of(declared, account)
        if identity is not None and (found := fingerprint_of(declared, identity)) != version.fingerprint:
            raise wrong_model(version, found)
        if failed is not None and time.monotonic() - failed[0] < AGAIN_SECONDS:
            raise failed[1]

    def try_model(self, space: Space) -> VersionEmbedder:
        """The model, unless it is clear that this machine lacks it: that must not cost every query seconds."""
        self.require_model(space)
        try:
            return space.embedder
        except NO_MODEL as problem:
            self._failed[space.version.fingerprint] = (time.monotonic(), problem)
            raise

    def close(self) -> None:
        """Close stores, models, and the limiter at the shared meter."""
        with self._lock:
            stores, models = [*self._left, *self._stores.values()], list(self._models.values())
            self._left, self._stores, self._models, self._spaces = [], {}, {}, {}
            limiter, self._limiter = self._limiter, None
        for store in stores:
            store.close()
        for model in models:
            model.close()
        if limiter is not None:
            limiter.close()


def wrong_model(version: Version, found: str) -> WrongSpace:
    """The refusal of a model that is not the registered one, wherever it is met."""
    return WrongSpace(
        f"The model of {version.index}.{version.name} on this machine is not the one that was registered: its fingerprint is {found[:12]}, "
        f"the catalog says {version.fingerprint[:12]}.",
        next_step="Put the registered model file back, or declare this one as a new version.",
    )


def at_own_place(version: Version, place: OwnPlace) -> Version:
    """A version whose files are at `place` on this machine: its model's file, a folder, or both paths by their names in a declaration.

    In the folder, that of the model's file too, a file has the name of the declared one; a tokenizer that is not there is taken as declared.
    """
    if isinstance(place, Mapping):
        if unknown := sorted(place.keys() - LOCAL):
            raise ConfigurationError(
                f"models[{version.name!r}] names {', '.join(unknown)}, which is no path of a machine's own.",
                next_step=f"Name {' and '.join(sorted(LOCAL))}.",
            )
        return version.with_settings({name: str(path) for name, path in place.items()})
    declared, path = version.declared, Path(place).expanduser()
    if declared.model_path is None:
        raise ConfigurationError(
            f"models[{version.name!r}] names {path}, and a version of provider {declared.provider} has no model file.",
            next_step="Leave it out.",
        )
    folder = path if path.is_dir() else path.parent
    own = {"model_path": str(folder / _file_name(declared.model_path) if path.is_dir() else path)}
    if declared.tokenizer_path is not None and (beside := folder / _file_name(declared.tokenizer_path)).is_file():
        own["tokenizer_path"] = str(beside)
    return version.with_settings(own)


def _file_name(declared: str) -> str:
    return PurePosixPath(declared).name
