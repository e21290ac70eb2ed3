"""The part of the oracle that looks while the load runs: a process that takes one snapshot after another.

When the application is still and the queue has drained, much has healed. A single REPEATABLE READ snapshot of a running system shows more,
since some things hold at every moment:

    whoever differs from its document has a row in the change queue    the change and its queue row are one transaction, and so are the
                                                                       write and its acknowledgement
    a document has all of its vectors or none                          they are one transaction
    a vector labelled (version, hash) is that model's of such a text   always
    a write that began after a change was seen does not go back to     it compares the hash after it has begun
    what was before
    states, audit and pointer agree                                    they are one transaction
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psycopg

from tests.faults.campaign import models, oracle
from tests.faults.campaign.declared import calls_file
from tests.faults.campaign.oracle import Registered

# A transaction of ours that holds what the application may want is ended by the server when its process freezes; this much later it is seen.
GRACE_SECONDS = 0.6
PAUSE_SECONDS = 0.05
# A look may meet what no snapshot shows: a table that was dropped, a server that was restarted.
BLIND = (psycopg.errors.UndefinedTable, psycopg.OperationalError, psycopg.errors.InternalError_)

HELD = """
SELECT DISTINCT a.application_name
FROM pg_stat_activity a JOIN pg_locks l USING (pid)
WHERE a.datname = current_database() AND a.application_name LIKE 'campaign-%%' AND a.state = 'idle in transaction'
  AND l.locktype = 'relation' AND l.mode <> 'AccessShareLock' AND l.relation IN (SELECT c.oid FROM pg_class c WHERE relname = 'articles')
  AND clock_timestamp() - a.state_change > %s * interval '1 second'
"""
# Partitions that are there, those that are filled, whether a valid ANN index stands.
COMPLETE = """
SELECT v.partitions = count(p.partition_key), bool_and(p.completed_at IS NOT NULL),
       EXISTS (SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
               WHERE i.indisvalid AND c.relname = format('docs__%%s__hnsw', v.version))
FROM embed_pipeline.index_versions v LEFT JOIN embed_pipeline.partitions p USING (index_name, version)
WHERE v.index_name = 'docs' AND v.version = %s GROUP BY v.version, v.partitions
"""


@dataclass(frozen=True)
class Row:
    """A document's row in a version: the hash it is labelled with, how many vectors it should have, when its transaction began."""

    digest: bytes
    chunks: int
    began: float


@dataclass
class Seen:
    """One snapshot. `written`: which version of its row the document is; equal in two snapshots, it has not changed between them."""

    at: float
    texts: dict[str, str]
    digests: dict[str, bytes]
    written: dict[str, str]
    rows: dict[str, dict[str, Row]] = field(default_factory=dict)


