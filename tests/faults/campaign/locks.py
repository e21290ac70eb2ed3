"""What sessions of ours hold on the application's table, looked at again and again while the load runs.

Nothing but the AccessShareLock of a read, for about as long as one statement of 25 ms takes: an application that wants its table for itself
with a lock_timeout of 50 ms gets through. So nobody who holds one waits for anything. Excused by name are the canary, which changes one
document and takes it back, and whoever arms triggers.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

# A statement of 25 ms, and the time for which a machine may leave a process or its server aside between BEGIN and COMMIT. A busy one may
# take so many times longer for that as a look at the locks itself has waited lately.
LONGEST_SECONDS = 0.025 + 0.35
TIMES_AS_LONG, LATELY = 4, 50
# Waiting for a lock is no matter of scheduling.
WAITING_SECONDS = 0.025
# A transaction of ours that holds what the application may want is ended by the server when its process freezes; this much later it is seen.
GRACE_SECONDS = 0.6
LOOK_SECONDS = 0.02

HELD = """
SELECT a.application_name, l.mode, coalesce(a.wait_event_type = 'Lock', false), coalesce(a.wait_event = 'ClientRead', false), a.state,
       extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, a.query_start))::double precision,
       extract(epoch FROM clock_timestamp() - a.state_change)::double precision, a.query
FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE a.datname = current_database() AND a.application_name LIKE 'campaign-%' AND l.locktype = 'relation' AND l.granted
  AND a.query_start IS NOT NULL
  AND l.relation IN (SELECT 'articles'::regclass UNION ALL SELECT relid FROM pg_partition_tree('articles'))
"""
READS = "AccessShareLock"
# The canary's statements, from its choice of a document to the end of its transaction, and what makes a trigger.
CANARY = (
    "FOR NO KEY UPDATE SKIP LOCKED",
    "set_config('search_path'",
    " = pg_catalog.left(",
    "max(id), 0) FROM embed_pipeline.inbox",
    "= ANY (doc_ids)",
    "ROLLBACK",
)
ARMING = (
    "SHARE ROW EXCLUSIVE MODE",
    "TRIGGER",
    "The table that functions are made for",
    "Triggers of an index on tables that are not its documents",
    "FUNCTION",
    "pg_partition_tree",
    "what capture sees",
    "embed_pipeline.shapes",
    # psycopg forgets what it has prepared once a trigger or function was dropped.
    "DEALLOCATE ALL",
    "COMMIT",
)
EXCUSED = {
    "RowShareLock": CANARY,
    "RowExclusiveLock": CANARY,
    "ShareRowExclusiveLock": ARMING,
}


@dataclass
class Held:
    """Looks, and counts what is wrong. For one thread that watches and one that takes."""

    url: str
    place: Path
    frozen_seconds: float
    _found: Counter[str] = field(default_factory=Counter)

    def watch(self, stop: Path) -> None:
        conn: psycopg.Connection | None = None
        waited: deque[float] = deque(maxlen=LATELY)
        while not stop.exists():
            began = time.monotonic()
            try:
                if conn is None or conn.closed:
                    conn = psycopg.connect(self.url, autocommit=True, application_name="watcher of locks")
                for problem in self.look(conn, busy=max(waited, default=0.0)):
                    self._found[problem] += 1
            except psycopg.Error:
                conn = None
            time.sleep(LOOK_SECONDS)
            waited.append(time.monotonic() - began - LOOK_SECONDS)

    def look(self, conn: psycopg.Connection, *, busy: float = 0.0) -> list[str]:
        """What is wrong now. `busy`: how long a look itself has waited lately."""
        found = []
        for name, mode, waits, asks, state, transaction, idle, query in conn.execute(HELD).fetchall():
            excused = any(each in query for each in EXCUSED.get(mode, ()))
            said = " ".join(query.split())[:120]
            if mode != READS and not excused:
                found.append(f"a session of ours has {mode} on the documents: {said}")
            if waits and transaction > WAITING_SECONDS:
                found.append(f"a session of ours waits for a lock while it holds {mode} on the documents: {said}")
            most = LONGEST_SECONDS + TIMES_AS_LONG * busy if mode == READS else self.frozen_seconds
            if self._is_stopped(name):
                most = self.frozen_seconds + GRACE_SECONDS
                if asks and (idle if state == "idle in transaction" else transaction) > most:
                    found.append(f"a frozen process of ours holds {mode} on the documents for longer than it may: {said}")
            elif transaction > most and not waits:
                found.append(
                    f"a session of ours holds {mode} on the documents for longer than a statement of 25 ms ({state}): {said}"
                )
        return found

    def take(self) -> list[str]:
        """What was found since it was asked last."""
        found, self._found = self._found, Counter()
        return list(found.elements())

    def _is_stopped(self, name: str) -> bool:
        """Whether the process of this worker is stopped, as /proc says; one that has begun has written its number down."""
        with suppress(OSError, ValueError):
            (begun,) = self.place.glob(f"{name.removeprefix('campaign-')}-*.begun")
            return Path(f"/proc/{begun.read_text()}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        return False
