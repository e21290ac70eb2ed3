"""One Qdrant: a server by URL, or qdrant-client's local mode behind one lock. Every call goes through here, every error leaves in our words."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from embed_pipeline import forks
from embed_pipeline.errors import ConfigurationError, EmbedPipelineError, StoreRefused, StoreUnavailable
from embed_pipeline.stores import patience
from embed_pipeline.stores.qdrant.limits import Limits, setting_of

T = TypeVar("T")

# Named vectors can be added since 1.18, and safely since 1.19, which also resolves conditional writes before it logs them.
MINIMUM_SERVER = (1, 19)

# Asked to wait for longer than this, a call gives up and says so.
LONGEST_RETRY_AFTER = 30.0
BUSY_TRIES = 6
# What a collection allows is asked again after so long, and when it has refused something.
LIMITS_SECONDS = 10.0
# Local mode belongs to one process; another one may be about to finish.
FOLDER_SECONDS = 30.0


class CollectionGone(EmbedPipelineError):
    """The collection is not there (any more)."""


class VectorGone(EmbedPipelineError):
    """A named vector of the request is not in the collection (any more)."""


class AlreadyThere(StoreRefused):
    """What was to be made is there."""


@dataclass(frozen=True)
class Address:
    """Where a Qdrant is. `key_variable` names the environment variable with the API key; the key itself is never kept."""

    url: str | None
    folder: Path | None
    key_variable: str
    timeout_seconds: float

    def __str__(self) -> str:
        return self.url or f"the local mode in {self.folder}"


class Engine:
    """Thread-safe access to one Qdrant. Opened at the first call, closed by its last user."""

    def __init__(self, address: Address, key: Callable[[str], str | None]) -> None:
        self.address = address
        self._key = key
        self._client: QdrantClient | None = None
        self.busy_until = 0.0
        """Monotonic time until which the server has asked for patience (429)."""
        self._limits: dict[str, tuple[float, Limits]] = {}
        self._begin()
        forks.tell(self)

    def _begin(self) -> None:
        # Local mode is not safe for threads: a collection that two of them write stays broken.
        self._one_at_a_time: Any = threading.RLock() if self.is_local else _NoLock()
        self._opening = threading.Lock()

    def forked(self) -> None:
        """See `forks.Holder`. Local mode's folder stays the parent's, whose lock on it a client that goes would give up."""
        forks.abandon(self._client, self._one_at_a_time, self._opening)
        self._client = None
        self._begin()

    @property
    def is_local(self) -> bool:
        return self.address.url is None

    @property
    def longest_call_seconds(self) -> float:
        """After so long `call` has answered or has given up."""
        return BUSY_TRIES * (self.address.timeout_seconds + LONGEST_RETRY_AFTER)

    def call(self, work: Callable[[QdrantClient], T]) -> T:
        """What `work` returns. Waits and repeats when the server asks for it (429); all other failures are raised in our words."""
        for attempt in range(BUSY_TRIES):
            client = self._opened()
            try:
                with self._one_at_a_time:
                    return work(client)
            except ResourceExhaustedResponse as busy:
                self._wait(busy.retry_after_s)
            except UnexpectedResponse as refused:
                if refused.status_code != 429:
                    raise self._refused(refused) from refused
                self._wait(0.5 * 2**attempt)
            except ResponseHandlingException as broken:
                raise StoreUnavailable(
                    f"Qdrant at {self.address} does not answer: {type(broken.source).__name__}.",
                    next_step="Start it, and run the same command again.",
                ) from None
            except (ValueError, KeyError, RuntimeError) as local:
                raise _told_apart(str(local)) or local from local
        raise StoreUnavailable(
            f"Qdrant at {self.address} asked to slow down {BUSY_TRIES} times in a row (429).",
            next_step="Raise its rate limit, or run the same command again later.",
        )

    def limits(self, collection: str, *, afresh: bool = False) -> Limits:
        """What the collection's strict mode allows. CollectionGone where there is none."""
        known = self._limits.get(collection)
        if afresh or known is None or time.monotonic() - known[0] >= LIMITS_SECONDS:
            return self.learn(collection, self.call(lambda client: client.get_collection(collection)))
        return known[1]

    def learn(self, collection: str, info: models.CollectionInfo) -> Limits:
        """Take what a collection has said of itself for what it allows."""
        found = Limits.of(collection, info)
        self._limits[collection] = (time.monotonic(), found)
        return found

    def forget(self, collection: str) -> None:
        """Ask anew what the collection allows: it was made or changed."""
        self._limits.pop(collection, None)

    def close(self) -> None:
        """Let go of the connection or the folder."""
        with self._opening:
            client, self._client = self._client, None
        if client is not None:
            with self._one_at_a_time:
                client.close()

    def _opened(self) -> QdrantClient:
        with self._opening:
            if self._client is None:
                self._client = self._open_local() if self.is_local else self._open_server()
            return self._client

    def _open_server(self) -> QdrantClient:
        with warnings.catch_warnings():
            # Whether a key may travel over plain http is for whoever runs the network to say.
            warnings.simplefilter("ignore", UserWarning)
            return QdrantClient(
                url=self.address.url,
                api_key=self._key(self.address.key_variable),
                timeout=max(1, round(self.address.timeout_seconds)),
                check_compatibility=False,
            )

    def _open_local(self) -> QdrantClient:
        folder = self.address.folder
        assert folder is not None
        folder.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + FOLDER_SECONDS
        while True:
            try:
                return QdrantClient(path=str(folder), force_disable_check_same_thread=True)
            except RuntimeError as taken:
                if time.monotonic() > deadline:
                    raise StoreUnavailable(
                        f"Another process holds {self.address}: Qdrant's local mode is for one process at a time.",
                        next_step="Wait until it ends, or run a Qdrant server and set store.url.",
                    ) from taken
                time.sleep(0.1)

    def _wait(self, seconds: float) -> None:
        if seconds > LONGEST_RETRY_AFTER:
            raise StoreUnavailable(
                f"Qdrant at {self.address} asks to wait {seconds:.0f} s before the next request (429).",
                next_step="Raise its rate limit, or run the same command again later.",
            )
        self.busy_until = max(self.busy_until, time.monotonic() + seconds)
        patience.wait(seconds)

    def _refused(self, refused: UnexpectedResponse) -> EmbedPipelineError:
        words = _words(refused)
        if refused.status_code in (401, 403):
            return ConfigurationError(
                f"Qdrant at {self.address} refuses this API key ({refused.status_code}).",
                next_step=f"Set {self.address.key_variable} to a key that may write.",
            )
        if refused.status_code is not None and refused.status_code >= 500:
            return StoreUnavailable(
                f"Qdrant at {self.address} answered {refused.status_code}: {words}.", next_step="Run the same command again."
            )
        self._limits = {}
        said, _, help = words.partition(" Help: ")
        return _told_apart(words) or StoreRefused(
            f"Qdrant at {self.address} refused a request ({refused.status_code}): {said.rstrip('.')}.",
            next_step=_advice(words, help),
        )


