"""A searcher's background connection: it hears of flips of the serving pointer, and says what this process can search."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

import psycopg

from embed_pipeline.errors import EmbedPipelineError
from embed_pipeline.index.abilities import Abilities
from embed_pipeline.postgres.connection import connect

LISTEN_SECONDS = 5.0


class Flips:
    """Calls `look_again` at every flip of one index, until `closed`."""

    def __init__(
        self, index: str, url: str, closed: threading.Event, abilities: Abilities, look_again: Callable[[], None]
    ) -> None:
        self._index = index
        self._url = url
        self._closed = closed
        self._abilities = abilities
        self._look_again = look_again

    def follow(self) -> None:
        """While this connection is down, the age limit of what the searcher has cached is what is left."""
        closed, abilities = self._closed, self._abilities
        while not closed.is_set():
            try:
                with connect(self._url, autocommit=True) as conn:
                    while _is_standby(conn):
                        # Nobody can listen there. It may become the primary one day.
                        if closed.wait(LISTEN_SECONDS):
                            return
                    conn.execute("LISTEN embed_pipeline_serving")
                    self._look_again()
                    while not closed.is_set():
                        abilities.say_when_due(conn)
                        for notice in conn.notifies(timeout=0.5):
                            if notice.payload == self._index:
                                self._look_again()
                    abilities.forget(conn)
            except (psycopg.Error, EmbedPipelineError):
                self._look_again()
                closed.wait(LISTEN_SECONDS)
        if abilities.has_said:
            # Closed before it was connected, or while it was not.
            with suppress(psycopg.Error, EmbedPipelineError), connect(self._url, autocommit=True) as conn:
                abilities.forget(conn)


def _is_standby(conn: psycopg.Connection) -> bool:
    row = conn.execute("SELECT pg_is_in_recovery()").fetchone()
    return bool(row and row[0])
