"""The oracle: what is wrong with an index, by its documents, its vectors and its catalog alone.

Nothing of the package is asked: the texts are put together, hashed and embedded again here, and what the stores hold is read by `held`.
It is called when the application is still and what it left in the inbox had time to be worked off. Every sentence it returns is one defect.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import psycopg
from langchain_text_splitters import RecursiveCharacterTextSplitter
from psycopg.pq import TransactionStatus

from tests.faults.campaign import held, models
from tests.faults.campaign.held import Vector

# A cutover stands on evidence that was there before and passed; a rollback asks for none.
UNPROVEN = """
SELECT a.version FROM embed_pipeline.audit_events a LEFT JOIN embed_pipeline.gate_evidence e
    ON e.id = a.evidence_id AND (e.index_name, e.version, e.outcome) = (a.index_name, a.version, 'pass') AND e.created_at <= a.at
WHERE a.index_name = 'docs' AND a.event = 'cutover' AND a.to_state = 'active' AND e.id IS NULL
"""
# Nobody changes a state but by the package's own verbs, and what changes it otherwise the database refuses.
BY_HAND = "SELECT version, to_state FROM embed_pipeline.audit_events WHERE index_name = 'docs' AND event = 'by hand'"
# What the state machine of docs/states.md allows; None: not registered yet.
LEGAL = {
    (None, "building"),
    ("building", "ready"),
    ("building", "retired"),
    ("ready", "active"),
    ("ready", "retired"),
    ("active", "standby"),
    ("standby", "active"),
    ("standby", "retired"),
}

# What no index at rest has: changes that nobody was told of or that nobody did, workers' claims, doubts, ids that no key can hold.
LEFT = (
    "SELECT format('the inbox holds %s rows', count(*)) FROM embed_pipeline.inbox HAVING count(*) > 0",
    "SELECT format('%s documents are pending for %s', count(*), version) FROM embed_pipeline.pending GROUP BY version ORDER BY version",
    "SELECT format('%s claims are left for %s', count(*), version) FROM embed_pipeline.claims GROUP BY version ORDER BY version",
    "SELECT format('a doubt is open (%s): %s', kind, reason) FROM embed_pipeline.doubts ORDER BY id",
    "SELECT format('an id was set aside: %s', reason) FROM embed_pipeline.unwieldy_ids ORDER BY digest",
)

KEY = """
SELECT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
WHERE i.indrelid = 'articles'::regclass AND i.indisprimary ORDER BY array_position(i.indkey, a.attnum)
"""


@dataclass(frozen=True)
class Registered:
    """A version as the catalog has it."""

    name: str
    state: str
    fingerprint: str
    model_name: str
    model_version: str
    space: int
    chunker: dict[str, int] | None

    def passages(self, text: str) -> list[str]:
        """What is embedded of a text: all of it, or its chunks without white space at their ends."""
        if self.chunker is None:
            return [text]
        splitter = RecursiveCharacterTextSplitter(
            chunk_size=self.chunker["size"], chunk_overlap=self.chunker["overlap"], strip_whitespace=False
        )
        return [chunk.strip() for chunk in splitter.split_text(text) if chunk.strip()]


def versions(conn: psycopg.Connection) -> list[Registered]:
    rows = conn.execute(
        "SELECT version, state, fingerprint, model_name, model_version, (spec #>> '{options,space}')::integer, "
        "nullif(spec -> 'chunker', 'null') "
        "FROM embed_pipeline.index_versions WHERE index_name = 'docs' ORDER BY created_at"
    )
    return [Registered(*row) for row in rows]


def texts(conn: psycopg.Connection) -> dict[str, str]:
    """The text of every document."""
    return {doc_id: text for doc_id, text, _ in documents(conn)}


def documents(conn: psycopg.Connection, tables: Sequence[int] | None = None) -> Iterator[tuple[str, str, str]]:
    """Id, text and xmin of every document, or of those in these partitions.

    The text is put together as docs/reference/yaml.md says: non-empty columns, joined by a blank line.
    """
    key = [name for (name,) in conn.execute(KEY)]
    columns = ", ".join([*key, "title::text", "body::text", "xmin::text"])
    # In binary: whatever the session makes of a value as text is none of the oracle's business.
    query = f"SELECT {columns} FROM articles WHERE %s::oid[] IS NULL OR tableoid = ANY (%s::oid[])"
    wanted = None if tables is None else list(tables)
    for *values, title, body, xmin in conn.execute(query, (wanted, wanted), binary=True):  # type: ignore[arg-type]
        yield doc_id_of(values), "\n\n".join(part for part in (title, body) if part), xmin


def doc_id_of(key: Sequence[object]) -> str:
    """The id of the document with this key: its text, or a JSON array of the texts of its columns."""
    parts = [_key_text(value) for value in key]
    return parts[0] if len(parts) == 1 else json.dumps(parts, ensure_ascii=False)


def _key_text(value: object) -> str:
    """As a session in UTC with ISO dates and hexadecimal bytes writes it."""
    if isinstance(value, bytes):
        return f"\\x{value.hex()}"
    if isinstance(value, datetime):
        # Keys of whole seconds only.
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S+00")
    return str(value)


def order(doc_id: str) -> list[int | str]:
    """What sorts the documents by their keys: numbers, or texts that are all of one length."""
    parts = json.loads(doc_id) if doc_id.startswith("[") else [doc_id]
    return order_of(parts)


def order_of(parts: Sequence[str]) -> list[int | str]:
    """The same of a key's columns as texts."""
    return [int(part) if part.lstrip("-").isdigit() else part for part in parts]