class _NoLock:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def _words(refused: UnexpectedResponse) -> str:
    try:
        content: Mapping[str, Any] = refused.structured()
        return str(content["status"]["error"]).rstrip(".")
    except (ValueError, KeyError, TypeError):
        return str(refused.reason_phrase or "no reason given")


def _advice(words: str, help: str) -> str:
    """What to do about a refusal: the setting behind it, or the server's own help. Only a malformed request is a fault of ours."""
    setting = setting_of(words)
    if setting is not None:
        return f"{help or 'See docs/qdrant.md'}. The setting is {setting}, of the collection's strict mode (docs/qdrant.md)."
    if words.startswith(("Format error", "Validation error")):
        return "The request is malformed: this is a defect worth reporting."
    return f"{help}." if help else "Look at its log."


def _told_apart(words: str) -> EmbedPipelineError | None:
    folded = words.lower()
    if "not existing vector name" in folded or ("dense vector" in folded and "not found" in folded):
        return VectorGone(words, next_step="Run: embed-pipeline status")
    if "collection" in folded and ("not found" in folded or "doesn't exist" in folded or "does not exist" in folded):
        return CollectionGone(words, next_step="Run: embed-pipeline status")
    if "already exists" in folded:
        return AlreadyThere(words, next_step="Run: embed-pipeline status")
    return None
