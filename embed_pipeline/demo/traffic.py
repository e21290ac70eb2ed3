"""Traffic during the demo: one who writes all along, one who searches all along, one who dual-writes.

Each is a real process with its own connections; where the vectors belong to one process, those who touch them are threads of it. They
stop when the file `stop` appears and leave what they saw in a file.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import psycopg
from psycopg import sql

from embed_pipeline.catalog import versions
from embed_pipeline.demo.stage import Stage
from embed_pipeline.demo.stages import stage_of
from embed_pipeline.embedders.protocol import Vectors
from embed_pipeline.postgres.connection import connect
from embed_pipeline.postgres.queries import Queries
from embed_pipeline.search import Answer, Searcher
from embed_pipeline.spec import IndexSpec

queries = Queries(__file__, "traffic.sql")

WRITES_PER_SECOND = 4
# The writer waits while so many of its changes are not embedded yet: a busy machine makes the demo slower, and changes nothing else.
MOST_WAITING = 20
SEARCHES_PER_SECOND = 20
SEED = 7

# A vector that was made after this long before a search may have replaced the one that the search has met.
LONGEST_WRITE_SECONDS = 10.0


@dataclass(frozen=True)
class Place:
    """Where the processes meet: the database and a folder for the stop file and their notes."""

    url: str
    folder: Path

    @property
    def stopped(self) -> bool:
        return (self.folder / "stop").exists()

    def notes(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl"


class Actor(Protocol):
    """Somebody who takes part in the traffic."""

    name: str

    def join(self, seconds: float) -> None:
        """Wait for its end; RuntimeError when it failed or goes on for longer."""
        ...


class OwnProcess:
    """An actor in a process of its own. It embeds with one thread: it is a neighbour of the migration, not a part of it."""

    def __init__(self, name: str, work: Callable[..., None], *arguments: Any) -> None:
        self.name = name
        self._process = get_context("spawn").Process(target=_as_neighbour, args=(work, *arguments), name=name)
        self._process.start()

    def join(self, seconds: float) -> None:
        self._process.join(timeout=seconds)
        if self._process.exitcode != 0:
            self._process.kill()
            raise RuntimeError(f"the demo's {self.name} ended with {self._process.exitcode}")


class OwnThread:
    """An actor in a thread of this process."""

    def __init__(self, name: str, work: Callable[..., None], *arguments: Any) -> None:
        self.name = name
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._done = self._pool.submit(work, *arguments)

    def join(self, seconds: float) -> None:
        self._pool.shutdown(wait=False)
        try:
            self._done.result(timeout=seconds)
        except Exception as problem:
            raise RuntimeError(f"the demo's {self.name} failed: {type(problem).__name__}: {problem}") from problem


def one_thread_each() -> None:
    """From here on every model that this process opens computes with one thread."""
    os.environ["EMBED_PIPELINE_ONNX_THREADS"] = "1"


def _as_neighbour(work: Callable[..., None], *arguments: Any) -> None:
    one_thread_each()
    work(*arguments)


def start(place: Place, stage: Stage, questions: list[tuple[str, str]], editable: list[str]) -> list[Actor]:
    """Start writer and reader; `questions` are (text, id of the one right document), `editable` the documents that get edited."""
    # The writer is the application: it knows its own table and no vectors.
    writer = OwnProcess("writer", write_all_along, place, stage.spec.name, editable)
    return [writer, _beside(stage)("reader", read_all_along, place, stage.spec, questions)]


def start_dual_write(place: Place, stage: Stage) -> Actor:
    """What `embed-pipeline sync --watch` runs."""
    return _beside(stage)("dual-write", sync_all_along, place, stage.spec)


def _beside(stage: Stage) -> type[OwnThread] | type[OwnProcess]:
    return OwnThread if stage.in_one_process else OwnProcess


def stop(place: Place, actors: list[Actor]) -> None:
    """Tell all to stop and wait for them; one that failed is an error of the demo."""
    (place.folder / "stop").touch()
    for actor in actors:
        actor.join(60)


def write_all_along(place: Place, index: str, editable: list[str]) -> None:
    """Insert, edit and delete documents at a steady rate; deletes what it inserted itself."""
    chosen = random.Random(SEED)
    counts = {"inserted": 0, "edited": 0, "deleted": 0}
    born: list[str] = []
    with connect(place.url, autocommit=True) as conn:
        table = sql.Identifier("public", index)
        while not place.stopped:
            number = sum(counts.values())
            kind = chosen.choice(["inserted", "edited", "edited", "deleted"])
            if kind == "inserted" or (kind == "deleted" and not born):
                kind, doc_id = "inserted", f"note-{number:05d}"
                born.append(doc_id)
                text = f"Release note {number}: changed while the index migrates, {chosen.random():.6f}."
                conn.execute(queries("insert", table=table), {"id": doc_id, "text": text})
            elif kind == "edited":
                values = {"id": chosen.choice(editable), "revision": f" (revision {number})"}
                conn.execute(queries("edit", table=table), values)
            else:
                conn.execute(queries("delete", table=table), {"id": born.pop(chosen.randrange(len(born)))})
            counts[kind] += 1
            time.sleep(1 / WRITES_PER_SECOND)
            while not place.stopped and _waiting(conn, index) > MOST_WAITING:
                time.sleep(1 / WRITES_PER_SECOND)
    place.notes("writer").write_text(json.dumps(counts))


def _waiting(conn: psycopg.Connection, index: str) -> int:
    """Changes that a live version has not got yet."""
    row = conn.execute(queries("waiting"), {"index": index}).fetchone()
    return int(row[0]) if row else 0


def read_all_along(place: Place, spec: IndexSpec, questions: list[tuple[str, str]]) -> None:
    """Search round after round for the same queries, and check each answer's space; one line for each answer."""
    position = 0
    known: dict[tuple[str, str], Vectors] = {}
    stage = stage_of(spec)
    with (
        Searcher(spec.name, place.url) as searcher,
        connect(place.url, autocommit=True) as checking,
        # Line by line: the story counts them to know how far the reader is.
        place.notes("reader").open("w", buffering=1) as notes,
    ):
        while not place.stopped:
            started = time.time()
            text, wanted = questions[position % len(questions)]
            note: dict[str, Any] = {"at": started, "query": position % len(questions)}
            try:
                answer = searcher.search(text, 10)
                note |= {
                    "version": answer.version,
                    "route": answer.route.kind,
                    "found": any(hit.doc_id == wanted for hit in answer.hits),
                    "seconds": round(time.time() - started, 4),
                    "one_space": in_one_space(checking, stage, searcher, text, answer, known, started),
                }
            except Exception as problem:
                # Whatever it is, an application would have seen it: it counts against us, with its words.
                note["error"] = f"{type(problem).__name__}: {problem}"
            notes.write(json.dumps(note) + "\n")
            position += 1
            time.sleep(max(0.0, 1 / SEARCHES_PER_SECOND - (time.time() - started)))


