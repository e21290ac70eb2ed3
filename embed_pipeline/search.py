"""The read path. A query carries its version: it is embedded with that version's model and meets that version's vectors only.

Imports neither Dagster nor pydantic models at import time; made for an application's request path.
"""

from __future__ import annotations

import operator
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import psycopg

from embed_pipeline import forks
from embed_pipeline.errors import CatalogError, ConfigurationError, EmbedderError, EmbedPipelineError, VersionRetired, WrongSpace
from embed_pipeline.signals import signal

if TYPE_CHECKING:
    from embed_pipeline.adapt.refine import Refined
    from embed_pipeline.catalog.route import Route
    from embed_pipeline.catalog.versions import Version
    from embed_pipeline.documents.selection import Selection
    from embed_pipeline.embedders.checked import VersionEmbedder
    from embed_pipeline.embedders.protocol import Vectors
    from embed_pipeline.index.canary import Canary, Declared, Key
    from embed_pipeline.index.resolver import Refining, Serving
    from embed_pipeline.index.shadow import Shadow
    from embed_pipeline.index.space import OwnPlace
    from embed_pipeline.stores.protocol import Hit

# How long a closed searcher is waited for to say that it searches no more, where a cutover would be refused because of it.
FAREWELL_SECONDS = 2.0
# So long a model that has failed is not asked to refine again.
AGAIN_SECONDS = 60.0
# More hits than that are an export, and no search.
MOST_HITS = 100_000


@dataclass(frozen=True)
class QueryVector:
    """A query vector with the space it lives in."""

    version: str
    fingerprint: str
    values: Vectors


@dataclass(frozen=True)
class Answer:
    """Hits, the best first, and the one route that the query went through. They are all of `version`, and so is each distance: nearest
    first, unless another version has put them in order (`route.refine`), which then has given `placed` of them their place.

    On a bridge the query is another version's, mapped into the space that is searched (`route.queries`). `note`: why the other version of the
    serving route was left out.
    """

    version: str
    fingerprint: str
    generation: int
    hits: Sequence[Hit]
    route: Route
    placed: int = 0
    note: str = ""