@contextmanager
def snapshot(conn: psycopg.Connection) -> Iterator[None]:
    """One moment for all that is read in the block; inside a transaction, that transaction's."""
    outermost = conn.info.transaction_status == TransactionStatus.IDLE
    with conn.transaction():
        if outermost:
            conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        yield


def problems(conn: psycopg.Connection) -> list[str]:
    """Everything that is wrong now with any live version, what is still to do, the dead letters or the audit. Empty: nothing."""
    with snapshot(conn):
        found = _unfinished(conn)
        for version in versions(conn):
            if version.state != "retired":
                found += wrong_vectors(conn, version)
        return found + wrong_catalog(conn)


def wrong_vectors(conn: psycopg.Connection, version: Registered) -> list[str]:
    """What is wrong with the vectors and dead letters of one version."""
    documents = texts(conn)
    there = held.held(conn, version.name)
    rows, vectors = there.rows, there.vectors
    letters = _pairs(conn, f"SELECT doc_id, source_hash FROM embed_pipeline.dead_letters WHERE version = '{version.name}'")
    found = [f"{doc_id} is an orphan" for doc_id in sorted((rows.keys() | vectors.keys()) - documents.keys())]
    found += [f"{doc_id} has vectors and no row of its own" for doc_id in sorted(vectors.keys() - rows.keys())]
    found += [f"{doc_id} has passages {chunks} with labels of their own" for doc_id, chunks in sorted(there.strays.items())]
    found += [
        f"{doc_id} has a dead letter that is stale" for doc_id in letters if letters[doc_id] != _hash(documents.get(doc_id))
    ]
    for doc_id, text in documents.items():
        provenance = (version.model_name, version.model_version, version.fingerprint)
        found += _wrong_document(doc_id, text, rows.get(doc_id), vectors.get(doc_id, {}), doc_id in letters, provenance, version)
    return [f"{version.name}: {each}" for each in found]


def differing(conn: psycopg.Connection, version: str) -> set[str]:
    """Documents whose vectors are not those of their text, or that are gone and have vectors or a dead letter: what a full comparison must queue."""
    documents = texts(conn)
    stored = held.hashes(conn, version)
    letters = _pairs(conn, f"SELECT doc_id, source_hash FROM embed_pipeline.dead_letters WHERE version = '{version}'")
    wrong = {doc_id for doc_id in documents.keys() | stored.keys() if stored.get(doc_id) != _hash(documents.get(doc_id))}
    wrong = {doc_id for doc_id in wrong if doc_id in stored or letters.get(doc_id) != _hash(documents.get(doc_id))}
    return wrong | (letters.keys() - documents.keys())


