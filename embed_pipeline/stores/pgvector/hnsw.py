"""The HNSW index over a version's vectors: built once, beside running reads and writes, by one session at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

import psycopg
from psycopg import sql

from embed_pipeline.catalog.versions import Version
from embed_pipeline.errors import DatabaseUnavailable
from embed_pipeline.postgres import holders
from embed_pipeline.postgres.connection import set_unhurried, vector_schema
from embed_pipeline.postgres.queries import Queries
from embed_pipeline.signals import signal
from embed_pipeline.stores.protocol import AnnIndex

queries = Queries(__file__, "hnsw.sql")

OPERATOR_CLASSES = {"cosine": "cosine", "inner_product": "ip", "l2": "l2"}

# Enough for the graph of 100,000 vectors of 384 dimensions (measured: 64 MB made that build three times slower).
BUILD_MEMORY_MB = 512
LOOK_SECONDS = 0.5

# Dropping the remains of a failed build is a courtesy: whoever reads the vectors for longer is not waited for.
DROP_TIMEOUT_MS = 5_000

Progress = Callable[[str, float], None]


def find(conn: psycopg.Connection, version: Version) -> AnnIndex | None:
    """The index as it stands, valid or not."""
    row = conn.execute(queries("find"), {"name": version.ann_index_name}).fetchone()
    return None if row is None else AnnIndex(*row)


def build(conn: psycopg.Connection, version: Version, progress: Progress | None = None) -> AnnIndex:
    """Build the index, or keep the valid one; remains of a failed build are dropped first.

    The caller is the only builder: another one's unfinished index would be taken for remains.
    """
    found = find(conn, version)
    if found is not None and found.valid:
        return found
    name = sql.Identifier(version.ann_index_name)
    set_unhurried(conn)
    if found is not None:
        # A killed build leaves an index that no search uses and every write pays for.
        conn.execute(queries("drop", name=name))
    hnsw = version.declared.hnsw
    statement = queries(
        "create",
        name=name,
        table=version.table,
        operator_class=sql.Identifier(vector_schema(conn), f"{version.precision}_{OPERATOR_CLASSES[version.distance]}_ops"),
        m=sql.Literal(hnsw.m),
        ef_construction=sql.Literal(hnsw.ef_construction),
    )
    conn.execute(queries("set_session"), {"memory": f"{BUILD_MEMORY_MB}MB"})
    signal("hnsw.building")
    try:
        with _watching(conn, progress):
            conn.execute(statement)
    except (psycopg.Error, KeyboardInterrupt):
        _drop_remains(conn, name)
        raise
    built = find(conn, version)
    if built is None or not built.valid:
        raise DatabaseUnavailable(
            f"The ANN index {version.ann_index_name} is not valid after its build.",
            next_step=f"Run: embed-pipeline backfill {version.index} {version.name}",
        )
    return built


def _drop_remains(conn: psycopg.Connection, name: sql.Identifier) -> None:
    """A build that was cancelled or had no room leaves an invalid index. Dropped at once, since every write pays for it."""
    if conn.closed:
        return  # The next try drops it.
    with suppress(psycopg.Error):
        conn.execute(queries("wait_briefly"), {"milliseconds": f"{DROP_TIMEOUT_MS}ms"})
        conn.execute(queries("drop", name=name))


def _phase(conn: psycopg.Connection, phase: str, pid: int) -> str:
    """The phase in PostgreSQL's words; of one that waits, for whom: a build waits for every older transaction of the database."""
    waits_for = holders.blocking(conn, pid) if phase.startswith("waiting") else []
    return f"{phase}: {holders.named(waits_for)}" if waits_for else phase


class _watching:
    """Reports the phase and share of an index build from a second connection while the first one is busy building."""

    def __init__(self, conn: psycopg.Connection, progress: Progress | None) -> None:
        self._conn = conn
        self._progress = progress
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> None:
        if self._progress is None:
            return
        pid = self._conn.info.backend_pid
        self._thread = threading.Thread(target=self._watch, args=(pid,), daemon=True)
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _watch(self, pid: int) -> None:
        assert self._progress is not None
        info = self._conn.info
        parameters = info.get_parameters() | {"password": info.password}
        # Progress is a courtesy: that the server is gone, the build itself says.
        with suppress(psycopg.Error), psycopg.connect(**parameters, autocommit=True) as watcher:  # type: ignore[arg-type]
            while not self._done.wait(LOOK_SECONDS):
                row = watcher.execute(queries("progress"), {"pid": pid}).fetchone()
                if row is not None:
                    self._progress(_phase(watcher, row[0], pid), float(row[1]))
