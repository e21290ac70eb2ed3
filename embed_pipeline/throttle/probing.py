"""One cheap search of the version that serves, now and then while another one is filled: how long readers wait."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from statistics import median_low
from typing import NamedTuple

import numpy as np
import psycopg

from embed_pipeline.catalog import serving, versions
from embed_pipeline.catalog.versions import Version
from embed_pipeline.errors import EmbedPipelineError
from embed_pipeline.stores.protocol import VersionStore

PROBE_SECONDS = 1.0
# One slow search is no trend, and the first one of a connection is planned anew.
PROBES = 3
HITS = 10


class Probed(NamedTuple):
    """Seconds that a search takes, the middle one of the last; None where nothing else serves. `problem`: why that is not known."""

    seconds: float | None = None
    problem: str = ""


class Probe:
    """Probes what serves beside the version that is filled. Called by one thread at a time."""

    def __init__(self, index: str, filled: str, store_of: Callable[[Version], VersionStore]) -> None:
        self._index = index
        self._filled = filled
        self._store_of = store_of
        self._probed_at: float | None = None
        self._serving: str | None = None
        self._took: deque[float] = deque(maxlen=PROBES)
        self._said = Probed()
        self._random = np.random.default_rng(0)

    def look(self, conn: psycopg.Connection) -> Probed:
        """What the last searches took; one more is made where the last is `PROBE_SECONDS` old."""
        if self._probed_at is None or time.monotonic() - self._probed_at >= PROBE_SECONDS:
            try:
                self._said = self._probe(conn)
            except (EmbedPipelineError, psycopg.Error) as problem:
                if conn.closed:
                    # Whoever opened it has to know.
                    raise
                words = (
                    problem.message if isinstance(problem, EmbedPipelineError) else str(problem.diag.message_primary or problem)
                )
                self._said = Probed(problem=words)
            self._probed_at = time.monotonic()
        return self._said

    def _probe(self, conn: psycopg.Connection) -> Probed:
        name = serving.read(conn, self._index).version
        if name != self._serving:
            self._serving = name
            self._took.clear()
        if name is None or name == self._filled:
            return Probed()
        version = versions.get(conn, self._index, name)
        store = self._store_of(version)
        # Another one each time: a query that is repeated finds all that it reads in memory.
        drawn = self._random.standard_normal(version.dimensions)
        query = (drawn / np.linalg.norm(drawn)).astype(np.float32)
        began = time.monotonic()
        store.search(conn, query, HITS)
        self._took.append(time.monotonic() - began)
        return Probed(median_low(self._took))
