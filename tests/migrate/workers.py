"""What the fault tests run as processes of their own, to be killed at any instant."""

from __future__ import annotations

import random
import signal
import sys
import threading
import time
from pathlib import Path

import psycopg

from embed_pipeline import signals
from embed_pipeline.migrate import backfill, dual_write
from embed_pipeline.migrate.open_index import opened
from embed_pipeline.spec import IndexSpec
from embed_pipeline.stores import pgvector


def write(url: str, seed: int, stop: Path) -> None:
    """An application: inserts, edits, deletes, re-inserts and renames documents; now and then a long transaction that rolls back."""
    chosen = random.Random(seed)
    with psycopg.connect(url, autocommit=True) as conn:
        number = 0
        while not stop.exists():
            number += 1
            key = chosen.randrange(1, 200)
            action = chosen.randrange(6)
            with conn.transaction(force_rollback=chosen.random() < 0.1):
                if action == 0:
                    conn.execute("DELETE FROM articles WHERE id = %s", (key,))
                elif action == 1:
                    conn.execute(
                        "INSERT INTO articles (id, title, body) VALUES (%s, 'born', %s) ON CONFLICT (id) DO UPDATE SET body = excluded.body",
                        (key, f"{seed} {number}"),
                    )
                elif action == 2:
                    conn.execute("DELETE FROM articles WHERE id = %s", (key,))
                    conn.execute("INSERT INTO articles (id, title, body) VALUES (%s, 'reborn', %s)", (key, f"{seed} {number}"))
                elif action == 3 and chosen.random() < 0.3:
                    conn.execute(
                        "UPDATE articles SET id = 1000 + id WHERE id = %s AND NOT EXISTS (SELECT FROM articles a WHERE a.id = %s)",
                        (key, 1000 + key),
                    )
                else:
                    conn.execute("UPDATE articles SET body = %s WHERE id = %s", (f"{seed} {number}", key))
                if chosen.random() < 0.05:
                    time.sleep(0.05)
            time.sleep(0.002)


def sync(declaration: str) -> None:
    """A dual-write worker that never stops by itself."""
    with opened(IndexSpec.model_validate_json(declaration)) as index:
        while True:
            dual_write.sync(index, budget_seconds=0.2)


def fill(declaration: str, version: str) -> None:
    """A backfill worker: every unfilled partition, once."""
    with opened(IndexSpec.model_validate_json(declaration)) as index, index.connection() as conn:
        for key in backfill.unfilled(conn, index, version):
            backfill.fill_partition(index, version, key)


def freeze_at(declaration: str, moment: str, frozen_ms: int, frozen: Path) -> None:
    """A worker that stops itself at `moment`, in the middle of its work. Exit code 3: its connection was gone when it woke."""
    pgvector.FROZEN_MS = frozen_ms
    noticed = threading.Event()

    def freeze() -> None:
        signals.forget_all()
        # Thrown out, it takes another connection and goes on there.
        signals.listen("outage.waiting", noticed.set)
        frozen.touch()
        # To this thread: sent to the process, another thread might take it, and this one go on for a moment.
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)

    with opened(IndexSpec.model_validate_json(declaration)) as index:
        signals.listen(moment, freeze)
        if moment.startswith("insert"):
            backfill.fill_partition(index, "v1", "00")
        else:
            dual_write.sync(index)
    sys.exit(3 if noticed.is_set() else 0)
