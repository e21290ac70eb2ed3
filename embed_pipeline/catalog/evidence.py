"""Gate evidence: what was judged, on which rows, and whether that still describes what would serve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import psycopg

from embed_pipeline.catalog.route import Kind
from embed_pipeline.catalog.versions import queries
from embed_pipeline.postgres.storable import storable, storable_json

NAMED = 3
# A share that is a sum may miss the limit that it equals by the last binary digits.
ROUNDING = 1e-9
# A version that refines is judged as far as it is filled: what it does to the rest, nobody has seen (docs/routes.md).
TENTH = 0.1


@dataclass(frozen=True)
class Evidence:
    id: int
    version: str
    fingerprint: str
    baseline_version: str | None
    outcome: str
    sentence: str
    holdout_sha256: str | None
    documents: int
    vectors: int
    ann_index: int | None
    ef_search: int
    judged: dict[str, Any]
    measures: dict[str, Any]
    created_at: datetime
    valid_until: datetime
    expired: bool
    route: Kind = "direct"
    depth: int | None = None
    adapter: int | None = None

    @property
    def filled(self) -> float:
        """The share of the documents of which the version had vectors."""
        return self.vectors / max(self.documents, 1)


@dataclass(frozen=True)
class Present:
    """What evidence is compared with: the world as it is now.

    `rule`: every setting that decides, by its name in the YAML. `baseline`: how the version that serves is searched; empty when none does.
    """

    fingerprint: str
    baseline_version: str | None
    holdout_sha256: str | None
    documents: int
    ann_index: int | None
    ef_search: int
    rule: dict[str, Any] = field(default_factory=dict)
    baseline: dict[str, Any] = field(default_factory=dict)
    route: Kind = "direct"
    depth: int | None = None
    adapter: int | None = None
    filled: float | None = None
    """Of a refine route: the share of the documents that the refining version has."""

    @property
    def judged(self) -> dict[str, Any]:
        """What the evidence keeps of it besides its columns."""
        return {"rule": self.rule, "baseline": self.baseline}


@dataclass(frozen=True)
class Texts:
    """The texts that a verdict was about, as hashes by document: of every judged document, and of a sample of all documents."""

    judged: Mapping[str, bytes] = field(default_factory=dict)
    sampled: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def doc_ids(self) -> list[str]:
        return sorted(self.judged.keys() | self.sampled.keys())


NO_TEXTS = Texts()


def staleness(evidence: Evidence, now: Present, max_row_change: float) -> str | None:
    """Why the evidence no longer describes what would serve, but for the documents' texts (`moved_texts`); None while it does. Pure."""
    if evidence.expired:
        return f"it expired at {evidence.valid_until:%Y-%m-%d %H:%M}"
    if evidence.fingerprint != now.fingerprint:
        return "it judged another fingerprint"
    if evidence.baseline_version != now.baseline_version:
        return f"it compared with {evidence.baseline_version or 'nothing'}, and {now.baseline_version or 'nothing'} serves now"
    if evidence.holdout_sha256 != now.holdout_sha256:
        return "the held-out set has changed"
    if evidence.ann_index != now.ann_index:
        return "the ANN index was built anew, or is searched otherwise"
    # More of the index finds more: what has passed passes, and what has failed is worth another look.
    if now.ef_search < evidence.ef_search or (evidence.outcome != "pass" and now.ef_search != evidence.ef_search):
        return f"it was searched with hnsw.ef_search {evidence.ef_search}, and is with {now.ef_search} now"
    if (moved := _moved(evidence.judged.get("rule", {}), now.rule)) is not None:
        return f"its rule has changed: {moved}"
    if (moved := _moved(evidence.judged.get("baseline", {}), now.baseline)) is not None:
        return f"{evidence.baseline_version}, which it compared with, is searched otherwise: {moved}"
    if abs(now.documents - evidence.documents) > max_row_change * max(evidence.documents, 1):
        return f"it judged {evidence.documents} documents, and there are {now.documents} now"
    if evidence.depth != now.depth:
        return f"it judged a depth of {evidence.depth}, and {now.depth} is declared now"
    if evidence.adapter != now.adapter:
        return f"it judged adapter {evidence.adapter}, and {now.adapter} was fitted since"
    if now.filled is not None and abs(now.filled - evidence.filled) > TENTH:
        return f"it judged {evidence.version} while {evidence.filled:.0%} of it was filled, and {now.filled:.0%} is now"
    return None


