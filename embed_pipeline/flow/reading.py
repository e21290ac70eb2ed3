"""Reads the documents that a partition still lacks, slice by slice, in key order, over several connections."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg

from embed_pipeline.catalog.partitions import Partition
from embed_pipeline.documents.ranges import KeyRange
from embed_pipeline.documents.slices import KeySlices, SliceSize
from embed_pipeline.documents.texts import DocumentText
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.postgres.session import Line
from embed_pipeline.signals import signal
from embed_pipeline.stores.protocol import VersionStore

# Texts of one read: what is held before anything is asked for.
MOST = 2_000


def read_missing(reading: Line, index: OpenIndex, store: VersionStore, partition: Partition) -> Iterator[list[DocumentText]]:
    """The documents that the partition lacks, slice by slice in key order; after a lost connection it resumes at the same slice."""
    slices = KeySlices(index.source, SliceSize(most=MOST))
    left: KeyRange | None = partition.range
    while left is not None and not left.is_empty:

        def read(conn: psycopg.Connection, left: KeyRange = left) -> tuple[KeyRange | None, list[DocumentText]]:
            part, rest = slices.first(conn, left)
            with slices.size.timed():
                return rest, store.missing(conn, part, begun=partition.begun)

        left, documents = reading.repeat(read)
        signal("backfill.read")
        if documents:
            yield documents
