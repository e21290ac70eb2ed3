"""Jobs at the providers' batch interfaces, recorded before they are submitted and until their answers are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg

from embed_pipeline.postgres.queries import Queries
from embed_pipeline.postgres.storable import storable

queries = Queries(__file__, "batch_jobs.sql")


@dataclass(frozen=True)
class BatchJob:
    """One job. `job_id` None: nobody knows whether it was submitted. `tokens`: as expected when it was."""

    token: str
    doc_ids: list[str]
    is_last: bool
    tokens: int
    job_id: str | None
    is_collected: bool


def intend(
    conn: psycopg.Connection,
    index: str,
    version: str,
    partition: str,
    token: str,
    doc_ids: Sequence[str],
    *,
    is_last: bool,
    tokens: int,
) -> None:
    """Record that a job is about to be submitted. Doing it twice is allowed."""
    values = {"index": index, "version": version, "partition": partition, "token": token}
    conn.execute(queries("intend"), values | {"doc_ids": list(doc_ids), "is_last": is_last, "tokens": tokens})


def submitted(conn: psycopg.Connection, token: str, job_id: str) -> None:
    """Record the provider's id of the job."""
    conn.execute(queries("submitted"), {"token": token, "job_id": job_id})


def collected(conn: psycopg.Connection, token: str, ended: str) -> bool:
    """Record that everything the job brought is written; False when somebody else has."""
    return conn.execute(queries("collected"), {"token": token, "ended": storable(conn, ended)}).rowcount == 1


def of_partition(conn: psycopg.Connection, index: str, version: str, partition: str) -> list[BatchJob]:
    """All jobs there ever were for a partition, the oldest first."""
    values = {"index": index, "version": version, "partition": partition}
    return [BatchJob(*row) for row in conn.execute(queries("of_partition"), values)]
