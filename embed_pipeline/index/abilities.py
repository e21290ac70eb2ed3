"""Notes in the catalog for which live versions this process can embed queries, so that a cutover can name the processes that could not follow."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Sequence

import psycopg

from embed_pipeline.catalog import searchers, versions
from embed_pipeline.catalog.versions import Version
from embed_pipeline.errors import EmbedPipelineError
from embed_pipeline.foreign_words import readable
from embed_pipeline.index.space import NO_MODEL, Spaces

logger = logging.getLogger(__name__)

# A version that was registered a moment ago is not cut over to within this time.
LOOK_SECONDS = 15.0


class Abilities:
    """The versions that this process can embed queries for, as last noted in the catalog. Thread-safe."""

    def __init__(self, index: str, spaces: Spaces) -> None:
        self._index = index
        self._spaces = spaces
        self._searcher = uuid.uuid4()
        self._said: tuple[set[str], dict[str, str]] | None = None
        self._said_at = self._looked_at = float("-inf")
        self._may = True
        self._saying = threading.Lock()

    @property
    def has_said(self) -> bool:
        """Whether a row of this process stands in the catalog."""
        return self._said is not None

    @property
    def is_left_behind(self) -> bool:
        """Whether a cutover was told that this process could not follow."""
        return self._said is not None and bool(self._said[1])

    def say_when_due(self, conn: psycopg.Connection) -> None:
        """Look at the live versions now and then, and say what is new, or that nothing is."""
        if time.monotonic() - self._looked_at > LOOK_SECONDS:
            self.say(conn)

    def say(self, conn: psycopg.Connection) -> None:
        """Look at the live versions now, and say what is new. A role that may not say so does not."""
        with self._saying:
            self._looked_at = time.monotonic()
            if self._may:
                self._say(conn)

    def _say(self, conn: psycopg.Connection) -> None:
        found = self._found(versions.live_versions(conn, self._index))
        if found == self._said and time.monotonic() - self._said_at < searchers.EVERY_SECONDS:
            return
        try:
            searchers.note(conn, self._index, self._searcher, f"{socket.gethostname()}:{os.getpid()}", *found)
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedFunction) as problem:
            logger.info("Which versions of %s can be searched here is not noted: %s", self._index, problem.diag.message_primary)
            self._may = False
            return
        self._said, self._said_at = found, time.monotonic()

    def forget(self, conn: psycopg.Connection) -> None:
        """This process searches no more."""
        with self._saying:
            self._may = False
            if self._said is not None:
                searchers.forget(conn, self._index, self._searcher)
                self._said = None

    def _found(self, live: Sequence[Version]) -> tuple[set[str], dict[str, str]]:
        can: set[str] = set()
        cannot: dict[str, str] = {}
        for version in live:
            try:
                self._spaces.require_model(self._spaces.of(version))
            except NO_MODEL as problem:
                cannot[version.fingerprint] = problem.message
            except psycopg.errors.InsufficientPrivilege:
                pass  # Its account is not for this role to read: nobody knows.
            except (psycopg.Error, EmbedPipelineError):
                raise  # No connection: this is done again over the next one.
            except Exception as problem:  # whatever it is, it must not end the thread that hears of cutovers
                cannot[version.fingerprint] = readable(f"{type(problem).__name__}: {problem}")
            else:
                can.add(version.fingerprint)
        return can, cannot
