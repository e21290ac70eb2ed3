"""Imports existing vectors as a version without embedding them again. Only a small sample is embedded, to check the model.

Vectors beside the documents, in PostgreSQL, are copied (`adopt_vectors.py`). Those of a store elsewhere stay where they are.

Three passes over what the store has. The first reads only: what could not be carried is refused before anything is written. The sample
proves that the declared model made these vectors. The second goes page by page: the documents into their table, then the provenance beside
their vectors. What is marked is not found again, so after a crash the same command goes on. The third looks after what was edited
in between. Then the version is registered, and compared with the documents: what was changed before was handed over without it.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import psycopg

from embed_pipeline.catalog import versions
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents.existing import ExistingDocument, Places, forget_inserted
from embed_pipeline.embedders.protocol import Urgency
from embed_pipeline.errors import AdoptRefused, ConfigurationError, IllegalTransition
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import adopt_vectors, dual_write, register, verify
from embed_pipeline.migrate.adopt_vectors import Adopted as Adopted
from embed_pipeline.migrate.adopt_vectors import Listener
from embed_pipeline.migrate.agreement import AGREES, nearness
from embed_pipeline.postgres.session import Line, only_run
from embed_pipeline.signals import signal
from embed_pipeline.stores.adopting import adoption_of
from embed_pipeline.stores.patience import Stopwatch
from embed_pipeline.stores.protocol import AdoptingStore, VersionStore

SAMPLE = 32
# A document that somebody edits in the store all the time is left for the dual-write.
PASSES_AFTER = 3


@dataclass
class _Found:
    """What the first pass saw."""

    documents: int
    without_vector: int
    without_text: int
    sample: list[ExistingDocument]


class _Both(VersionStore, AdoptingStore, Protocol):
    """A store that can do both; for the type alone."""


def adopt(index: OpenIndex, listener: Listener | None = None) -> Adopted:
    """Make the declared existing vectors a version. Safe to repeat and to kill; `index` is opened without registering versions.

    Raises AdoptRefused when the vectors are of another model or a document has no place in the table, before anything is written.
    """
    name = _declared(index)
    tell = listener or (lambda done, total, words: None)

    def waiting(reason: str) -> None:
        tell(0, 0, f"waiting: {reason}" if reason else "goes on")

    with Line(index, waiting, taken=_alone(index)) as line:
        line.repeat(lambda conn: register.register_index(conn, index))
        version = line.repeat(lambda conn: _version(conn, index, name))
        adoption = adoption_of(index.store(version))
        if adoption is not None:
            return adopt_vectors.begin(line, index, version, adoption, tell)
        store = _adopting(index, version)
        line.repeat(store.prepare)
        text = index.spec.store.text_field()
        assert text is not None
        places = Places.of(index.source, text)
        found = _look(line, store, places, tell)
        cosines = _agreement(index, version, store, found.sample)
        adopted, left = _carry(line, index, version, store, places, found, tell)
        adopted += _carry_edits(line, version, store, places, left)
        # Handed over before there is the version: all that this run has inserted would be pending for it.
        line.repeat(dual_write.distributor(index).distribute)
        queued = line.repeat(lambda conn: _register(conn, index, name))
    return Adopted(
        index=index.name,
        version=name,
        documents=found.documents,
        adopted=adopted,
        without_text=found.without_text,
        differing=len(left),
        without_vector=found.without_vector,
        sampled=len(cosines),
        sample_median=float(np.median(cosines)) if cosines else None,
        sample_lowest=min(cosines) if cosines else None,
        first_differing=tuple(left)[:5],
        queued=queued,
    )


def _declared(index: OpenIndex) -> str:
    adopted = index.spec.store.adopted()
    if not adopted:
        raise ConfigurationError(
            f"The store of index {index.name!r} declares nothing to adopt.",
            next_step="Declare store.adopt in the index's defs.yaml.",
        )
    return next(iter(adopted))


def _alone(index: OpenIndex) -> Any:
    return only_run(
        f"embed_pipeline.adopt.{index.name}",
        f"Index {index.name} is being adopted by another run",
        next_step=f"Run: embed-pipeline status {index.name}",
    )


def _version(conn: psycopg.Connection, index: OpenIndex, name: str) -> Version:
    """As it is registered, or as it will be."""
    known = next((each for each in versions.list_versions(conn, index.name) if each.name == name), None)
    if known is None:
        return register.new_version(index, name)
    if not known.is_live:
        raise IllegalTransition(
            f"Version {name!r} of index {index.name!r} is retired and cannot be adopted.",
            next_step="Take store.adopt out of the index's defs.yaml.",
        )
    return known


def _adopting(index: OpenIndex, version: Version) -> _Both:
    store = index.store(version)
    if not isinstance(store, AdoptingStore):
        raise ConfigurationError(
            f"A store of kind {index.spec.store.kind} cannot adopt what is there.", next_step="Take store.adopt out."
        )
    return cast(_Both, store)


def _pages(line: Line, store: AdoptingStore) -> Iterator[list[ExistingDocument]]:
    after: Any = None
    while True:

        def read(conn: psycopg.Connection, start: Any = after) -> tuple[list[ExistingDocument], Any]:
            return store.existing(start)

        page, after = line.repeat(read)
        if page:
            yield page
        if after is None:
            return


def _look(line: Line, store: _Both, places: Places, tell: Listener) -> _Found:
    """Read everything once and refuse what cannot be carried. The sample is drawn from all documents with the same chance."""
    total, without_vector = store.count_existing()
    found = _Found(0, without_vector, 0, [])
    # The same documents in every run: what is refused once is refused again.
    draw = random.Random(0)
    texts = 0
    for page in _pages(line, store):

        def require(conn: psycopg.Connection, page: list[ExistingDocument] = page) -> None:
            places.require(conn, page)

        line.repeat(require)
        for document in page:
            found.documents += 1
            if not (document.text or "").strip():
                found.without_text += 1
                continue
            texts += 1
            if len(found.sample) < SAMPLE:
                found.sample.append(document)
            elif (place := draw.randrange(texts)) < SAMPLE:
                found.sample[place] = document
        tell(found.documents, total, "looked at")
    if found.documents and not texts and found.documents == line.repeat(store.count):
        raise AdoptRefused(
            f"None of {found.documents} points has a text in its payload field {places.field!r}; nothing was written.",
            next_step="Name the field that holds the text in store.adopt.text.",
        )
    return found


def _agreement(index: OpenIndex, version: Version, store: AdoptingStore, sample: list[ExistingDocument]) -> list[float]:
    """How near each stored vector of the sample is to a new one of the same text. AdoptRefused when it is another model's."""
    if not sample:
        return []
    stored = store.existing_vectors([document.doc_id for document in sample])
    answer = index.embedder_of(version).embed_documents([document.text for document in sample], Urgency.CHECK)
    found = []
    for position, document in enumerate(sample):
        if document.doc_id not in stored or position in answer.rejected:
            continue
        old = np.asarray(stored[document.doc_id], dtype=np.float64)
        if old.ndim != 1:
            raise AdoptRefused(
                f"Point {document.doc_id} has several vectors for one document (a multivector), and version {version.name} declares one.",
                next_step="Adopt a vector that is one for each document.",
            )
        found.append(nearness(old, answer.vectors[position].astype(np.float64), version.distance))
    if found and (median := float(np.median(found))) < AGREES:
        raise AdoptRefused(
            f"These vectors are not of the declared model: {len(found)} texts embedded with {version.model_name} have a median cosine of "
            f"{median:.3f} with the stored vectors, and {AGREES} is the least. Nothing was written.",
            next_step=f"Declare {version.name} with the model, prefixes, pooling and normalization that made them.",
        )
    return found


