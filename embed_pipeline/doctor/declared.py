"""The probe of a declared index: what its catalog says, and a sample of each live version's vectors."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import psycopg
from psycopg import sql

from embed_pipeline.catalog.versions import Version
from embed_pipeline.doctor import mixture, vectors
from embed_pipeline.doctor.findings import Diagnosis, Finding
from embed_pipeline.doctor.from_status import from_status
from embed_pipeline.doctor.sample import Row, Sample
from embed_pipeline.doctor.table import MORE, queries
from embed_pipeline.documents import slices
from embed_pipeline.documents.drawn import drawn
from embed_pipeline.errors import EmbedPipelineError
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate.sample import agreement
from embed_pipeline.report.index_status import IndexStatus
from embed_pipeline.report.look import look
from embed_pipeline.report.status import status_of
from embed_pipeline.spec import IndexSpec
from embed_pipeline.stores.kind import kind_of
from embed_pipeline.stores.protocol import StoredVectors

# Of a store that draws no ids itself so many times the sample are read.
READ = 20
# Documents that the model embeds again: it tells the right model from another one after a few.
ASKED = 32
# Documents whose vectors are read together.
AT_ONCE = 500


def diagnose(spec: IndexSpec, limit: int) -> Diagnosis:
    """Look at a declared index, registered or not. Models of providers are not asked: that would be paid for, and written down."""
    state = status_of(spec)
    found, looked = list(from_status(state)), []
    with look(spec, even_if_unusable=True) as seen:
        if seen.index is not None and seen.unusable is None:
            for version in seen.registered:
                if version.is_live and _has_vectors(state, version):
                    sample, more = _version(seen.conn, seen.index, version, limit)
                    found += more
                    looked.append(f"{version.name} {sample.looked_at.replace('rows', 'vectors')}")
    return Diagnosis.of(f"index {spec.name}", "; ".join(looked) or "nothing is stored yet", found)


def _has_vectors(state: IndexStatus, version: Version) -> bool:
    return any(
        each.name == version.name and each.stored and not (each.gone or each.another or each.unasked) for each in state.versions
    )


def _version(conn: psycopg.Connection, index: OpenIndex, version: Version, limit: int) -> tuple[Sample, list[Finding]]:
    store = index.store(version)
    ids = _ids(conn, index, version, limit)
    rows: list[Row] = []
    stale: list[str] = []
    to_ask: list[tuple[str, StoredVectors, str]] = []
    for start in range(0, len(ids), AT_ONCE):
        portion = ids[start : start + AT_ONCE]
        stored = store.stored_vectors(conn, portion)
        # After the vectors: what was changed in between has another hash now, and is the queue's.
        current = slices.read_current(conn, index.source, list(stored))
        for doc_id, each in stored.items():
            text, source_hash = current.get(doc_id, ("", b""))
            if source_hash != each.source_hash:
                stale.append(doc_id)
                continue
            to_ask.append((doc_id, each, text))
            spans: Sequence[tuple[int, int]] = each.offsets or [(0, len(text))]
            rows += [Row(doc_id, vector, text[start:end]) for vector, (start, end) in zip(each.vectors, spans, strict=False)]
    again = f"embed-pipeline sync {index.name} --full"
    sample = Sample(rows[:limit], max(store.count(conn), min(len(rows), limit)))
    found = [
        *vectors.judge(sample, again),
        *mixture.judge(sample, f"embed-pipeline verify {index.name} {version.name} --sample 1000"),
    ]
    if stale:
        sentence = (
            f"{len(stale):,} of {len(ids):,} documents have another text than their vector, or none; the queue may have them."
        )
        found.append(Finding("note", "stale", sentence, f"embed-pipeline verify {index.name} {version.name}"))
    found += _asked(index, version, to_ask[:ASKED])
    return sample, [Finding(each.severity, each.code, f"{version.name}: {each.sentence}", each.next) for each in found]


def _ids(conn: psycopg.Connection, index: OpenIndex, version: Version, limit: int) -> list[str]:
    store, chance = index.store(version), random.Random(1)
    if not kind_of(index.spec.store).in_tables:
        portions = store.stored_ids(conn)
        return drawn(islice((doc_id for portion in portions for doc_id in portion), READ * limit), limit, chance)
    (table,) = store.tables()
    row = conn.execute(queries("estimate"), {"table": table.as_string(conn)}).fetchone()
    total = 0 if row is None else row[0]
    sampled: sql.Composable = sql.SQL("")
    if total >= 2 * limit:
        sampled = queries("blocks", percent=sql.Literal(min(100.0, 100 * MORE * limit / total)))
    return [doc_id for (doc_id,) in conn.execute(queries("stored_ids", table=table, sampled=sampled), {"limit": limit})]


def _asked(index: OpenIndex, version: Version, documents: Sequence[tuple[str, StoredVectors, str]]) -> Iterator[Finding]:
    """What the declared model says to texts that are stored with their vectors."""
    declared = index.spec.versions.get(version.name)
    if declared is None or not documents:
        return
    if declared.is_remote:
        sentence = "Its model was not asked, since its provider bills for that."
        yield Finding("note", "model_not_asked", sentence, f"embed-pipeline verify {index.name} {version.name} --sample 100")
        return
    whole = [(doc_id, stored, text) for doc_id, stored, text in documents if len(stored.vectors) == 1 and stored.offsets is None]
    if not whole:
        return
    try:
        answer = index.embedder_of(version).embed_documents([text for _, _, text in whole])
    except EmbedPipelineError as problem:
        step = problem.next_step or f"embed-pipeline status {index.name}"
        yield Finding("warning", "model_missing", f"Its model could not be asked: {problem.message}", step)
        return
    with_length = version.distance != "cosine"
    worst = {
        doc_id: agreement(stored.vectors, answer.vectors[n : n + 1], with_length=with_length)
        for n, (doc_id, stored, _) in enumerate(whole)
        if n not in answer.rejected
    }
    off = sorted((cosine, doc_id) for doc_id, cosine in worst.items() if cosine < index.spec.model_check.min_cosine)
    if off:
        sentence = (
            f"{len(off)} of {len(worst)} vectors are not what its model answers now: the farthest is of {off[0][1]}, "
            f"with a cosine of {off[0][0]:.3f}; the median is {np.median(list(worst.values())):.3f}."
        )
        yield Finding("error", "another_model", sentence, f"embed-pipeline verify {index.name} {version.name} --sample 1000")