@dataclass
class Auditor:
    """Looks again and again; remembers what it knows about texts and vectors, and the snapshot before."""

    place: Path
    frozen_seconds: float
    before: Seen | None = None
    known: dict[bytes, str] = field(default_factory=dict)
    shown: set[tuple[str, bytes]] = field(default_factory=set)
    right: set[tuple[str, bytes, int, str]] = field(default_factory=set)
    read: dict[str, int] = field(default_factory=dict)

    def look(self, conn: psycopg.Connection) -> list[str]:
        """What is wrong in one snapshot, or was done wrong since the one before."""
        with conn.transaction():
            conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            # Before the snapshot is taken: to one that is older, a table that is truncated looks empty.
            conn.execute("LOCK TABLE articles IN ACCESS SHARE MODE")
            return self.judge(conn)

    def judge(self, conn: psycopg.Connection) -> list[str]:
        """The same inside a transaction of the caller's, which is one snapshot."""
        now = self._seen(conn)
        found = oracle.wrong_catalog(conn)
        for version in oracle.versions(conn):
            if version.state != "retired":
                found += [f"{version.name}: {each}" for each in self._wrong_version(conn, now, version)]
        found += [
            f"{name} is idle in transaction for longer than a frozen process may hold a lock on the documents"
            for (name,) in conn.execute(HELD, (self.frozen_seconds + GRACE_SECONDS,))
        ]
        self.shown.update(now.digests.items())
        self.before = now
        return found

    def _seen(self, conn: psycopg.Connection) -> Seen:
        # The snapshot comes first, then the clock: what began after this time began after the snapshot.
        row = conn.execute("SELECT extract(epoch FROM clock_timestamp())::double precision").fetchone()
        assert row is not None
        texts, written = {}, {}
        for key, text, xmin in oracle.documents(conn):
            texts[key] = text
            written[key] = xmin
        digests = {key: _hash(text) for key, text in texts.items()}
        self.known.update((digests[key], text) for key, text in texts.items())
        return Seen(row[0], texts, digests, written)

    def _wrong_version(self, conn: psycopg.Connection, now: Seen, version: Registered) -> Iterator[str]:
        rows = {
            doc_id: Row(bytes(digest), chunks, began)
            for doc_id, digest, chunks, began in conn.execute(
                "SELECT doc_id, source_hash, chunks, extract(epoch FROM embedded_at)::double precision "  # type: ignore[arg-type]
                f"FROM embed_pipeline.docs__{version.name}__documents"
            )
        }
        now.rows[version.name] = rows
        yield from self._wrong_vectors(conn, version, rows)
        yield from _wrong_state(conn, version)
        queued = {
            doc_id
            for (doc_id,) in conn.execute(
                "SELECT doc_id FROM embed_pipeline.change_queue WHERE index_name = 'docs' AND version = %s", (version.name,)
            )
        }
        letters = {
            doc_id: bytes(digest)
            for doc_id, digest in conn.execute(
                "SELECT doc_id, source_hash FROM embed_pipeline.dead_letters WHERE version = %s", (version.name,)
            )
        }
        filled = _filled(conn, version.name)
        for doc_id in (now.texts.keys() | rows.keys() | letters.keys()) - queued:
            is_filled = any(each.has(doc_id) for each in filled)
            yield from _unexplained(doc_id, now, rows.get(doc_id), letters.get(doc_id), is_filled)
        yield from self._went_back(now, version.name)

    def _wrong_vectors(self, conn: psycopg.Connection, version: Registered, rows: dict[str, Row]) -> Iterator[str]:
        chunks: dict[str, list[int]] = {}
        for doc_id, chunk, vector in conn.execute(
            f"SELECT doc_id, chunk, embedding::text FROM embed_pipeline.docs__{version.name}__vectors"  # type: ignore[arg-type]
        ):
            chunks.setdefault(doc_id, []).append(chunk)
            if doc_id in rows:
                yield from self._wrong_vector(version, doc_id, rows[doc_id].digest, chunk, vector)
        for doc_id in rows.keys() | chunks.keys():
            there = sorted(chunks.get(doc_id, []))
            expected = list(range(rows[doc_id].chunks)) if doc_id in rows else []
            if there != expected:
                yield f"{doc_id} is half there: its vectors are {there}, its row counts {len(expected)}"

    def _wrong_vector(self, version: Registered, doc_id: str, digest: bytes, chunk: int, vector: str) -> Iterator[str]:
        if (version.name, digest, chunk, vector) in self.right:
            return
        if digest not in self.known:
            self._read_calls(version.name)
        text = self.known.get(digest)
        if text is None:
            if version.chunker is None:
                yield f"{doc_id} is labelled with the hash of no text that was ever there"
            return  # What was asked for of a chunked version is its chunks; a text that came and went is not known.
        passages = version.passages(text)
        numbers = np.array(vector.strip("[]").split(","), dtype=np.float32)
        if chunk >= len(passages) or not np.allclose(numbers, models.document_vector(version.space, passages[chunk]), atol=1e-3):
            yield f"{doc_id} has a vector {chunk} that is not of the text it is labelled with"
            return
        self.right.add((version.name, digest, chunk, vector))

    def _read_calls(self, version: str) -> None:
        """Every text that a model was asked for: more than the snapshots have shown."""
        path = calls_file(self.place, version)
        with path.open("rb") as file:
            file.seek(self.read.get(version, 0))
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self.read[version] = self.read.get(version, 0) + len(whole)
        for line in whole.splitlines():
            text = json.loads(line)[2]
            self.known[_hash(text)] = text

    def _went_back(self, now: Seen, version: str) -> Iterator[str]:
        """Writes since the snapshot before that went back to a text which that snapshot showed to be over."""
        before = self.before
        if before is None or version not in before.rows:
            return
        for doc_id, row in now.rows[version].items():
            was = before.rows[version].get(doc_id)
            if was is not None and was.began == row.began and was.digest != row.digest:
                yield f"{doc_id} got another label without being written anew"
            same = doc_id in before.written and before.written[doc_id] == now.written.get(doc_id)
            if same and row.digest != now.digests[doc_id] and row.began > before.at:
                yield f"{doc_id} was written with a text that was over when the write began"
            gone = doc_id not in before.texts and doc_id not in now.texts
            if gone and row.began > before.at and (doc_id, row.digest) in self.shown:
                yield f"{doc_id} was gone when a write of it began"


