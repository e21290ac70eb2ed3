"""What the state machine lives in: a database for each example, the documents as they should be, and the oracle's look at the vectors."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import psycopg
from psycopg import sql

from embed_pipeline.catalog import evidence, versions
from embed_pipeline.documents import source as documents_source
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import ann_index, backfill, cutover, judged
from embed_pipeline.migrate.opening import open_index
from embed_pipeline.spec import IndexSpec
from tests.harness.fakes import unit_vector

DIMENSIONS = 4
FIRST_DOCUMENTS = {1: "a", 2: "b", 3: "c", 4: "d"}


def declared(url: str, names: Sequence[str]) -> IndexSpec:
    """Index `docs` with these versions, each a space of its own, and nothing that a small table could trip over."""
    versions_ = {
        name: {
            "provider": "tests.harness.fakes:HashEmbedder",
            "model_name": f"model-{name}",
            "dimensions": DIMENSIONS,
            "options": {"salt": name},
        }
        for name in names
    }
    return IndexSpec.model_validate(
        {
            "name": "docs",
            "database_url": url,
            "documents": {"table": "articles", "key": "id", "text": ["title", "body"]},
            "partitions": 2,
            "versions": versions_,
            "gate": {"min_queries": 2, "max_dead_letters": 1000, "max_row_change": 1.0},
            "retire": {"soak_seconds": 0, "unread_seconds": 0},
        }
    )


def text_of(body: str | None) -> str:
    """The document's text as the declaration puts it together; a blank body is a blank document."""
    return "\n\n".join(["title", body]) if body else ""


def title_of(body: str | None) -> str | None:
    return "title" if body else None


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def pass_gate(index: OpenIndex, name: str) -> None:
    """Evidence that the version may serve, as the gate would store it; the search for recall is another test's."""
    with index.connection() as conn:
        version = index.version(conn, name)
        present = judged.present(conn, index, version)
        baseline = None if present.baseline_version is None else index.version(conn, present.baseline_version).fingerprint
        evidence.store(
            conn,
            index.name,
            name,
            present=present,
            baseline_fingerprint=baseline,
            outcome="pass",
            sentence="pass",
            vectors=0,
            measures={},
            max_age_seconds=3600,
        )


def fill(index: OpenIndex, name: str) -> None:
    """What is left of the backfill, and the ANN index: the version is ready."""
    with index.connection() as conn:
        left = backfill.unfilled(conn, index, name)
    for key in left:
        backfill.fill_partition(index, name, key)
    ann_index.build(index, name)


class Databases:
    """Makes a database for each example: a copy of one in which v1 serves four documents already."""

    def __init__(self, server_url: Callable[[str], str], admin: psycopg.Connection, empty: str) -> None:
        self._url = server_url
        self._admin = admin
        self._served = f"served_{uuid.uuid4().hex}"
        self._make(self._served, empty)
        url = server_url(self._served)
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute("CREATE TABLE articles (id bigint PRIMARY KEY, title text, body text)")
            for key, body in FIRST_DOCUMENTS.items():
                conn.execute("INSERT INTO articles VALUES (%s, %s, %s)", (key, title_of(body), body))
        index = open_index(declared(url, ["v1"]))
        fill(index, "v1")
        pass_gate(index, "v1")
        cutover.cutover(index, "v1")
        index.close()

    def fresh(self) -> str:
        """The URL of a new copy."""
        name = f"example_{uuid.uuid4().hex}"
        self._make(name, self._served)
        return self._url(name)

    def drop(self, url: str) -> None:
        self._drop(url.rpartition("/")[2])

    def close(self) -> None:
        self._drop(self._served)

    def _make(self, name: str, template: str) -> None:
        names = {"name": sql.Identifier(name), "template": sql.Identifier(template)}
        self._admin.execute(sql.SQL("CREATE DATABASE {name} TEMPLATE {template} STRATEGY wal_log").format(**names))

    def _drop(self, name: str) -> None:
        self._admin.execute(sql.SQL("DROP DATABASE IF EXISTS {name} WITH (FORCE)").format(name=sql.Identifier(name)))


@dataclass
class Documents:
    """The model: what the application has committed, and every text that a document ever had."""

    now: dict[int, str | None] = field(default_factory=lambda: dict[int, str | None](FIRST_DOCUMENTS))
    ever: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def __post_init__(self) -> None:
        for key in self.now:
            self._remember(key)

    def put(self, key: int, body: str | None) -> None:
        self.now[key] = body
        self._remember(key)

    def remove(self, key: int) -> None:
        del self.now[key]

    def texts(self) -> dict[str, str]:
        return {str(key): text_of(body) for key, body in self.now.items()}

    def _remember(self, key: int) -> None:
        self.ever[str(key)].add(text_of(self.now[key]))