def in_one_space(
    conn: psycopg.Connection,
    stage: Stage,
    searcher: Searcher,
    text: str,
    answer: Answer,
    known: dict[tuple[str, str], Vectors],
    started: float,
) -> bool:
    """Whether every hit was ranked by its distance in the answer's own space.

    Recomputes each distance in Python, from the vector that the store holds now and the version's own query vector (made once, kept in
    `known`). A document that was changed or deleted since the search `started` has another vector, or none: it passes.
    """
    version = versions.get(conn, stage.spec.name, answer.version)
    if not version.is_live or version.fingerprint != answer.fingerprint:
        return False
    key = (text, answer.version)
    if key not in known:
        known[key] = searcher.embed(text, answer.version).values
    stored = stage.stored(conn, version, [hit.doc_id for hit in answer.hits])
    for hit in answer.hits:
        if hit.doc_id not in stored:
            continue
        found = stored[hit.doc_id]
        if found.fingerprint != answer.fingerprint:
            return False
        is_fresh = found.made_at > started - LONGEST_WRITE_SECONDS
        if not is_fresh and abs((1 - float(found.vector @ known[key])) - hit.distance) > 1e-4:
            return False
    return True


def sync_all_along(place: Place, spec: IndexSpec) -> None:
    """Dual-write every live version as changes arrive."""
    from embed_pipeline.migrate.dual_write import VersionSync
    from embed_pipeline.migrate.follow_changes import follow_changes
    from embed_pipeline.migrate.opening import opened

    stopping = threading.Event()
    totals: dict[str, int] = {}

    def report(results: list[VersionSync]) -> None:
        for result in results:
            totals[result.version] = totals.get(result.version, 0) + result.written
        if place.stopped:
            stopping.set()

    def look() -> None:
        while not place.stopped:
            time.sleep(0.1)
        stopping.set()

    threading.Thread(target=look, daemon=True).start()
    with opened(spec) as index:
        follow_changes(index, stopping, report)
    place.notes("dual_write").write_text(json.dumps(totals))


def answers(place: Place) -> list[dict[str, Any]]:
    """What the reader saw, in order."""
    return [json.loads(line) for line in place.notes("reader").read_text().splitlines()]
