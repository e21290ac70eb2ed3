"""The physical limit: PostgreSQL's binary COPY of vectors that were packed before, with and without reading their texts.

The table has the key of a version's: (doc_id, chunk). Format: PostgreSQL documentation, COPY, "Binary Format"; a vector is its
dimensions and a zero (int16 each), then its numbers, all big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np
import psycopg

from benchmarks.embedder import vectors
from benchmarks.workers import Start

HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack("!ii", 0, 0)
TRAILER = struct.pack("!h", -1)
# Documents to a page: the most that a write of the package holds.
PAGE = 3_000
BLOCK = 256 * 1024

READ = "SELECT id, body FROM documents WHERE id > %s AND id <= %s ORDER BY id"
CREATE = """
CREATE TABLE IF NOT EXISTS bare (
    doc_id text COLLATE "C" NOT NULL, chunk integer NOT NULL, embedding vector NOT NULL, PRIMARY KEY (doc_id, chunk)
)
"""


def prepare(url: str, folder: Path, dimensions: int) -> Path:
    """Pack the vectors of all documents into one file for each page, once; the folder with them."""
    folder.mkdir(exist_ok=True)
    with psycopg.connect(url, autocommit=True) as conn:
        last = conn.execute("SELECT max(id) FROM documents").fetchone()
        for number, start in enumerate(range(0, last[0] if last else 0, PAGE)):
            rows = conn.execute(READ, (start, start + PAGE), binary=True).fetchall()
            found = vectors([body for _, body in rows], dimensions)
            with (folder / f"{number:06}").open("wb") as file:
                file.writelines(_rows([str(key) for key, _ in rows], found))
    return folder


def _rows(keys: list[str], found: np.ndarray) -> Iterator[bytes]:
    """Tuples of (doc_id, chunk 0, embedding); keys of one length in a row are one rectangle of bytes."""
    numbers = np.ascontiguousarray(found, dtype=">f4").view(np.uint8)
    vector_head = struct.pack("!ihh", numbers.shape[1] + 4, found.shape[1], 0)
    start = 0
    for length, group in groupby(keys, len):
        same = [key.encode() for key in group]
        head = struct.pack("!hi", 3, length)
        middle = struct.pack("!ii", 4, 0) + vector_head
        rectangle = np.empty((len(same), len(head) + length + len(middle) + numbers.shape[1]), dtype=np.uint8)
        at = 0
        for part in (head, np.frombuffer(b"".join(same), np.uint8).reshape(-1, length), middle, numbers[start:][: len(same)]):
            column = np.frombuffer(part, np.uint8) if isinstance(part, bytes) else part
            rectangle[:, at : at + column.shape[-1]] = column
            at += column.shape[-1]
        start += len(same)
        yield rectangle.tobytes()


def copy(start: Start, url: str, folder: Path, part: int, parts: int, reads: bool) -> None:
    """A worker's share of the COPY, in one transaction; with `reads` each page's texts are read first on a second connection."""
    pages = sorted(folder.iterdir())
    mine = range(len(pages) * part // parts, len(pages) * (part + 1) // parts)
    with (
        psycopg.connect(url, autocommit=True) as reader,
        psycopg.connect(url, autocommit=True) as conn,
        start.measured(),
        conn.cursor().copy("COPY bare FROM STDIN (FORMAT BINARY)") as stream,
    ):
        stream.write(HEADER)
        for number in mine:
            if reads:
                reader.execute(READ, (number * PAGE, (number + 1) * PAGE), binary=True).fetchall()
            with pages[number].open("rb") as file:
                while block := file.read(BLOCK):
                    stream.write(block)
        stream.write(TRAILER)