@dataclass(frozen=True)
class Stored:
    """One document of a version as it lies in the tables."""

    source_hash: bytes | None
    chunks: int | None
    vectors: dict[int, list[float]]


@dataclass(frozen=True)
class VersionTables:
    """Everything of one version, in one look, with none of the package's SQL.

    `queued`: documents that the queue or the inbox speaks of. `truncated`: a TRUNCATE waits in the inbox. `unfilled`: key ranges that no
    comparison has marked as filled, where whatever is wrong is still the backfill's.
    """

    name: str
    state: str
    stored: dict[str, Stored]
    queued: frozenset[str]
    truncated: bool
    unfilled: tuple[tuple[int | None, int | None], ...]
    dead: dict[str, bytes]

    def is_filled(self, doc_id: str) -> bool:
        """Whether the document is in a range that was filled."""
        key = int(doc_id)
        return not any((lower is None or lower <= key) and (upper is None or key < upper) for lower, upper in self.unfilled)

    def differences(self, documents: Documents) -> dict[str, str]:
        """Documents whose vectors are not those of their present text: doc_id -> what is wrong."""
        texts = documents.texts()
        found: dict[str, str] = {}
        for doc_id, text in texts.items():
            has = self.stored.get(doc_id)
            if has is None:
                if self.dead.get(doc_id) != digest(text):
                    found[doc_id] = "missing"
            elif has.source_hash != digest(text):
                found[doc_id] = "stale"
        return found | dict.fromkeys(self.stored.keys() - texts.keys(), "orphaned")

    def problems(self, documents: Documents) -> list[str]:
        """What may never be, whatever is under way: a wrong vector, half a document, a difference that nobody will come back to."""
        problems = []
        for doc_id, has in self.stored.items():
            if has.source_hash is None or not has.vectors or set(has.vectors) != set(range(has.chunks or 0)):
                problems.append(f"{doc_id} is half there: {has}")
                continue
            text = next((text for text in documents.ever[doc_id] if digest(text) == has.source_hash), None)
            if text is None:
                problems.append(f"{doc_id} has a hash of no text that it ever had")
            elif not np.allclose(has.vectors[0], unit_vector(f"{self.name}\0{text}", DIMENSIONS), atol=1e-6):
                problems.append(f"{doc_id} has a vector of another text or model")
        for doc_id, wrong in self.differences(documents).items():
            # What a partition that is not filled yet lacks, its own comparison finds; all else has to stand in the inbox or in the queue.
            told = doc_id in self.queued or (wrong == "orphaned" and self.truncated)
            if not told and self.is_filled(doc_id):
                problems.append(f"{doc_id} is {wrong}, and nothing is queued")
        return [f"{self.name}: {problem}" for problem in problems]


def look(conn: psycopg.Connection, version: versions.Version) -> VersionTables:
    """Read the tables of a version in one snapshot."""
    with conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        rows = conn.execute(
            sql.SQL("SELECT doc_id, source_hash, chunks, chunk, embedding::text FROM {table} ORDER BY doc_id, chunk").format(
                table=version.table
            )
        ).fetchall()
        queued = conn.execute(
            "SELECT doc_id FROM embed_pipeline.pending WHERE version = %s UNION SELECT unnest(doc_ids) FROM embed_pipeline.inbox",
            (version.name,),
        ).fetchall()
        truncated = conn.execute("SELECT EXISTS (SELECT FROM embed_pipeline.inbox WHERE doc_ids IS NULL)").fetchone()
        ranges = conn.execute(
            "SELECT lower_key[1]::integer, upper_key[1]::integer FROM embed_pipeline.partitions "
            "WHERE version = %s AND completed_at IS NULL AND NOT is_empty",
            (version.name,),
        ).fetchall()
        dead = conn.execute("SELECT doc_id, source_hash FROM embed_pipeline.dead_letters WHERE version = %s", (version.name,))
        letters = {doc_id: bytes(source_hash) for doc_id, source_hash in dead}
    stored: dict[str, Stored] = {}
    for doc_id, source_hash, chunks, chunk, embedding in rows:
        has = stored.setdefault(doc_id, Stored(bytes(source_hash), chunks, {}))
        has.vectors[chunk] = json.loads(embedding)
    waiting = frozenset(doc_id for (doc_id,) in queued)
    return VersionTables(version.name, version.state, stored, waiting, truncated == (True,), tuple(ranges), letters)


def reopen(url: str, names: Sequence[str]) -> OpenIndex:
    """The handle without a look at the catalog, which the copied database has at its newest already."""
    spec = declared(url, names)
    with psycopg.connect(url, autocommit=True) as conn:
        return OpenIndex(spec, url, documents_source.inspect(conn, spec.source()))
