"""A partition's history through the provider's batch interface: submitted, waited for, written with the same guards.

What a job does not bring (texts that were refused, documents that changed meanwhile, a job that failed or ran out of time) is left to the
online way, which comes after. Jobs stand in the catalog before they are submitted: whoever comes next finds them and pays for none twice.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator, Sequence

import psycopg

from embed_pipeline.catalog import batch_jobs
from embed_pipeline.catalog.batch_jobs import BatchJob
from embed_pipeline.catalog.partitions import Partition
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import slices
from embed_pipeline.documents.ranges import KeyRange
from embed_pipeline.documents.texts import DocumentText
from embed_pipeline.embedders.batch import Answers, PatientBatch, named
from embed_pipeline.embedders.checked import VersionEmbedder
from embed_pipeline.embedders.metering import BatchTicket
from embed_pipeline.embedders.protocol import Urgency
from embed_pipeline.embedders.registry import open_batch_service
from embed_pipeline.flow.embed import Gathered, embed_documents
from embed_pipeline.flow.reading import read_missing
from embed_pipeline.flow.writing import Writing
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import model_check
from embed_pipeline.postgres.session import Line
from embed_pipeline.signals import signal

log = logging.getLogger(__name__)

# One job's answers are held in memory: ten thousand vectors of 1,536 numbers are 60 MB.
MOST_TEXTS = 10_000
MOST_BYTES = 100 * 2**20
# Documents read at once, and written at once at most.
PAGE = 500
# A job takes minutes to a day.
POLL_SECONDS = 20.0


def is_wanted(index: OpenIndex, name: str) -> bool:
    """Whether a version is to be filled in jobs: declared so, and its model is a provider's. What runs here has no batch interface."""
    spec = index.spec.versions.get(name)
    return index.spec.backfill.mode == "batch" and spec is not None and spec.is_remote


def run(reading: Line, index: OpenIndex, version: Version, partition: Partition, writing: Writing) -> None:
    """Submit what the partition misses, if that is declared, and write what its jobs bring. Returns when no job is left.

    Jobs that were submitted before are waited for in either mode: they are paid for.
    """
    if is_wanted(index, version.name):
        submit(reading, index, version, partition)
    open_jobs = [job for job in _jobs(reading, version, partition) if not job.is_collected]
    if not open_jobs:
        return
    batch = _open(index, version)
    try:
        for job in open_jobs:
            _settle(reading, index, version, batch, job, writing)
    finally:
        batch.close()


def submit(line: Line, index: OpenIndex, version: Version, partition: Partition) -> None:
    """Submit what the partition misses and no job is about, once: what is missing after that goes the online way.

    The caller holds the partition.
    """
    jobs = _jobs(line, version, partition)
    if any(job.is_last for job in jobs):
        return
    embedder = index.embedder_of(version)
    line.repeat(lambda conn: model_check.prepare(conn, index, version))
    batch = _open(index, version)
    try:
        taken = {doc_id for job in jobs for doc_id in job.doc_ids}
        for doc_ids, texts, is_last in _jobs_to_be(line, index, version, partition, embedder, taken):
            line.repeat(lambda conn: index.throttle(version).wait_until_allowed(conn, line.waiting))
            _submit(line, version, partition.range, embedder, batch, doc_ids, texts, is_last)
    finally:
        batch.close()


def _submit(
    line: Line,
    version: Version,
    within: KeyRange,
    embedder: VersionEmbedder,
    batch: PatientBatch,
    doc_ids: Sequence[str],
    texts: dict[str, str],
    is_last: bool,
) -> None:
    token = uuid.uuid4().hex
    tokens = sum(embedder.count(list(texts.values())))
    if embedder.meter is not None:
        # Counted from here on, whatever becomes of this process: what the job really took is said when it is collected.
        embedder.meter.admit_batch(tokens)

    def intend(conn: psycopg.Connection) -> None:
        batch_jobs.intend(conn, version.index, version.name, within.partition, token, doc_ids, is_last=is_last, tokens=tokens)

    line.repeat(intend)
    signal("batch.intended")
    job_id = batch.submit(texts, token)
    signal("batch.submitted")
    line.repeat(lambda conn: batch_jobs.submitted(conn, token, job_id))


def _jobs_to_be(
    line: Line, index: OpenIndex, version: Version, partition: Partition, embedder: VersionEmbedder, taken: set[str]
) -> Iterator[tuple[list[str], dict[str, str], bool]]:
    """Documents and their texts by name, each job as large as it may be; whether nothing is left after it."""
    doc_ids: list[str] = []
    texts: dict[str, str] = {}
    held = 0
    for doc_id, text in _missing(line, index, version, partition):
        if doc_id in taken:
            continue
        parts = _sent(embedder, text)
        size = sum(len(part.encode("utf-8", "surrogatepass")) for part in parts)
        if texts and (len(texts) + len(parts) > MOST_TEXTS or held + size > MOST_BYTES):
            yield doc_ids, texts, False
            doc_ids, texts, held = [], {}, 0
        doc_ids.append(doc_id)
        texts |= {named(part): part for part in parts if _may_be_sent(part)}
        held += size
    if texts:
        yield doc_ids, texts, True


def _missing(line: Line, index: OpenIndex, version: Version, partition: Partition) -> Iterator[tuple[str, str]]:
    for documents in read_missing(line, index, index.store(version), partition):
        for doc_id, text, _ in documents:
            yield doc_id, text