class Searcher:
    """Searches one index by its serving version. Thread-safe; keep one for the life of the process.

    The pointer is cached; a background connection hears of a flip by NOTIFY, and the cache is never trusted for longer than
    `refresh_seconds`. A reader that resolved just before a flip finishes in the old version, which stays until it is retired. One whose
    machine lacks the new version's model goes on with the version before while that is live; the log and `Answer.version` say so. Where the
    serving route is refined by a version whose model it lacks, it goes on without that one; the log and `Answer.note` say so.
    """

    def __init__(
        self,
        index: str,
        database_url: str | None = None,
        *,
        refresh_seconds: float = 5.0,
        max_connections: int = 8,
        query_cache: int = 0,
        models: Mapping[str, OwnPlace] | None = None,
        shadow: str | None = None,
        share: float = 0.05,
        keep_queries: bool = False,
        canary: Declared | None = None,
    ) -> None:
        """`query_cache`: so many query vectors are kept, by space and text; 0 keeps none and embeds every query.

        `models`: by version, where its files are on this machine, when that is not where they were declared to be last: the model's file, or
        a folder that holds files of the declared names, or a mapping of `model_path` and `tokenizer_path`.

        `shadow`: a version that is asked the same after an answer was given, for `share` of the searches, in a thread of its own; what it
        finds is compared and counted, and changes no answer. `keep_queries`: the queries that agree least are kept with their texts.

        `canary`: a share of the users (`search(key=...)`), who are answered by the one ready version that has passed its gate, or by the one
        that is named: `("v2", 0.05)`. The same users in every process, and none while nothing has passed.
        """
        from embed_pipeline.index.resolver import Resolver
        from embed_pipeline.postgres.connection import resolve_url
        from embed_pipeline.postgres.sessions import Sessions

        self.index = index
        self._url = resolve_url(database_url)
        self._refresh_seconds = refresh_seconds
        self._query_cache = query_cache
        self._resolver = Resolver(index, self._url, models or {})
        self._sessions = Sessions(self._url, max_connections)
        self._shadow = None if shadow is None else self._shadowed(shadow, share, keep_queries, models or {})
        self._canary = None if canary is None else self._tried(canary)
        self._closed = threading.Event()
        self._begin()
        self._listen_on()
        forks.tell(self)

    def _begin(self) -> None:
        """What a forked process begins with, too."""
        from embed_pipeline.index.abilities import Abilities
        from embed_pipeline.query_cache import QueryCache

        self._lock = threading.Lock()
        self._cache = QueryCache(self._query_cache)
        self._abilities = Abilities(self.index, self._resolver.spaces)
        self._resolved: dict[str | None, tuple[Serving, float]] = {}
        """What a look gave, by the version asked for, and when it began; None: what serves."""
        self._noted: dict[str, float] = {}
        self._unasked: dict[str, tuple[float, EmbedderError]] = {}
        """By fingerprint, what the model of a version that refines has failed with, and when."""
        self._listener: threading.Thread | None = None

    def _shadowed(self, version: str, share: float, keep_queries: bool, models: Mapping[str, OwnPlace]) -> Shadow:
        from embed_pipeline.index.shadow import Shadow

        return Shadow(self.index, self._url, models, version, share, keep_queries, self._refresh_seconds)

    def _tried(self, declared: Declared) -> Canary:
        from embed_pipeline.index.canary import Canary

        return Canary(self.index, declared, self._refresh_seconds)

    def _listen_on(self) -> None:
        from embed_pipeline.index.flips import Flips

        flips = Flips(self.index, self._url, self._closed, self._abilities, self._forget)
        self._listener = threading.Thread(target=flips.follow, name=f"embed-pipeline-{self.index}", daemon=True)
        self._listener.start()

    def forked(self) -> None:
        """See `forks.Holder`."""
        forks.abandon(self._resolved, self._cache, self._lock, self._listener, self._closed)
        self._resolver.forked()
        was_closed, self._closed = self._closed.is_set(), threading.Event()
        if was_closed:
            self._closed.set()
        self._begin()

    def search(
        self,
        text: str,
        k: int = 10,
        *,
        version: str | None = None,
        where: Mapping[str, Any] | None = None,
        exact: bool = False,
        with_documents: bool | Sequence[str] = False,
        visible_only: bool = False,
        min_score: float | Literal["declared"] | None = None,
        key: Key | None = None,
    ) -> Answer:
        """The `k` documents nearest to `text`, by the serving version or by a named live one; fewer only where there are no more.

        `where` filters by the documents' columns: a value, None, a list of these, or a range `{"gte": ..., "lt": ...}`.
        `with_documents`: hits bring `document`, the text and all columns, or the text and the named ones. `visible_only`: no document
        that row security hides from this role. `min_score`: no hit whose `score` is lower; "declared": than what the version that is searched
        declares, and none is left out where it declares nothing. `key`: whose search it is, for a canary.

        WrongSpace, CatalogError and ConfigurationError refuse; nothing is guessed.
        """
        most, among = _asked(k, where, with_documents, visible_only)
        began = time.monotonic()

        def ask(serving: Serving) -> Answer:
            query = self._in_its_space(serving, text)
            if serving.refining is None:
                answer = self._ask(serving, query, most, among, exact)
            else:
                answer = self._refined(serving, serving.refining, text, query, most, among, exact)
            if self._shadow is not None and version is None:
                self._offer(self._shadow, text, most, among, answer, time.monotonic() - began)
            return _at_least(answer, serving.version.declared.min_score if min_score == "declared" else min_score)

        if self._canary is not None and version is None and key is not None:
            return self._tried_on(self._canary, key, ask)
        return self._asked_twice(version, ask)

    def _tried_on(self, canary: Canary, key: Key, ask: Callable[[Serving], Answer]) -> Answer:
        """The answer by the version that this user is on; by what serves where that version has gone in the middle of it."""
        version = self._side(canary, key)
        signal("search.sided")
        if version is None:
            return self._asked_twice(None, ask)
        try:
            return self._asked_twice(version, ask)
        except (psycopg.errors.UndefinedTable, VersionRetired, CatalogError):
            self._forget()
            return self._asked_twice(None, ask)

    def _side(self, canary: Canary, key: Key) -> str | None:
        """The version that is tried out on this user, once this machine has opened it; None: what serves."""
        known = canary.known
        chosen = self._sessions.run(canary.look) if known is None else known[0]
        if chosen is None or not canary.takes(chosen, key):
            return None
        try:
            self._resolve(chosen.version)
        except EmbedPipelineError as problem:
            canary.without(chosen, str(problem))
            return None
        return chosen.version

    def _offer(self, shadow: Shadow, text: str, k: int, among: Selection, answer: Answer, seconds: float) -> None:
        from embed_pipeline.index.shadow import Answered

        # Without the documents, which the shadow has no use for.
        asked = replace(among, columns=None)
        shadow.offer(Answered(text, k, asked, answer.version, str(answer.route), answer.hits, seconds))

    def embed(self, text: str, version: str | None = None) -> QueryVector:
        """The query vector of `text` with its space, to keep or to search with later."""
        serving = self._resolve(version)
        query = self._in_its_space(serving, text)
        return QueryVector(serving.version.name, serving.version.fingerprint, query)

    def search_vector(
        self,
        query: QueryVector,
        k: int = 10,
        *,
        where: Mapping[str, Any] | None = None,
        exact: bool = False,
        with_documents: bool | Sequence[str] = False,
        visible_only: bool = False,
        min_score: float | Literal["declared"] | None = None,
    ) -> Answer:
        """Search with a vector made before. It meets the vectors of its own version or none: WrongSpace says which it is not."""
        most, among = _asked(k, where, with_documents, visible_only)

        def ask(serving: Serving) -> Answer:
            answer = self._ask(serving, self._checked(serving, query), most, among, exact)
            return _at_least(answer, serving.version.declared.min_score if min_score == "declared" else min_score)

        return self._asked_twice(query.version, ask)

    def prepare(self, version: str | None = None) -> None:
        """Open the model and the store of a live version now, ahead of its cutover, and note in the catalog that this process can follow.

        Without `version`: of what serves, so that the first search need not wait for it. Raises ConfigurationError, EmbedderError or WrongSpace
        when this machine lacks the model, and notes that too.
        """
        try:
            self._sessions.run(lambda conn: self._look(conn, version))
        finally:
            with suppress(psycopg.Error, EmbedPipelineError):
                self._sessions.run(self._abilities.say)

    def _asked_twice(self, version: str | None, ask: Callable[[Serving], Answer]) -> Answer:
        try:
            return ask(self._resolve(version))
        except (psycopg.errors.UndefinedTable, VersionRetired):
            # Retired between our look at the pointer and the search: look again, once.
            self._forget()
            return ask(self._resolve(version))

    def _checked(self, serving: Serving, query: QueryVector) -> Vectors:
        if query.fingerprint != serving.version.fingerprint:
            raise WrongSpace(
                f"The query vector is of space {query.fingerprint[:12]}, version {query.version} of {self.index} is "
                f"{serving.version.fingerprint[:12]}.",
                next_step="Embed the query with Searcher.embed, or search by text.",
            )
        values = np.asarray(query.values, dtype=np.float32)
        if values.shape != (serving.version.dimensions,):
            raise WrongSpace(
                f"The query vector has shape {values.shape}, version {query.version} of {self.index} has "
                f"{serving.version.dimensions} dimensions.",
                next_step="Embed the query with Searcher.embed, or search by text.",
            )
        return values

    def close(self) -> None:
        """Close connections, stores and models."""
        self._closed.set()
        if self._abilities.is_left_behind and self._listener is not None:
            self._listener.join(FAREWELL_SECONDS)
        if self._shadow is not None:
            self._shadow.close()
        self._sessions.close()
        self._resolver.spaces.close()

    def __enter__(self) -> Searcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _in_its_space(self, serving: Serving, text: str) -> Vectors:
        """The query in the space that is searched: embedded there, or mapped into it by the adapter of a bridge."""
        if serving.bridge is None:
            return self._query(serving.version, serving.embedder, text)
        return serving.bridge.adapter.map.apply(self._query(serving.bridge.version, serving.bridge.embedder, text))

    def _query(self, version: Version, embedder: VersionEmbedder, text: str) -> Vectors:
        vector = self._cache.get(version.fingerprint, text)
        if vector is None:
            vector = embedder.embed_query(text)
            self._cache.put(version.fingerprint, text, vector)
        return vector

    def _ask(self, serving: Serving, vector: Vectors, k: int, among: Selection, exact: bool, note: str = "") -> Answer:
        """Search in one version's vectors."""
        from embed_pipeline.catalog.route import Route

        version, bridge = serving.version, serving.bridge
        route = Route(version.name) if bridge is None else serving.route

        def ask(conn: psycopg.Connection) -> Sequence[Hit]:
            self._note_read(conn, version.name)
            if bridge is not None:
                self._note_read(conn, bridge.version.name)
            return serving.store.search(conn, vector, k, exact=exact, among=among)

        hits = self._sessions.run(ask)
        return Answer(version.name, version.fingerprint, serving.generation, hits, route, note=note or serving.note)

    def _refined(
        self, serving: Serving, by: Refining, text: str, vector: Vectors, k: int, among: Selection, exact: bool
    ) -> Answer:
        """Search in one version's vectors, and have another put in order what is found. Without that other one no search fails."""
        from embed_pipeline.adapt import refine
        from embed_pipeline.catalog.route import Route

        try:
            other = self._other_query(by, text)
        except EmbedPipelineError as problem:
            return self._ask(serving, vector, k, among, exact, note=str(problem))

        def ask(conn: psycopg.Connection) -> Refined:
            self._note_read(conn, serving.version.name)
            hits = serving.store.search(conn, vector, max(k, by.depth), exact=exact, among=among)
            signal("search.listed")
            try:
                self._note_read(conn, by.version.name)
                return refine.put_in_order(conn, by.store, other, hits, k, by.depth)
            except EmbedPipelineError as problem:
                return refine.Refined(hits[:k], note=str(problem))
            except psycopg.errors.InsufficientPrivilege as problem:
                return refine.Refined(hits[:k], note=f"This role may not read {by.version.name}: {problem.diag.message_primary}.")

        found, version = self._sessions.run(ask), serving.version
        route = Route(version.name) if found.note else serving.route
        return Answer(version.name, version.fingerprint, serving.generation, found.hits, route, len(found.placed), found.note)

    def _other_query(self, by: Refining, text: str) -> Vectors:
        """The query in the space of the version that refines. A model that has failed is left alone for a while: each search would wait for it."""
        failed = self._unasked.get(by.version.fingerprint)
        if failed is not None and time.monotonic() - failed[0] < AGAIN_SECONDS:
            raise failed[1]
        try:
            return self._query(by.version, by.embedder, text)
        except EmbedderError as problem:
            self._unasked[by.version.fingerprint] = (time.monotonic(), problem)
            raise

    def _resolve(self, version: str | None) -> Serving:
        found = self._resolved.get(version)
        if found is not None and time.monotonic() - found[1] < self._refresh_seconds:
            return found[0]
        if self._listener is None and not self._closed.is_set():
            with self._lock:
                if self._listener is None:
                    self._listen_on()
        return self._sessions.run(lambda conn: self._look(conn, version))

    def _look(self, conn: psycopg.Connection, name: str | None) -> Serving:
        # The time before the look: a flip during it makes the next query look again.
        looked = time.monotonic()
        resolved = self._resolver.look(conn, name)
        with self._lock:
            self._resolved[name] = (resolved, looked)
        return resolved

    def _note_read(self, conn: psycopg.Connection, version: str) -> None:
        """Tell the catalog that this version is still read, so that retire refuses; at most every ten seconds."""
        from embed_pipeline.catalog import reads

        now = time.monotonic()
        if now - self._noted.get(version, float("-inf")) < 10:
            return
        reads.note(conn, self.index, version)
        self._noted[version] = now

    def _forget(self) -> None:
        if self._canary is not None:
            self._canary.forget()
        with self._lock:
            self._resolved.clear()


def _asked(
    k: Any, where: Mapping[str, Any] | None, with_documents: bool | Sequence[str], visible_only: bool
) -> tuple[int, Selection]:
    """What an application asks for, looked at before anything is embedded."""
    from embed_pipeline.documents.selection import Selection

    try:
        most = 0 if isinstance(k, bool) else operator.index(k)
    except TypeError:
        most = 0
    if not 1 <= most <= MOST_HITS:
        raise ConfigurationError(f"k is {k!r}, and a search gives from 1 to {MOST_HITS:,} documents.", next_step="Ask for k=10.")
    return most, Selection.of(where, with_documents, visible_only)


def _at_least(answer: Answer, score: float | None) -> Answer:
    """The answer without the hits that score less. `placed` still counts those of the whole list."""
    return answer if score is None else replace(answer, hits=[hit for hit in answer.hits if hit.score >= score])