def _carry(
    line: Line, index: OpenIndex, version: Version, store: _Both, places: Places, found: _Found, tell: Listener
) -> tuple[int, dict[str, bytes | None]]:
    """Insert and mark page by page. Returns how many are marked, and the others with the hash of what was inserted for them now."""
    throttle = index.throttle(version)
    adopted = done = 0
    left: dict[str, bytes | None] = {}
    for page in _pages(line, store):

        def allowed(conn: psycopg.Connection) -> None:
            throttle.wait_until_allowed(conn, line.waiting)

        line.repeat(allowed)
        inserted = line.repeat(lambda conn, page=page: _insert(conn, version, places, page, {}))  # type: ignore[misc]
        signal("adopt.inserted")
        watch = Stopwatch()
        marked = _mark(line, version, store, page, inserted)
        throttle.wrote(watch.seconds)
        signal("adopt.marked")
        adopted += len(marked)
        done += len(page)
        for document in page:
            if document.doc_id not in marked:
                left[document.doc_id] = _hash(document) if document.doc_id in inserted else None
        tell(done, max(done, found.documents), "adopted")
    return adopted, left


def _carry_edits(line: Line, version: Version, store: _Both, places: Places, left: dict[str, bytes | None]) -> int:
    """Documents that this run inserted, and whose text was edited in the store before they were marked: carry the edit.

    A row is replaced only while it is what was inserted. Takes out of `left` what is marked, and returns how many that are.
    """
    adopted = 0
    for _ in range(PASSES_AFTER):
        ours = {doc_id: digest for doc_id, digest in left.items() if digest is not None}
        if not ours:
            break
        for page in _pages(line, store):
            again = [document for document in page if document.doc_id in ours]
            if not again:
                continue

            replaced = {document.doc_id: ours[document.doc_id] for document in again}
            inserted = line.repeat(lambda conn, again=again, replaced=replaced: _insert(conn, version, places, again, replaced))  # type: ignore[misc]
            marked = _mark(line, version, store, again, inserted)
            adopted += len(marked)
            for document in again:
                if document.doc_id in marked:
                    del left[document.doc_id]
                else:
                    left[document.doc_id] = _hash(document) if document.doc_id in inserted else None
    return adopted


def _insert(
    conn: psycopg.Connection, version: Version, places: Places, page: list[ExistingDocument], replaced: Mapping[str, bytes]
) -> dict[str, int]:
    """One transaction. With `replaced` only rows that still are what was inserted before, in the place of these."""
    with conn.transaction():
        if not replaced:
            return places.insert(conn, version.index, version.name, page)
        places.require(conn, page)
        taken_back = places.take_back(conn, replaced)
        page = [document for document in page if document.doc_id in taken_back]
        return places.insert(conn, version.index, version.name, page, again=True)


def _mark(
    line: Line, version: Version, store: AdoptingStore, page: list[ExistingDocument], inserted: Mapping[str, int]
) -> set[str]:
    """Returns what is marked; that is no longer in doubt, and not pending any more."""
    marked = line.repeat(lambda conn: store.mark(conn, [document.doc_id for document in page]))
    done = {doc_id: seq for doc_id, seq in inserted.items() if doc_id in marked}
    line.repeat(lambda conn: forget_inserted(conn, version.index, version.name, done))
    return marked


def _hash(document: ExistingDocument) -> bytes:
    return hashlib.sha256((document.text or "").encode()).digest()


def _register(conn: psycopg.Connection, index: OpenIndex, name: str) -> int:
    """Register the version, and queue what differs from it: changes of before were handed over without it. Returns how many."""
    register.register(conn, index, adopted=True)
    version = versions.get(conn, index.name, name)
    return verify.queue_differences(conn, index, version)