def _pairs(conn: psycopg.Connection, query: str) -> dict[str, bytes]:
    return {doc_id: bytes(digest) for doc_id, digest in conn.execute(query)}  # type: ignore[arg-type]


def _wrong_document(
    doc_id: str,
    text: str,
    row: Sequence[object] | None,
    vectors: dict[int, Vector],
    letter: bool,
    provenance: tuple[str, str, str],
    version: Registered,
) -> Iterator[str]:
    if models.refused(text):
        if row is not None or vectors:
            yield f"{doc_id} can have no vector, and has one"
        if not letter:
            yield f"{doc_id} can have no vector, and has no dead letter"
        return
    if letter:
        yield f"{doc_id} has a dead letter without a reason"
    if row is None:
        yield f"{doc_id} is missing"
        return
    digest, count, *labels = row
    if digest != _hash(text):
        yield f"{doc_id} is stale"
        return
    if tuple(labels) != provenance:
        yield f"{doc_id} has the provenance {labels}"
    passages = version.passages(text)
    if sorted(vectors) != list(range(len(passages))) or count != len(passages):
        yield f"{doc_id} has the passages {sorted(vectors)}, counted {count}, of {len(passages)}"
        return
    for number, passage in enumerate(passages):
        expected = models.document_vector(version.space, passage)
        vector, start, end = vectors[number]
        if not np.allclose(_numbers(vector), expected, atol=1e-3):
            yield f"{doc_id} has a vector that its model did not make of passage {number}"
        if (version.chunker is None) != (start is None) or (start is not None and text[start:end] != passage):
            yield f"{doc_id} names another place for passage {number}"


def _numbers(vector: str) -> models.Vectors:
    return np.array(vector.strip("[]").split(","), dtype=np.float32)


def _hash(text: str | None) -> bytes | None:
    return None if text is None else hashlib.sha256(text.encode()).digest()


def _unfinished(conn: psycopg.Connection) -> list[str]:
    """What is still to do, or is left of who did it."""
    return [sentence for query in LEFT for (sentence,) in conn.execute(query)]


def wrong_catalog(conn: psycopg.Connection) -> list[str]:
    """Whether the audit tells one legal history, each transition once, that ends in the states and the pointer as they are."""
    found = []
    states: dict[str, str | None] = {}
    for name, before, after in _transitions(conn):
        if before != states.get(name) or (before, after) not in LEGAL:
            found.append(f"the audit says {name} went from {before} to {after} when it was {states.get(name)}")
        states[name] = after
    served = _routes(conn)
    found += [f"the audit says {name} was served without evidence" for (name,) in conn.execute(UNPROVEN)]
    found += [f"the audit says {name} became {state} by hand" for name, state in conn.execute(BY_HAND)]
    now = {version.name: version.state for version in versions(conn)}
    if now != states:
        found.append(f"the versions are {now}, the audit ends with {states}")
    active = [name for name, state in now.items() if state == "active"]
    pointer = conn.execute(
        "SELECT version, refine_version, generation FROM embed_pipeline.serving_pointer WHERE index_name = 'docs'"
    ).fetchone()
    expected = (*(served[-1] if served else (None, None)), len(served))
    if pointer != expected or active != [version for version, _ in served[-1:]]:
        found.append(f"the pointer says {pointer}, active are {active}, the audit says {expected}")
    return found


def _transitions(conn: psycopg.Connection) -> list[tuple[str, str | None, str]]:
    # What a throttle or a check of a model said is in the same columns, and is no state of the version.
    return conn.execute(
        "SELECT version, from_state, to_state FROM embed_pipeline.audit_events "
        "WHERE index_name = 'docs' AND to_state IN ('building', 'ready', 'active', 'standby', 'retired') ORDER BY id"
    ).fetchall()