def _unexplained(doc_id: str, now: Seen, row: Row | None, letter: bytes | None, filled: bool) -> Iterator[str]:
    """What is wrong with a document that nothing in the queue is about."""
    digest = now.digests.get(doc_id)
    if letter is not None and letter != digest:
        yield f"{doc_id} has a dead letter that is stale, and nothing is queued"
    if letter is not None and row is not None:
        yield f"{doc_id} has a dead letter beside its vectors, and nothing is queued"
    if row is not None and digest is None:
        yield f"{doc_id} is an orphan, and nothing is queued"
    elif row is not None and row.digest != digest:
        yield f"{doc_id} is stale, and nothing is queued"
    if digest is None:
        return
    if models.refused(now.texts[doc_id]):
        if row is not None:
            yield f"{doc_id} can have no vector and has one, and nothing is queued"
        if letter is None and filled:
            yield f"{doc_id} can have no vector and has no dead letter, and nothing is queued"
    elif letter == digest:
        yield f"{doc_id} has a dead letter without a reason"
    elif row is None and filled:
        yield f"{doc_id} is missing from a partition that is filled, and nothing is queued"


def _wrong_state(conn: psycopg.Connection, version: Registered) -> Iterator[str]:
    row = conn.execute(COMPLETE, (version.name,)).fetchone()
    assert row is not None
    partitioned, filled, indexed = row
    if not partitioned:
        yield "is registered without its partitions"
    if version.state != "building" and not filled:
        yield f"is {version.state}, and not all of its partitions are filled"
    if version.state != "building" and not indexed:
        yield f"is {version.state}, and has no valid ANN index"


@dataclass(frozen=True)
class Filled:
    """Keys from `lower` on, and before `upper`; None: without a bound."""

    lower: list[int | str] | None
    upper: list[int | str] | None

    def has(self, doc_id: str) -> bool:
        key = oracle.order(doc_id)
        return (self.lower is None or self.lower <= key) and (self.upper is None or key < self.upper)


def _filled(conn: psycopg.Connection, version: str) -> list[Filled]:
    rows = conn.execute(
        "SELECT lower_key, upper_key FROM embed_pipeline.partitions WHERE version = %s AND completed_at IS NOT NULL AND NOT is_empty",
        (version,),
    )
    bounds = ([None if bound is None else oracle.order_of(bound) for bound in row] for row in rows)
    return [Filled(lower, upper) for lower, upper in bounds]


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def audit(url: str, place: Path, frozen_seconds: float, stop: Path, log_file: Path) -> None:
    """The process: look until `stop` exists, and write down each kind of defect once, with how often it was seen, and the number of looks."""
    found: Counter[str] = Counter()
    looks = 0
    auditor = Auditor(place, frozen_seconds)
    conn: psycopg.Connection | None = None
    while not stop.exists():
        try:
            if conn is None or conn.closed:
                conn = psycopg.connect(url, autocommit=True, application_name="auditor")
            problems = auditor.look(conn)
        except BLIND:
            auditor.before = None
        else:
            looks += 1
            new = set(problems) - found.keys()
            found.update(problems)
            if new:
                _write(log_file, looks, found)
        time.sleep(PAUSE_SECONDS)
    _write(log_file, looks, found)


def _write(log_file: Path, looks: int, found: Counter[str]) -> None:
    part = log_file.with_suffix(".part")
    part.write_text(json.dumps({"looks": looks, "found": found}))
    part.rename(log_file)


def report(place: Path) -> tuple[int, list[str]]:
    """How many snapshots all auditors of a campaign took, and what they found."""
    reports = [json.loads(path.read_text()) for path in sorted(place.glob("auditor-*.json"))]
    sentences = [f"seen during the load: {each} ({count} times)" for report in reports for each, count in report["found"].items()]
    return sum(report["looks"] for report in reports), sentences
