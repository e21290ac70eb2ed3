"""Traffic during the demo: a process that writes all along, one that searches all along, one that dual-writes.

Each is a real process with its own connections. They stop when the file `stop` appears and leave what they saw in a file.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
from psycopg import sql

from embed_pipeline.embedders.protocol import Vectors
from embed_pipeline.postgres.connection import connect
from embed_pipeline.postgres.queries import Queries
from embed_pipeline.search import Answer, Searcher
from embed_pipeline.spec import IndexSpec

queries = Queries(__file__, "traffic.sql")

WRITES_PER_SECOND = 10
SEARCHES_PER_SECOND = 25
SEED = 7


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


def start(place: Place, spec: IndexSpec, questions: list[tuple[str, str]], editable: list[str]) -> list[BaseProcess]:
    """Start writer and reader; `questions` are (text, id of the one right document), `editable` the documents that get edited."""
    context = get_context("spawn")
    processes = [
        context.Process(target=write_all_along, args=(place, spec.name, editable), name="writer"),
        context.Process(target=read_all_along, args=(place, spec.name, questions), name="reader"),
    ]
    for process in processes:
        process.start()
    return list(processes)


def start_dual_write(place: Place, spec: IndexSpec) -> BaseProcess:
    """What `embed-pipeline sync --watch` runs, in a process of its own."""
    process = get_context("spawn").Process(target=sync_all_along, args=(place, spec), name="dual-write")
    process.start()
    return process


def stop(place: Place, processes: list[BaseProcess]) -> None:
    """Tell all to stop and wait for them; a process that failed is an error of the demo."""
    (place.folder / "stop").touch()
    for process in processes:
        process.join(timeout=60)
        if process.exitcode != 0:
            process.kill()
            raise RuntimeError(f"the demo's {process.name} ended with {process.exitcode}")


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
    place.notes("writer").write_text(json.dumps(counts))


def read_all_along(place: Place, index: str, questions: list[tuple[str, str]]) -> None:
    """Search round after round for the same queries, and check each answer's space; one line for each answer."""
    os.environ["EMBED_PIPELINE_ONNX_THREADS"] = "1"
    position = 0
    known: dict[tuple[str, str], Vectors] = {}
    with (
        Searcher(index, place.url) as searcher,
        connect(place.url, autocommit=True) as checking,
        place.notes("reader").open("w") as notes,
    ):
        while not place.stopped:
            started = time.monotonic()
            text, wanted = questions[position % len(questions)]
            note: dict[str, Any] = {"at": time.time(), "query": position % len(questions)}
            try:
                answer = searcher.search(text, 10)
                note |= {
                    "version": answer.version,
                    "found": any(hit.doc_id == wanted for hit in answer.hits),
                    "one_space": in_one_space(checking, index, searcher, text, answer, known),
                }
            except Exception as problem:
                # Whatever it is, an application would have seen it: it counts against us, with its words.
                note["error"] = f"{type(problem).__name__}: {problem}"
            notes.write(json.dumps(note) + "\n")
            position += 1
            time.sleep(max(0.0, 1 / SEARCHES_PER_SECOND - (time.monotonic() - started)))


def in_one_space(
    conn: Any, index: str, searcher: Searcher, text: str, answer: Answer, known: dict[tuple[str, str], Vectors]
) -> bool:
    """Whether every hit was ranked by its distance in the answer's own space.

    Recomputes each distance in Python, from the vector that the version's table holds now and the version's own query vector (made
    once, kept in `known`). A document that was changed or deleted since has another vector, or none: it passes.
    """
    key = (text, answer.version)
    if key not in known:
        known[key] = searcher.embed(text, answer.version).values
    query = known[key]
    labels = conn.execute(queries("fingerprint"), {"index": index, "version": answer.version}).fetchone()
    if labels is None or labels[0] != answer.fingerprint:
        return False
    tables = {
        "vectors": sql.Identifier("embed_pipeline", f"{index}__{answer.version}__vectors"),
        "documents": sql.Identifier("embed_pipeline", f"{index}__{answer.version}__documents"),
    }
    rows = conn.execute(queries("stored", **tables), {"doc_ids": [hit.doc_id for hit in answer.hits]}).fetchall()
    stored = {doc_id: (np.asarray(vector.to_numpy()), label, fresh) for doc_id, vector, label, fresh in rows}
    for hit in answer.hits:
        if hit.doc_id not in stored:
            continue
        vector, label, fresh = stored[hit.doc_id]
        if label != answer.fingerprint:
            return False
        if not fresh and abs((1 - float(vector @ query)) - hit.distance) > 1e-4:
            return False
    return True


def sync_all_along(place: Place, spec: IndexSpec) -> None:
    """Dual-write every live version as changes arrive."""
    from embed_pipeline.migrate import dual_write
    from embed_pipeline.migrate.open_index import opened

    os.environ["EMBED_PIPELINE_ONNX_THREADS"] = "1"
    stopping = threading.Event()
    totals: dict[str, int] = {}

    def report(results: list[dual_write.VersionSync]) -> None:
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
        dual_write.watch(index, stopping, report)
    place.notes("dual_write").write_text(json.dumps(totals))


def answers(place: Place) -> list[dict[str, Any]]:
    """What the reader saw, in order."""
    return [json.loads(line) for line in place.notes("reader").read_text().splitlines()]
