"""Turns: anybody who may connect can take an advisory lock of ours. Nothing waits for one without an end, and its holder is named."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

import embed_pipeline
from embed_pipeline.catalog import schema
from embed_pipeline.errors import AliasNotUpdated, CutoverRefused, DatabaseUnavailable, EmbedPipelineError, LoadError, Stopped
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import ann_index, backfill, cutover, dual_write, gate, loading, readers, register, retire
from embed_pipeline.migrate.opening import open_index
from embed_pipeline.stores.guarded import documents as points
from tests.harness.articles import change, declared, fill, serve

Open = Callable[..., OpenIndex]
TAKE = "SELECT pg_advisory_lock(hashtextextended(%s, 0))"
# Said, and not left to the end of the session: the server ends it some time after its client has gone.
GIVE_BACK = "SELECT pg_advisory_unlock_all()"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (schema, loading, readers, points):
        monkeypatch.setattr(place, "TURN_SECONDS", 0.2)


@contextmanager
def one_short_try(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Of a registration. For what is to be refused only: a lock of autovacuum's may well be met in 50 ms."""
    with monkeypatch.context() as patched:
        patched.setattr(register, "LOCK_TRIES", 1)
        patched.setattr(register, "LOCK_TIMEOUT_MS", 50)
        yield


def refused(url: str, name: str, work: Callable[[], Any], kind: type[EmbedPipelineError], words: str) -> None:
    """While another session has the turn, the work is refused in these words, with its pid and how to end it."""
    with psycopg.connect(url, autocommit=True) as stranger:
        stranger.execute(TAKE, (f"embed_pipeline.{name}",))
        pid = stranger.info.backend_pid
        with pytest.raises(kind, match=rf"{words}.*pid {pid} .*SELECT pg_terminate_backend\({pid}\)"):
            work()
        stranger.execute(GIVE_BACK)


@pytest.mark.usefixtures("impatient")
def test_whoever_has_a_turn_of_ours_is_named(
    open_docs: Open, database_url: str, holdout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = open_docs("v1")

    def told(name: str, work: Callable[[], Any], kind: type[EmbedPipelineError], words: str) -> None:
        refused(database_url, name, work, kind, words)

    told("backfill.docs.v1.00", lambda: backfill.fill_partition(index, "v1", "00"), Stopped, "is being filled by another run")
    fill(index, "v1")
    gate.run(index, "v1")
    told("ann_index.docs.v1", lambda: ann_index.build(index, "v1"), Stopped, "is being built by another run")
    told(
        "move.docs",
        lambda: cutover.cutover(index, "v1"),
        CutoverRefused,
        "Another cutover, rollback or retire of docs is running",
    )
    told(
        "readers.docs",
        lambda: cutover.cutover(index, "v1"),
        AliasNotUpdated,
        "another process has been updating the alias for 0 s",
    )
    with one_short_try(monkeypatch):
        told("provenance", lambda: open_docs("v1", "v2"), DatabaseUnavailable, "Could not register v2")
    fill(open_docs("v1", "v2"), "v2")
    two = open_docs("v1", "v2")
    with one_short_try(monkeypatch):
        told("provenance", lambda: retire.retire(two, "v2", "v2"), DatabaseUnavailable, "Could not retire v2")
    file = tmp_path / "documents.jsonl"
    file.write_text(json.dumps({"id": "1", "title": "t", "text": "x"}))
    own = loading.open_to_load(declared(database_url, holdout, "v1", name="own", documents=None))
    told("load.public.own", lambda: loading.load(own, file, full=False), LoadError, "Another load into public.own")
    assert loading.load(own, file, full=False).inserted == 1


@pytest.mark.usefixtures("impatient")
def test_the_turn_to_make_the_catalog(bare_database_url: str, holdout: Path) -> None:
    with psycopg.connect(bare_database_url) as conn:
        conn.execute("CREATE TABLE articles (id bigint PRIMARY KEY, title text, body text)")
    index = declared(bare_database_url, holdout, "v1")
    words = "Somebody else has been preparing this database for 0 s"
    refused(bare_database_url, "schema", lambda: open_index(index), DatabaseUnavailable, words)
    open_index(index).close()


@pytest.mark.usefixtures("impatient")
def test_the_turn_to_write_points(open_docs: Open, app: psycopg.Connection, database_url: str, tmp_path: Path) -> None:
    index = open_docs("v1", store={"kind": "qdrant", "path": str(tmp_path / "qdrant")})
    serve(index, "v1")
    change(app, 1, "edited")
    with psycopg.connect(database_url, autocommit=True) as stranger:
        stranger.execute(TAKE, ("embed_pipeline.points.docs",))
        (found,) = dual_write.sync(index)
        assert found.pending == 1
        stranger.execute(GIVE_BACK)
        assert re.search(rf"kept every writer of docs's points out.*pid {stranger.info.backend_pid} ", found.error)
    assert dual_write.sync(index)[0].pending == 0


def test_turns_are_taken_in_one_place() -> None:
    """Where no wait is without an end. A connection that goes back to its index gives up all that it has."""
    package = Path(embed_pipeline.__file__).parent
    found = {
        str(path.relative_to(package))
        for path in package.rglob("*.*")
        if path.suffix in (".py", ".sql") and re.search(r"pg_(try_)?advisory_(xact_)?lock", path.read_text(encoding="utf-8"))
    }
    assert found == {"postgres/turns.sql"}