def _routes(conn: psycopg.Connection) -> list[tuple[str, str | None]]:
    """What served in each generation, by the audit: a version, and the one that refined it.

    A move to another version is told by the states; one where something refines, before or after, by an event of its own as well.
    """
    found: list[tuple[str, str | None]] = []
    rows = conn.execute(
        "SELECT version, event = 'route', detail #>> '{route,refine}', (detail ->> 'generation')::integer FROM embed_pipeline.audit_events "
        "WHERE index_name = 'docs' AND (to_state = 'active' OR event = 'route') ORDER BY id"
    )
    for version, is_route, refine, generation in rows:
        if is_route and generation == len(found):
            found[-1] = (version, refine)
        else:
            found.append((version, refine))
    return found


def wrong_answers(
    conn: psycopg.Connection, records: Iterable[dict[str, object]], late_seconds: float, *, anchors: bool = True
) -> list[str]:
    """Whether every search was ranked in one space, by the version that it names, and that version was live.

    `late_seconds`: how long a searcher may believe a pointer whose flip it did not hear of. `anchors`: documents that nobody touches
    must be found by whatever serves. An answer for which its record knows how many documents there are has so many.
    """
    known = {version.name: version for version in versions(conn)}
    served = _routes(conn)
    retired = dict(
        conn.execute(
            "SELECT version, extract(epoch FROM at)::double precision FROM embed_pipeline.audit_events "
            "WHERE index_name = 'docs' AND to_state = 'retired'"
        ).fetchall()
    )
    found: Counter[str] = Counter()
    for record in records:
        if record["kind"] == "search" and "hits" in record:
            found.update(_wrong_answer(record, known, served, retired, late_seconds))
            found.update(_lost_anchor(record) if anchors else [])
    return [f"{problem} ({count} times)" for problem, count in found.items()]


def _wrong_answer(
    record: dict[str, object],
    known: dict[str, Registered],
    served: list[tuple[str, str | None]],
    retired: dict[str, float],
    late_seconds: float,
) -> Iterator[str]:
    version = known[str(record["version"])]
    if record["fingerprint"] != version.fingerprint:
        yield f"an answer of {version.name} names another fingerprint"
    if record["asked"] not in (None, version.name):
        yield f"{record['asked']} was asked and {version.name} answered"
    generation = int(str(record["generation"]))
    serves, refines = served[generation - 1]
    if record["asked"] is None and version.name != serves:
        yield f"{version.name} answered in generation {generation}, which is of {serves}"
    taken, by = record.get("route", (version.name, None))  # type: ignore[misc]
    if taken != version.name or (record["asked"] is not None and by is not None):
        yield f"{version.name} answered and names the route of {taken} and {by}"
    # Without the other version the list is what it is; then the answer says why.
    if record["asked"] is None and by != refines and not (by is None and record.get("note")):
        yield f"an answer in generation {generation}, which {refines} refines, was refined by {by}"
    if float(str(record["at"])) > retired.get(version.name, float("inf")) + late_seconds:
        yield f"{version.name} answered after it was retired"
    hits: list[tuple[str, float]] = record["hits"]  # type: ignore[assignment]
    if any(distance == 1.0 for _, distance in hits):
        yield f"a query of another space met the vectors of {version.name}"
    if len(hits) < record.get("wanted", 0):  # type: ignore[operator]
        yield f"{version.name} found {len(hits)} documents of {record['wanted']} that were there"
    # Only the same text is that near; how near tells which model made the query and the vector.
    if hits and hits[0][1] < 0.1 and abs(hits[0][1] - models.own_distance(version.space)) > 1e-3:
        yield f"an answer of {version.name} was ranked at the distance of another model"


def _lost_anchor(record: dict[str, object]) -> Iterator[str]:
    hits: list[tuple[str, float]] = record["hits"]  # type: ignore[assignment]
    if "anchor" in record and record["asked"] is None and (not hits or hits[0][0] != record["anchor"]):
        yield f"{record['version']} served and did not find a document that nobody had touched"
