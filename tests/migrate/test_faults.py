"""Real processes, killed with SIGKILL while writers run; at the end an oracle compares every vector with its document."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import psycopg

from embed_pipeline.catalog import serving
from embed_pipeline.errors import EmbedPipelineError
from embed_pipeline.evaluate import gate
from embed_pipeline.migrate import ann_index, backfill, cutover, dual_write
from embed_pipeline.migrate.open_index import OpenIndex
from tests.articles import serve, text_hash
from tests.migrate import workers

Open = Callable[..., OpenIndex]
SEED = 20
SECONDS = 6.0


def oracle(app: psycopg.Connection, version: str) -> list[str]:
    """What is wrong with a version, by the documents and the vectors alone: recomputed here, with none of the package's SQL."""
    documents = {
        str(key): text_hash("\n\n".join(part for part in (title, body) if part))
        for key, title, body in app.execute("SELECT id, title, body FROM articles")
    }
    rows = app.execute(
        f"SELECT v.doc_id, v.chunk, encode(d.source_hash, 'hex'), d.fingerprint FROM embed_pipeline.docs__{version}__vectors v "
        f"FULL JOIN embed_pipeline.docs__{version}__documents d ON d.doc_id = v.doc_id"  # type: ignore[arg-type]
    ).fetchall()
    problems = [f"{row} is half a document" for row in rows if None in row]
    found: dict[str, str] = {}
    for doc_id, chunk, digest, _ in rows:
        if doc_id in found or chunk != 0:
            problems.append(f"{doc_id} has more than its one vector")
        found[doc_id] = digest
    problems += [f"{doc_id} is missing" for doc_id in documents.keys() - found.keys()]
    problems += [f"{doc_id} is an orphan" for doc_id in found.keys() - documents.keys()]
    problems += [f"{doc_id} is stale" for doc_id in documents.keys() & found.keys() if documents[doc_id] != found[doc_id]]
    return problems


def test_workers_killed_while_the_application_writes(
    app: psycopg.Connection, open_docs: Open, database_url: str, tmp_path: Path
) -> None:
    """Two writers, two dual-write workers and a backfill; workers die by SIGKILL at random instants and are started again."""
    serve(open_docs("v1"), "v1")
    index = open_docs("v1", "v2")
    declaration, stop = index.spec.model_dump_json(), tmp_path / "stop"
    chosen = random.Random(SEED)
    context = get_context("spawn")
    writers = [context.Process(target=workers.write, args=(database_url, seed, stop)) for seed in (1, 2)]

    def start(kind: int) -> object:
        target, arguments = (workers.fill, (declaration, "v2")) if kind == 2 else (workers.sync, (declaration,))
        process = context.Process(target=target, args=arguments)
        process.start()
        return process

    for writer in writers:
        writer.start()
    killable = [start(kind) for kind in range(3)]
    deadline = time.monotonic() + SECONDS
    killed = 0
    while time.monotonic() < deadline:
        time.sleep(chosen.uniform(0.1, 1.2))
        kind = chosen.randrange(3)
        killable[kind].kill()  # type: ignore[attr-defined]
        killable[kind].join()  # type: ignore[attr-defined]
        killable[kind] = start(kind)
        killed += 1
    stop.touch()
    for writer in writers:
        writer.join(timeout=30)
        assert writer.exitcode == 0, "an application's transaction failed because of us"
    for process in killable:
        process.kill()  # type: ignore[attr-defined]
        process.join()  # type: ignore[attr-defined]
    assert killed >= 4
    # What the dead had leased comes back when their leases run out; nobody waits a minute for that here.
    app.execute("UPDATE embed_pipeline.change_queue SET leased_until = NULL")
    for key in backfill.unfilled(app, index, "v2"):
        backfill.fill_partition(index, "v2", key)
    ann_index.build(index, "v2")
    for result in dual_write.sync(index):
        assert (result.error, result.pending) == ("", 0)
    assert oracle(app, "v1") == []
    assert oracle(app, "v2") == []


def test_the_oracle_sees_what_it_should(app: psycopg.Connection, open_docs: Open) -> None:
    """An oracle that finds nothing proves nothing: break the vectors by hand, one way after another."""
    serve(open_docs("v1"), "v1")
    assert oracle(app, "v1") == []
    app.execute("UPDATE embed_pipeline.docs__v1__documents SET source_hash = sha256('x') WHERE doc_id = '1'")
    app.execute("DELETE FROM embed_pipeline.docs__v1__vectors WHERE doc_id = '2'")
    app.execute(
        "INSERT INTO embed_pipeline.docs__v1__vectors SELECT doc_id, 1, embedding FROM embed_pipeline.docs__v1__vectors WHERE doc_id = '3'"
    )
    app.execute("ALTER TABLE articles DISABLE TRIGGER USER")
    app.execute("DELETE FROM articles WHERE id = 4")
    problems = " ".join(oracle(app, "v1"))
    for expected in ("1 is stale", "half a document", "3 has more than its one vector", "4 is an orphan"):
        assert expected in problems


def test_cutovers_and_rollbacks_under_writes(app: psycopg.Connection, open_docs: Open, database_url: str, tmp_path: Path) -> None:
    """The pointer goes forth and back while the application writes: each move is whole, and both sides stay current."""
    serve(open_docs("v1"), "v1")
    index = open_docs("v1", "v2", gate={"min_queries": 2, "margin": 0.3, "max_row_change": 1.0})
    for key in index.spec.partition_keys():
        backfill.fill_partition(index, "v2", key)
    ann_index.build(index, "v2")
    gate.run(index, "v2")
    declaration, stop = index.spec.model_dump_json(), tmp_path / "stop"
    context = get_context("spawn")
    processes = [context.Process(target=workers.write, args=(database_url, 3, stop)) for _ in range(1)]
    syncing = context.Process(target=workers.sync, args=(declaration,))
    for process in (*processes, syncing):
        process.start()
    moves = 0
    for _ in range(3):
        for move in (lambda: cutover.cutover(index, "v2"), lambda: cutover.rollback(index)):
            before = serving.read(app, "docs").generation
            try:
                move()
                moves += 1
                assert serving.read(app, "docs").generation == before + 1
            except EmbedPipelineError:
                assert serving.read(app, "docs").generation == before
                raise
    stop.touch()
    for process in processes:
        process.join(timeout=30)
        assert process.exitcode == 0
    syncing.kill()
    syncing.join()
    app.execute("UPDATE embed_pipeline.change_queue SET leased_until = NULL")
    dual_write.sync(index)
    assert moves == 6
    assert oracle(app, "v1") == []
    assert oracle(app, "v2") == []
