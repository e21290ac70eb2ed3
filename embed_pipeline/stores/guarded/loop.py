"""The compare-and-set loop: read, look, decide, ask, write, and go round again with the points that lost.

The order in each round is what makes it safe: read the points, look at the documents in the ledger, ask whether the writer still may,
then write what is still as it was read. Whoever took the work over has written since, if only another seq, and the write finds nothing
to do; or it writes later, over ours. Whatever changes in the documents after the look is queued.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Generic

import psycopg

from embed_pipeline.documents import queue
from embed_pipeline.documents.source import Source
from embed_pipeline.signals import signal
from embed_pipeline.stores.guarded import documents
from embed_pipeline.stores.guarded.documents import Now
from embed_pipeline.stores.guarded.points import Change, Content, Points, Read

# Versions that share points get in each other's way; each round begins with what the other one has written.
ROUNDS = 8

Decide = Callable[[str, Read | None, Now | None], Content | None]
"""What a document's point shall hold, from the point as read and the document as it is; None: leave it."""

Right = Callable[[Sequence[str]], AbstractContextManager[Collection[str]]]
"""Those of the documents that the writer may still write. Asked after their points were read, and held while they are written."""


class Loop(Generic[Read, Content]):
    """Changes of one version's points. Thread-safe."""

    def __init__(self, points: Points[Read, Content], source: Source) -> None:
        self._points = points
        self._source = source

    def change(
        self,
        conn: psycopg.Connection,
        doc_ids: Sequence[str],
        decide: Decide[Read, Content],
        right: Right,
        *,
        keep_own: bool = False,
    ) -> set[str]:
        """Change the points of these documents; what somebody else wrote meanwhile goes round again. Returns the documents written.

        `keep_own`: what is decided keeps the version's own vector as it was read.
        """
        done: set[str] = set()
        # One request at a time is written under a right.
        most = self._points.most_written()
        for start in range(0, len(doc_ids), most):
            done |= self._change(conn, list(doc_ids[start : start + most]), decide, right, keep_own)
        return done

    def _change(
        self, conn: psycopg.Connection, doc_ids: list[str], decide: Decide[Read, Content], right: Right, keep_own: bool
    ) -> set[str]:
        done: set[str] = set()
        left = doc_ids
        for _ in range(ROUNDS):
            if not left:
                break
            changes = self._decided(conn, left, decide, keep_own)
            left = []
            # Each is one request, and is asked for right before it: a process may be stopped between two.
            for is_new in (True, False):
                together = {doc_id: change for doc_id, change in changes.items() if (change.read is None) == is_new}
                if not together:
                    continue
                with right(list(together)) as mine:
                    wanted = {doc_id: change for doc_id, change in together.items() if doc_id in mine}
                    written = self._write(conn, wanted) if wanted else set()
                done |= written
                left += [doc_id for doc_id in wanted if doc_id not in written]
        return done

    def _decided(
        self, conn: psycopg.Connection, doc_ids: list[str], decide: Decide[Read, Content], keep_own: bool
    ) -> Mapping[str, Change[Read, Content]]:
        there = self._points.read_to_change(doc_ids, keep_own=keep_own)
        signal("points.read")
        # In this order: what the ledger says is younger than what was read of the points.
        now = documents.look(conn, self._source, doc_ids)
        changes = {}
        for doc_id in doc_ids:
            read = there.get(doc_id)
            content = decide(doc_id, read, now.get(doc_id))
            if content is not None:
                changes[doc_id] = Change(content, read)
        return self._points.taking_over(changes)

    def _write(self, conn: psycopg.Connection, changes: Mapping[str, Change[Read, Content]]) -> set[str]:
        seq = queue.next_seq(conn)
        signal("points.decided")
        return self._points.compare_and_set(conn, changes, seq)
