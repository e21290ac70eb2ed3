"""The part of the oracle that looks while the load runs: a process that takes one snapshot after another.

When the application is still and everything is worked off, much has healed. A single REPEATABLE READ snapshot of a running system shows
more, since some things hold at every moment. Announced: pending for the version, or named by a row of the inbox.

    whoever differs from its document, or lacks its vectors in a       a change and its inbox row are one transaction, and so are an inbox
    filled partition, is announced; one that is gone may be announced  row and what becomes of it, and a write and its acknowledgement
    by a TRUNCATE that waits
    what is stored of a document that is gone is announced as removed  a search hides nothing else
    a document has all of its vectors or none                          they are one transaction
    a vector labelled (version, hash) is that model's of such a text   always
    nothing goes back (`_went_back`)                                   a claim is taken before its text is read
    nothing is inserted under an epoch that is over                    an insert shares a lock on its partition's row
    a claim belongs to somebody who counts                             they are one transaction
    states, audit and pointer agree                                    they are one transaction

What a backfill has inserted into a partition that is not filled yet is the comparison's, which comes before the partition counts as
filled: until then it may be stale or of a document that is gone, and nobody has to have heard of it. So may a dead letter there. Of a
partition of the documents table that was attached or detached nobody is told until somebody has looked at the table: until then its rows
count as announced.

How long sessions of ours hold what lock on the documents is `locks.py`, in a thread beside this.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psycopg

from tests.faults.campaign import locks, models, oracle
from tests.faults.campaign.declared import calls_file
from tests.faults.campaign.impatient import in_turn
from tests.faults.campaign.oracle import Registered

PAUSE_SECONDS = 0.05
# A look may meet what no snapshot shows: a table that was dropped, a server that was restarted.
BLIND = (psycopg.errors.UndefinedTable, psycopg.OperationalError, psycopg.errors.InternalError_)

# Partitions that are there, those that are filled, whether a valid ANN index stands.
COMPLETE = """
SELECT v.partitions = count(p.partition_key), bool_and(p.completed_at IS NOT NULL),
       EXISTS (SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
               WHERE i.indisvalid AND c.relname = format('docs__%%s__hnsw', v.version))
FROM embed_pipeline.index_versions v LEFT JOIN embed_pipeline.partitions p USING (index_name, version)
WHERE v.index_name = 'docs' AND v.version = %s GROUP BY v.version, v.partitions
"""
PARTITIONS = """
SELECT partition_key::integer, lower_key, upper_key, epoch, completed_at IS NOT NULL, is_empty
FROM embed_pipeline.partitions WHERE index_name = 'docs' AND version = %s
"""
# Everything that is on its way to every version.
INBOX = """
SELECT u.doc_id, i.removed FROM embed_pipeline.inbox i CROSS JOIN unnest(i.doc_ids) AS u(doc_id) WHERE i.index_name = 'docs'
"""
EVERYTHING_GONE = """
SELECT EXISTS (SELECT FROM embed_pipeline.inbox WHERE index_name = 'docs' AND doc_ids IS NULL),
       EXISTS (SELECT FROM embed_pipeline.doubts WHERE index_name = 'docs')
"""
# Partitions that came or went since somebody looked at the table: nobody hears of that but who looks.
ROTATED = """
SELECT ARRAY(SELECT i.inhrelid::bigint FROM pg_inherits i WHERE i.inhparent = 'articles'::regclass AND NOT s.leaves ? i.inhrelid::text),
       EXISTS (SELECT FROM jsonb_object_keys(s.leaves) AS known(oid)
               WHERE NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = 'articles'::regclass AND i.inhrelid = known.oid::oid))