def moved_texts(evidence: Evidence, texts: Texts, now: Mapping[str, bytes], documents: int, max_row_change: float) -> str | None:
    """Why the documents are others than those that were judged; None while they are the same but for the share that is allowed. Pure.

    `now`: the hashes of the documents of `texts` that are there. `documents`: how many there are in all.
    """
    kept = evidence.judged.get("documents", {})
    if (len(texts.judged), len(texts.sampled)) != (kept.get("judged", 0), kept.get("sampled", 0)):
        return "what it knows of the documents that it judged is not complete any more"
    changed = sorted(doc_id for doc_id, digest in texts.judged.items() if now.get(doc_id) != digest)
    if changed:
        named = ", ".join(changed[:NAMED]) + (f" and {len(changed) - NAMED} more" if len(changed) > NAMED else "")
        return f"{len(changed)} of the {len(texts.judged)} judged documents have another text since, or are gone: {named}"
    share = _share_changed(texts.sampled, now, evidence.documents, documents)
    if share > max_row_change + ROUNDING:
        return (
            f"{share:.1%} of the documents have changed, come or gone since, and gate.max_row_change allows {max_row_change:.1%}"
        )
    return None


def _share_changed(sampled: Mapping[str, bytes], now: Mapping[str, bytes], before: int, documents: int) -> float:
    """Documents that changed, came or went, of those that were judged. Each counts once, however often it was written."""
    if not sampled:
        return 0.0 if documents == before else 1.0
    gone = sum(doc_id not in now for doc_id in sampled) / len(sampled)
    other = sum(doc_id in now and now[doc_id] != digest for doc_id, digest in sampled.items()) / len(sampled)
    came = max(documents - before * (1 - gone), 0.0) / before
    return min(gone + other + came, 1.0)


def _moved(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            return f"{name} was {_shown(before.get(name))} and is {_shown(now.get(name))} now"
    return None


def _shown(value: Any) -> str:
    return "not set" if value is None else str(value)


def store(
    conn: psycopg.Connection,
    index: str,
    version: str,
    *,
    present: Present,
    texts: Texts = NO_TEXTS,
    baseline_fingerprint: str | None,
    outcome: str,
    sentence: str,
    vectors: int,
    measures: dict[str, Any],
    max_age_seconds: int,
    kind: Literal["judged", "adopted"] = "judged",
) -> int:
    """Append one piece of evidence, in the caller's transaction; returns its id."""
    counts = {"judged": len(texts.judged), "sampled": len(texts.sampled)}
    values = {
        "index": index,
        "version": version,
        "fingerprint": present.fingerprint,
        "baseline_version": present.baseline_version,
        "baseline_fingerprint": baseline_fingerprint,
        "outcome": outcome,
        "sentence": storable(conn, sentence),
        "holdout_sha256": present.holdout_sha256,
        "documents": present.documents,
        "vectors": vectors,
        "ann_index": present.ann_index,
        "ef_search": present.ef_search,
        "judged": storable_json(conn, present.judged | {"documents": counts}),
        "measures": storable_json(conn, measures),
        "kind": kind,
        "route": present.route,
        "depth": present.depth,
        "adapter": present.adapter,
        "max_age_seconds": max_age_seconds,
    }
    row = conn.execute(queries("insert_evidence"), values).fetchone()
    assert row is not None
    evidence_id = int(row[0])
    conn.execute(
        queries("forget_judged_documents"),
        {"index": index, "version": version, "route": present.route, "evidence_id": evidence_id},
    )
    doc_ids, hashes = texts.doc_ids, {**texts.judged, **texts.sampled}
    kept = {
        "evidence_id": evidence_id,
        # As the documents have them: they come out of this database.
        "doc_ids": doc_ids,
        "hashes": [hashes[doc_id] for doc_id in doc_ids],
        "judged": [doc_id in texts.judged for doc_id in doc_ids],
        "sampled": [doc_id in texts.sampled for doc_id in doc_ids],
    }
    conn.execute(queries("keep_judged_documents"), kept)
    return evidence_id


def latest(conn: psycopg.Connection, index: str, version: str, route: Kind = "direct") -> Evidence | None:
    """The newest evidence about a version on a kind of route, whatever its outcome."""
    row = conn.execute(queries("latest_evidence"), {"index": index, "version": version, "route": route}).fetchone()
    return None if row is None else Evidence(*row)


def ever_passed(conn: psycopg.Connection, index: str, version: str) -> bool:
    """Whether a gate has ever let the version serve by itself: a rollback to it asks for no newer word."""
    row = conn.execute(queries("ever_passed"), {"index": index, "version": version}).fetchone()
    return bool(row and row[0])


def passed(conn: psycopg.Connection, index: str, version: str | None) -> list[tuple[str, str]]:
    """The ready versions, with their fingerprints, that the database would let a cutover serve; or whether `version` is one."""
    return conn.execute(queries("passed_versions"), {"index": index, "version": version}).fetchall()


def texts_of(conn: psycopg.Connection, evidence: Evidence) -> Texts:
    """The texts that the evidence is about."""
    rows = conn.execute(queries("judged_documents"), {"evidence_id": evidence.id}).fetchall()
    return Texts(
        judged={doc_id: bytes(digest) for doc_id, digest, judged, _ in rows if judged},
        sampled={doc_id: bytes(digest) for doc_id, digest, _, sampled in rows if sampled},
    )