def _sent(embedder: VersionEmbedder, text: str) -> list[str]:
    """A document's texts as the provider gets them; none for a blank one, which the online way sets aside."""
    if not text.strip():
        return []
    prefix = embedder.spec.document_prefix
    return [prefix + text[start:end] for start, end in embedder.passages(text)]


def _may_be_sent(text: str) -> bool:
    """Whether JSON can carry it; what it cannot is set aside by the online way."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _settle(line: Line, index: OpenIndex, version: Version, batch: PatientBatch, job: BatchJob, writing: Writing) -> None:
    """Wait for one job, write what it brought, and say that it is done with."""
    embedder = index.embedder_of(version)
    job_id = job.job_id
    if job_id is None:
        job_id = _found_again(line, index, version, batch, job)
    if job_id is None:
        line.repeat(lambda conn: batch_jobs.collected(conn, job.token, "was not submitted"))
        if embedder.meter is not None:
            embedder.meter.failed(BatchTicket(Urgency.BACKFILL, job.tokens))
        return
    ended = _wait(line, index, version, batch, job_id, writing)
    # A job takes up to a day. What it brings is left with the provider while the model is known to have changed meanwhile.
    line.repeat(lambda conn: model_check.require_same_model(conn, index, version))
    answers = Answers(batch.collect(job_id), version.dimensions)
    signal("batch.collected")
    for answered in _answered(line, index, embedder, job, answers):
        writing.write(answered)
    signal("batch.written")
    first = line.repeat(lambda conn: batch_jobs.collected(conn, job.token, ended))
    if first and embedder.meter is not None:
        embedder.meter.answered(BatchTicket(Urgency.BACKFILL, job.tokens), answers.tokens)
    if answers.refused or not ended.startswith("completed"):
        words = next(iter(answers.refused.values()), "")
        log.warning(
            "Batch job %s of %s.%s ended %s; %d texts have no vector%s. What is missing is embedded online.",
            job_id,
            version.index,
            version.name,
            ended,
            len(answers.refused),
            f" (first: {words})" if words else "",
        )


def _found_again(line: Line, index: OpenIndex, version: Version, batch: PatientBatch, job: BatchJob) -> str | None:
    """The job of a process that died while it submitted: found by its token, or submitted now with the texts of today.

    None: there is no such job, and batch mode is not declared any more.
    """
    if is_wanted(index, version.name):
        texts = _texts_of_today(line, index, version, job)
        job_id: str | None = batch.submit(texts, job.token, may_be_there=True)
    else:
        job_id = batch.find(job.token)
    if job_id is not None:
        line.repeat(lambda conn: batch_jobs.submitted(conn, job.token, job_id))
    return job_id


def _texts_of_today(line: Line, index: OpenIndex, version: Version, job: BatchJob) -> dict[str, str]:
    embedder = index.embedder_of(version)
    texts: dict[str, str] = {}
    for current in _current(line, index, job):
        for text, _ in current.values():
            texts |= {named(part): part for part in _sent(embedder, text) if _may_be_sent(part)}
    return texts


def _current(line: Line, index: OpenIndex, job: BatchJob) -> Iterator[dict[str, tuple[str, bytes]]]:
    """The job's documents as they stand now, a page at a time."""
    for start in range(0, len(job.doc_ids), PAGE):
        ids = job.doc_ids[start : start + PAGE]
        yield line.repeat(lambda conn, ids=ids: slices.read_current(conn, index.source, ids))  # type: ignore[misc]


def _wait(line: Line, index: OpenIndex, version: Version, batch: PatientBatch, job_id: str, writing: Writing) -> str:
    """Until the job is over, and writing is allowed; the provider's words of how it ended."""
    throttle = index.throttle(version)
    while True:
        state = batch.poll(job_id)
        # A person may say stop meanwhile: the job stays recorded, and the next run waits for it.
        line.repeat(lambda conn: throttle.wait_until_allowed(conn, line.waiting))
        if state.is_over:
            writing.progress.waiting = ""
            return state.words
        if line.waiting is not None:
            line.waiting(f"the provider works on batch job {job_id}: {state.words}")
        signal("batch.waiting")
        time.sleep(POLL_SECONDS)


def _answered(line: Line, index: OpenIndex, embedder: VersionEmbedder, job: BatchJob, answers: Answers) -> Iterator[Gathered]:
    """The job's documents of which every text is answered, as they stand now: a text that changed has another name."""
    known = VersionEmbedder(answers, embedder.spec, name=embedder.name)
    for current in _current(line, index, job):
        documents = []
        for doc_id, (text, digest) in current.items():
            parts = _sent(embedder, text)
            if parts and all(answers.knows(part) for part in parts):
                documents.append(DocumentText(doc_id, text, digest))
        if documents:
            yield embed_documents(known, documents).whole()


def _open(index: OpenIndex, version: Version) -> PatientBatch:
    spec = index.embedder_of(version).spec
    account = index.spec.account(spec)
    return PatientBatch(open_batch_service(spec, account), spec, account)


def _jobs(line: Line, version: Version, partition: Partition) -> list[BatchJob]:
    key = partition.range.partition
    return line.repeat(lambda conn: batch_jobs.of_partition(conn, version.index, version.name, key))