FROM embed_pipeline.shapes s WHERE s.index_name = 'docs'
"""
PENDING = "SELECT doc_id, removed, claim::text FROM embed_pipeline.pending WHERE index_name = 'docs' AND version = %s"
CLAIMS = "SELECT claim::text FROM embed_pipeline.claims WHERE index_name = 'docs' AND version = %s"


@dataclass(frozen=True)
class Row:
    """A document's row in a version: the hash it is labelled with, how many vectors it should have, when its transaction began, and the
    backfill that inserted it (None: a dual-write wrote it)."""

    digest: bytes
    chunks: int
    began: float
    partition: int | None
    epoch: int | None


@dataclass(frozen=True)
class Part:
    """A partition: keys from `lower` on, and before `upper`; None: without a bound."""

    lower: list[int | str] | None
    upper: list[int | str] | None
    epoch: int
    filled: bool
    empty: bool

    def has(self, doc_id: str) -> bool:
        key = oracle.order(doc_id)
        return not self.empty and (self.lower is None or self.lower <= key) and (self.upper is None or key < self.upper)


@dataclass
class Told:
    """What is announced: documents, those of them that are announced as removed, and whether a TRUNCATE waits or a doubt is open."""

    ids: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    truncated: bool = False
    doubted: bool = False

    def hides(self, doc_id: str) -> bool:
        return doc_id in self.removed or self.truncated or self.doubted


@dataclass
class Seen:
    """One snapshot. `written`: which version of its row the document is; equal in two snapshots, it has not changed between them."""

    at: float
    texts: dict[str, str]
    digests: dict[str, bytes]
    written: dict[str, str]
    rows: dict[str, dict[str, Row]] = field(default_factory=dict)
    told: dict[str, Told] = field(default_factory=dict)
    parts: dict[str, dict[int, Part]] = field(default_factory=dict)

    def is_filled(self, version: str, doc_id: str) -> bool:
        return any(part.filled and part.has(doc_id) for part in self.parts[version].values())

    def is_compared_later(self, version: str, row: Row) -> bool:
        """Whether a backfill inserted it, into a partition that is not filled yet."""
        part = None if row.partition is None else self.parts[version].get(row.partition)
        return part is not None and not part.filled


@dataclass
class Auditor:
    """Looks again and again; remembers what it knows about texts and vectors, and the snapshot before.

    `doubts`: capture is made to miss something, and a doubt may be open, which announces whatever it is. Else one is a defect.
    """

    place: Path
    doubts: bool = False
    before: Seen | None = None
    known: dict[bytes, str] = field(default_factory=dict)
    shown: set[tuple[str, bytes]] = field(default_factory=set)
    right: set[tuple[str, bytes, int, str]] = field(default_factory=set)
    read: dict[str, int] = field(default_factory=dict)
    since: dict[str, tuple[str, float]] = field(default_factory=dict)
    """Since when each document is known to be in this version of its row."""

    def look(self, conn: psycopg.Connection) -> list[str]:
        """What is wrong in one snapshot, or was done wrong since the one before."""
        with in_turn(conn), conn.transaction():
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
        unchanged = {key: since for key, since in self.since.items() if written.get(key) == since[0]}
        self.since = {key: (xmin, row[0]) for key, xmin in written.items()} | unchanged
        return Seen(row[0], texts, digests, written)

    def _wrong_version(self, conn: psycopg.Connection, now: Seen, version: Registered) -> Iterator[str]:
        name = version.name
        now.parts[name] = _parts(conn, name)
        told = now.told[name] = Told()
        yield from _hear(conn, name, told)
        if told.doubted and not self.doubts:
            yield "a doubt is open, and nothing was missed"
        rows = now.rows[name] = {}
        yield from self._wrong_vectors(conn, version, rows)
        yield from _wrong_state(conn, version)
        letters = {
            doc_id: bytes(digest)
            for doc_id, digest in conn.execute(
                "SELECT doc_id, source_hash FROM embed_pipeline.dead_letters WHERE version = %s", (name,)
            )
        }
        for doc_id in now.texts.keys() | rows.keys() | letters.keys():
            row, letter = rows.get(doc_id), letters.get(doc_id)
            if doc_id not in told.ids and not told.doubted and not (doc_id not in now.texts and told.truncated):
                yield from _unexplained(now, name, doc_id, row, letter)
            if row is not None and doc_id not in now.texts and not told.hides(doc_id) and not now.is_compared_later(name, row):
                yield f"{doc_id} is gone, and nothing that is announced hides it"
        yield from self._went_back(now, name)

    def _wrong_vectors(self, conn: psycopg.Connection, version: Registered, rows: dict[str, Row]) -> Iterator[str]:
        """Every vector of the version; notes the rows of its documents."""
        chunks: dict[str, list[int]] = {}
        texts: dict[str, set[tuple[bytes, int]]] = {}
        for doc_id, chunk, digest, count, began, partition, epoch, vector in conn.execute(
            "SELECT doc_id, chunk, source_hash, chunks, extract(epoch FROM embedded_at)::double precision, partition, epoch, embedding::text "
            f"FROM embed_pipeline.docs__{version.name}"  # type: ignore[arg-type]
        ):
            chunks.setdefault(doc_id, []).append(chunk)
            texts.setdefault(doc_id, set()).add((bytes(digest), count))
            if chunk == 0:
                rows[doc_id] = Row(bytes(digest), count, began, partition, epoch)
            yield from self._wrong_vector(version, doc_id, bytes(digest), chunk, vector)
        for doc_id, numbers in chunks.items():
            expected = list(range(rows[doc_id].chunks)) if doc_id in rows else []
            if sorted(numbers) != expected or len(texts[doc_id]) > 1:
                of = f", of {len(texts[doc_id])} texts" if len(texts[doc_id]) > 1 else ""
                yield f"{doc_id} is half there: its vectors are {sorted(numbers)}, its row counts {len(expected)}{of}"

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
        """Writes since the snapshot before that are older than what was there.

        A text that is overtaken while it is embedded is written all the same, and may be: what overtook it is announced. But only who has
        claimed a document writes it, and reads its text after that. So the text that a document has, once a dual-write has written it, is
        never replaced by an older one, announced or not. And where nothing was announced, nobody has read anything yet: whatever is
        written since then is what the document was in the snapshot before, or became later. What a backfill has written may go back while
        its document is announced: a worker that has claimed it may hold an older text.
        """
        before = self.before
        if before is None or version not in before.rows:
            return
        told, epochs = before.told[version], {number: part.epoch for number, part in before.parts[version].items()}
        for doc_id, row in now.rows[version].items():
            was = before.rows[version].get(doc_id)
            if was is not None and was.began == row.began:
                if was.digest != row.digest:
                    yield f"{doc_id} got another label without being written anew"
                continue
            if row.partition is not None:
                if row.epoch is not None and row.epoch < epochs.get(row.partition, 0):
                    yield f"{doc_id} was inserted under an epoch of its partition that was over"
                continue
            settled = doc_id not in told.ids and not told.doubted
            current = before.digests.get(doc_id)
            if current is not None and current != row.digest and before.written[doc_id] == now.written.get(doc_id):
                # Written since the document is as it is: the same text may have been there before.
                right = was is not None and was.partition is None and was.digest == current and was.began > self.since[doc_id][1]
                if settled or right:
                    yield f"{doc_id} went back to a text that was over when its writer began"
            gone = current is None and doc_id not in now.texts and not told.truncated
            if gone and settled and (doc_id, row.digest) in self.shown:
                yield f"{doc_id} was gone when a writer of it began"


def _hear(conn: psycopg.Connection, version: str, told: Told) -> Iterator[str]:
    """Note what is announced; a claim of nobody would never be ended."""
    claims = {claim for (claim,) in conn.execute(CLAIMS, (version,))}
    for doc_id, removed, claim in conn.execute(PENDING, (version,)):
        told.ids.add(doc_id)
        if removed:
            told.removed.add(doc_id)
        if claim is not None and claim not in claims:
            yield f"{doc_id} is claimed, and nobody counts for the claim"
    for doc_id, removed in conn.execute(INBOX):
        told.ids.add(doc_id)
        if removed:
            told.removed.add(doc_id)
    row = conn.execute(EVERYTHING_GONE).fetchone()
    assert row is not None
    told.truncated, told.doubted = row
    arrived, left = conn.execute(ROTATED).fetchone() or ([], False)
    if arrived:
        told.ids.update(doc_id for doc_id, _, _ in oracle.documents(conn, arrived))
    told.truncated = told.truncated or left


def _unexplained(now: Seen, version: str, doc_id: str, row: Row | None, letter: bytes | None) -> Iterator[str]:
    """What is wrong with a document that nothing announced is about."""
    digest = now.digests.get(doc_id)
    filled = now.is_filled(version, doc_id)
    if row is None or not now.is_compared_later(version, row):
        yield from _wrong_row(doc_id, digest, row)
    if letter is not None and filled:
        if letter != digest:
            yield f"{doc_id} has a dead letter that is stale, and nothing is announced"
        if row is not None:
            yield f"{doc_id} has a dead letter beside its vectors, and nothing is announced"
    if digest is None:
        return
    if models.refused(now.texts[doc_id]):
        if row is not None and not now.is_compared_later(version, row):
            yield f"{doc_id} can have no vector and has one, and nothing is announced"
        if letter is None and filled:
            yield f"{doc_id} can have no vector and has no dead letter, and nothing is announced"
    elif letter == digest:
        yield f"{doc_id} has a dead letter without a reason"
    elif row is None and filled:
        yield f"{doc_id} is missing from a partition that is filled, and nothing is announced"


def _wrong_row(doc_id: str, digest: bytes | None, row: Row | None) -> Iterator[str]:
    if row is not None and digest is None:
        yield f"{doc_id} is an orphan, and nothing is announced"
    elif row is not None and row.digest != digest:
        yield f"{doc_id} is stale, and nothing is announced"


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


def _parts(conn: psycopg.Connection, version: str) -> dict[int, Part]:
    return {
        number: Part(_order(lower), _order(upper), epoch, filled, empty)
        for number, lower, upper, epoch, filled, empty in conn.execute(PARTITIONS, (version,))
    }


def _order(bound: list[str] | None) -> list[int | str] | None:
    return None if bound is None else oracle.order_of(bound)


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def audit(url: str, place: Path, frozen_seconds: float, doubts: bool, stop: Path, log_file: Path) -> None:
    """The process: look until `stop` exists, and write down each kind of defect once, with how often it was seen, and the number of looks."""
    found: Counter[str] = Counter()
    looks = 0
    auditor = Auditor(place, doubts)
    held = locks.Held(url, place, frozen_seconds)
    watching = threading.Thread(target=held.watch, args=(stop,), daemon=True)
    watching.start()
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
            problems += held.take()
            new = set(problems) - found.keys()
            found.update(problems)
            if new:
                _write(log_file, looks, found)
        time.sleep(PAUSE_SECONDS)
    watching.join(10)
    found.update(held.take())
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
