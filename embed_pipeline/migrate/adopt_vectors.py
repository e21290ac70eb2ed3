"""Adoption of vectors that lie beside the documents: looked at and registered by `begin`, copied partition by partition by a backfill.

The version is registered before the first vector is copied: from then on every change of a document is announced to it, and what is
announced is embedded and never copied (`stores/pgvector/adopting.sql`). What could not be copied is queued when its partition is done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import psycopg

from embed_pipeline.catalog import partitions, versions
from embed_pipeline.catalog.partitions import Partition
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import shape, slices
from embed_pipeline.documents.ranges import KeyRange
from embed_pipeline.documents.slices import KeySlices, SliceSize
from embed_pipeline.errors import AdoptRefused, FencedOff
from embed_pipeline.flow.writing import Listener as CopyListener
from embed_pipeline.flow.writing import Progress
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import agreement, dual_write, register
from embed_pipeline.migrate.agreement import Agreement
from embed_pipeline.postgres.session import Line
from embed_pipeline.signals import signal
from embed_pipeline.stores.adopting import Adoption, OldVector
from embed_pipeline.stores.patience import Stopwatch
from embed_pipeline.stores.protocol import Filled

Listener = Callable[[int, int, str], None]
"""Told (done, total, what is done or waited for)."""


@dataclass(frozen=True)
class Adopted:
    """What one run did. `documents` were found, `adopted` of them have the version's vectors now.

    `differing` have another text in the documents table, or were edited or deleted meanwhile: their vectors will be replaced.
    `without_vector` are entries without a vector of the version. `agreement`: None when nothing was compared.
    `sample_median` and `sample_lowest` are cosines of stored vectors with newly embedded ones; None when nothing was compared.
    `to_copy` have a vector that the version's backfill copies.
    """

    index: str
    version: str
    documents: int
    adopted: int
    without_text: int
    differing: int
    without_vector: int
    sampled: int
    sample_median: float | None
    sample_lowest: float | None
    first_differing: tuple[str, ...] = ()
    queued: int = 0
    to_copy: int = 0
    agreement: str = ""

    @property
    def sentence(self) -> str:
        """What a person reads about it."""
        if self.to_copy:
            found = f"{self.to_copy} of {self.documents} documents of {self.index} have a vector that a backfill of {self.version} copies"
            return f"{found}. {self.agreement}".rstrip()
        return f"{self.adopted} of {self.documents} documents found are adopted as {self.version} of {self.index}."


def begin(line: Line, index: OpenIndex, version: Version, adoption: Adoption, tell: Listener) -> Adopted:
    """Look at the vectors, compare a sample, and register the version. AdoptRefused, with nothing written, where they are not the model's.

    A version that is registered already is not looked at again: its backfill goes on.
    """
    place = line.repeat(adoption.find)
    looked = line.repeat(lambda conn: adoption.look(conn, agreement.SAMPLE))
    tell(looked.documents, looked.documents, "looked at")
    found: Agreement | None = None
    known = line.repeat(lambda conn: register.versions_named(conn, index.name, version.name))
    if not known:
        if not version.declared.is_retired:
            found = _compared(line, index, version, adoption, place, list(looked.chosen))
        line.repeat(lambda conn: _register(conn, index, version.name, place, found))
    return Adopted(
        index=index.name,
        version=version.name,
        documents=looked.documents,
        adopted=0,
        without_text=0,
        differing=0 if found is None else found.sampled - found.agreeing,
        without_vector=looked.documents - looked.usable,
        sampled=0 if found is None else found.sampled,
        sample_median=None if found is None else found.median,
        sample_lowest=None if found is None else found.lowest,
        first_differing=() if found is None else found.differing,
        to_copy=looked.usable,
        agreement=(f"Nothing was compared: the model {version.model_name} is retired" if version.declared.is_retired else "")
        if found is None
        else found.sentence,
    )


def _compared(line: Line, index: OpenIndex, version: Version, adoption: Adoption, place: str, chosen: list[str]) -> Agreement:
    sample = line.repeat(lambda conn: adoption.vectors(conn, chosen))[: agreement.SAMPLE]
    found = agreement.measure(index, version, sample) if sample else None
    if found is None:
        raise AdoptRefused(
            f"No document of {index.name} has a vector of {version.dimensions} dimensions in {place} that is of its text; nothing was written.",
            next_step="Correct store.adopt in the index's defs.yaml, or take it out: then all documents are embedded.",
        )
    least = adoption.min_agreement
    if found.share < least:
        named = f" (first: {', '.join(found.differing)})" if found.differing else ""
        raise AdoptRefused(
            f"The vectors of {place} are not what {version.model_name} makes of the texts: {found.sentence}, and store.adopt.min_agreement is "
            f"{least:.0%}; median cosine {found.median:.3f}, lowest {found.lowest:.3f}{named}. Nothing was written.",
            next_step=f"Declare {version.name} with the model, prefixes and pooling that made them. If they are of several models or texts: take "
            "store.adopt out, and all are embedded; to find which vectors are good costs as much.",
        )
    return found


def _register(conn: psycopg.Connection, index: OpenIndex, name: str, place: str, found: Agreement | None) -> None:
    register.register(conn, index, adopted=True)
    with conn.transaction():
        detail = {"from": place, "agreement": None if found is None else found.measures}
        reason = f"vectors of {place}" + ("" if found is None else f": {found.sentence}")
        versions.record_event(conn, index.name, "adopt", version=name, reason=reason, detail=detail)
    dual_write.distributor(index).distribute(conn)


def copy(
    reading: Line,
    index: OpenIndex,
    version: Version,
    adoption: Adoption,
    partition: Partition,
    progress: Progress,
    listener: CopyListener | None,
) -> Filled | None:
    """Copy what can be of a partition, slice by slice; None where another run has filled it meanwhile."""
    fence = reading.repeat(lambda conn: partitions.open_to_fill(conn, index.name, version.name, partition.range.partition))
    if fence is None:
        return None
    signal("backfill.opened")
    # Under a fence: who makes the version again after this opens the partition for somebody else.
    if reading.repeat(adoption.is_over):
        raise FencedOff(
            f"{version.index}.{version.name} was made again meanwhile, and is embedded: its old vectors are not copied a second time.",
            next_step=f"Run: embed-pipeline backfill {version.index} {version.name}",
        )
    reading.repeat(adoption.refuse_doubted)
    # Before the first document is read: what is not younger than this is what this run reads.
    horizon = reading.repeat(lambda conn: shape.horizon(conn, index.source, index.name))
    throttle, size = index.throttle(version), SliceSize()
    cut = KeySlices(index.source, size)
    left: KeyRange | None = partition.range
    while left is not None and not left.is_empty:
        reading.repeat(lambda conn: throttle.wait_until_allowed(conn, reading.waiting))
        part, left = reading.repeat(lambda conn, bounds=left: cut.first(conn, bounds))  # type: ignore[misc]
        watch = Stopwatch()
        with size.timed():
            progress.written += reading.repeat(lambda conn, part=part: adoption.copy(conn, part, fence))  # type: ignore[misc]
        throttle.wrote(watch.seconds)
        signal("adopt.slice")
        if listener is not None:
            listener(progress)
    # Of this run and of those that were killed. After the last statement that copied: what it saw was changed before, and so was what may have
    # hidden a change from it.
    reading.repeat(adoption.refuse_doubted)
    return Filled(fence, horizon)


def of_stored(conn: psycopg.Connection, index: OpenIndex, version: Version, doc_ids: list[str]) -> Agreement | None:
    """The agreement of what the version has of these documents, which is what would serve."""
    texts = slices.read_current(conn, index.source, doc_ids)
    sample: list[OldVector] = []
    for doc_id, found in index.store(version).stored_vectors(conn, doc_ids).items():
        text, digest = texts.get(doc_id, ("", b""))
        if digest != found.source_hash:
            continue
        offsets = found.offsets or ((0, len(text)),) * len(found.vectors)
        sample += [
            OldVector(doc_id, text[start:end], vector) for (start, end), vector in zip(offsets, found.vectors, strict=True)
        ]
    return agreement.measure(index, version, sample[: agreement.SAMPLE]) if sample else None
