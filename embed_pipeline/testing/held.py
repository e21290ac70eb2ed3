"""What this process holds of each version, and how it is changed: with the transaction of the ledger, or not at all."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
import psycopg
from numpy.typing import NDArray

from embed_pipeline.stores.protocol import EmbeddedBatch

Key = tuple[str, ...]
"""Ledger, index, version and fingerprint."""


@dataclass(frozen=True)
class Entry:
    """One document: its vectors [passages, dimensions], and the partition that a backfill has written it for; None: a dual-write has."""

    source_hash: bytes
    vectors: NDArray[np.float32]
    offsets: tuple[tuple[int, int], ...] | None
    partition: str | None
    written_at: datetime


@dataclass(frozen=True)
class Room:
    """The vectors of one version. Whoever changes or compares them holds `lock`, and takes it before any lock of PostgreSQL's."""

    entries: dict[str, Entry] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    @contextmanager
    def changing(self, conn: psycopg.Connection) -> Iterator[Changes]:
        """One transaction of the ledger. What was changed in it is put back when it fails."""
        with self.lock:
            changes = Changes(self.entries)
            try:
                with conn.transaction():
                    yield changes
            except BaseException:
                changes.undo()
                raise


class Changes:
    """The changes of one transaction."""

    def __init__(self, entries: dict[str, Entry]) -> None:
        self._entries = entries
        self._before: dict[str, Entry | None] = {}

    def put(self, doc_id: str, entry: Entry | None) -> None:
        """Hold this of a document from now on; None: nothing."""
        self._before.setdefault(doc_id, self._entries.get(doc_id))
        self._set(doc_id, entry)

    def undo(self) -> None:
        for doc_id, entry in self._before.items():
            self._set(doc_id, entry)

    def _set(self, doc_id: str, entry: Entry | None) -> None:
        if entry is None:
            self._entries.pop(doc_id, None)
        else:
            self._entries[doc_id] = entry


rooms: dict[Key, Room] = {}
# A forked process would change a copy that nobody else sees: there the vectors are gone, and it is said.
os.register_at_fork(after_in_child=rooms.clear)


def entries_of(
    batch: EmbeddedBatch, wanted: Sequence[str] | set[str], partition: str | None, now: datetime, *, half: bool
) -> Iterator[tuple[str, Entry]]:
    """What to hold of the wanted documents of a batch."""
    first = 0
    for doc_id, source_hash, chunks in zip(batch.doc_ids, batch.hashes, batch.chunks, strict=True):
        rows = slice(first, first + chunks)
        first += chunks
        if doc_id in wanted:
            vectors = np.array(batch.vectors[rows], dtype=np.float16 if half else np.float32).astype(np.float32)
            offsets = None if batch.offsets is None else tuple((int(start), int(end)) for start, end in batch.offsets[rows])
            yield doc_id, Entry(source_hash, vectors, offsets, partition, now)
