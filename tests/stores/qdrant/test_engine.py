"""What becomes of a failing Qdrant: which failures are waited for, which are told, and that no key is ever in a message."""

from __future__ import annotations

import gc
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from qdrant_client import models

from embed_pipeline.errors import (
    AnotherLedger,
    ConfigurationError,
    EmbedPipelineError,
    StoreRefused,
    StoreUnavailable,
    VersionRetired,
)
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import backfill, dual_write
from embed_pipeline.spec import QdrantSpec
from embed_pipeline.stores.qdrant import engine as engine_module
from embed_pipeline.stores.qdrant import engines
from embed_pipeline.stores.qdrant.engine import CollectionGone, Engine
from tests.harness.articles import DOCUMENTS, counted, fill, require_consistent, settle
from tests.harness.fakes import asked_texts
from tests.harness.forked import forked, said
from tests.harness.qdrant.loopback import Loopback
from tests.stores.holding import store_of

Open = Callable[..., OpenIndex]
KEY = "a-key-that-nobody-may-read"


@pytest.fixture
def server(loopback: Callable[..., Loopback]) -> Loopback:
    """One of the test's own, to be killed."""
    return loopback(folder=True)


@pytest.fixture
def shared(shared_loopback: Loopback) -> Iterator[Loopback]:
    yield shared_loopback
    shared_loopback.clear()


@pytest.fixture
def engine(shared: Loopback) -> Iterator[Engine]:
    taken = engines.take(QdrantSpec(kind="qdrant", url=shared.url, timeout_seconds=2))
    yield taken
    engines.give_back(taken)


def declared(server: Loopback, **more: Any) -> dict[str, Any]:
    return {"store": {"kind": "qdrant", "url": server.url} | more}


def make(engine: Engine) -> None:
    engine.call(lambda client: client.create_collection("c", {"": models.VectorParams(size=2, distance=models.Distance.DOT)}))


def test_429_is_waited_out_as_long_as_it_asks(engine: Engine, shared: Loopback) -> None:
    shared.fail("error", status=429, retry_after=1, times=2)
    began = time.monotonic()
    assert not engine.call(lambda client: client.collection_exists("c"))
    assert time.monotonic() - began >= 2.0


def test_429_without_a_time_is_waited_out_too(engine: Engine, shared: Loopback) -> None:
    shared.fail("error", status=429, times=2)
    engine.call(lambda client: client.get_collections())
    assert engine.busy_until > 0


def test_429_for_longer_than_we_wait(engine: Engine, shared: Loopback) -> None:
    shared.fail("error", status=429, retry_after=3600)
    with pytest.raises(StoreUnavailable, match="asks to wait 3600 s"):
        engine.call(lambda client: client.get_collections())


@pytest.mark.parametrize("status", [500, 503])
def test_a_server_in_trouble_is_unavailable(engine: Engine, shared: Loopback, status: int) -> None:
    shared.fail("error", status=status)
    with pytest.raises(StoreUnavailable, match=f"answered {status}"):
        engine.call(lambda client: client.get_collections())


def test_no_answer_in_time_is_unavailable(engine: Engine, shared: Loopback) -> None:
    shared.fail("late", seconds=4.0)
    with pytest.raises(StoreUnavailable, match="does not answer"):
        engine.call(lambda client: client.get_collections())


def test_nobody_there_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    engine = engines.take(QdrantSpec(kind="qdrant", url=f"http://127.0.0.1:{port}", timeout_seconds=2))
    with pytest.raises(StoreUnavailable, match="does not answer"):
        engine.call(lambda client: client.get_collections())
    engines.give_back(engine)


def test_404_and_409_are_told_apart(engine: Engine, shared: Loopback) -> None:
    make(engine)
    with pytest.raises(StoreRefused, match="already exists"):
        make(engine)
    with pytest.raises(CollectionGone):
        engine.call(lambda client: client.get_collection("nowhere"))
    with pytest.raises(CollectionGone):
        engine.call(lambda client: client.scroll("nowhere"))
    shared.client().delete_collection("c")


@pytest.mark.parametrize(
    ("status", "said", "words", "next_step"),
    [
        (
            400,
            'Bad request: Limit exceeded 64 > 20 for "upsert limit". Help: Reduce the "upsert limit" parameter to or below 20.',
            r'refused a request \(400\): Bad request: Limit exceeded 64 > 20 for "upsert limit"\. Reduce the "upsert limit" parameter',
            "to or below 20. The setting is upsert_max_batchsize, of the collection's strict mode",
        ),
        (400, "Bad request: Exact search disabled!. Help: Set exact=false.", "Exact search disabled!", "search_allow_exact"),
        (400, "Bad request: Something else. Help: Do this", "Something else", "Do this."),
        (400, "Wrong input: Vector dimension error", "Vector dimension error", "Look at its log."),
        (400, "Format error in JSON body: no", "Format error", "a defect worth reporting"),
    ],
)
def test_a_refusal_passes_on_what_the_server_says(
    engine: Engine, shared: Loopback, status: int, said: str, words: str, next_step: str
) -> None:
    shared.fail("error", status=status, message=said)
    with pytest.raises(StoreRefused, match=words) as refused:
        engine.call(lambda client: client.get_collections())
    assert refused.value.next_step is not None
    assert next_step in refused.value.next_step
    assert ("defect" in refused.value.next_step) == said.startswith("Format")


def test_a_wrong_key_is_said_without_the_key(
    loopback: Callable[..., Loopback], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], open_docs: Open
) -> None:
    server = loopback(api_key="the right one")
    monkeypatch.setenv("OUR_KEY", KEY)
    with pytest.raises(ConfigurationError, match="refuses this API key.*Set OUR_KEY") as refused:
        open_docs("v1", **declared(server, api_key_env="OUR_KEY"))
    assert KEY not in f"{refused.value}{refused.value.__cause__}{capsys.readouterr()}"


def test_the_right_key_comes_from_the_environment_and_is_kept_nowhere(
    loopback: Callable[..., Loopback], monkeypatch: pytest.MonkeyPatch, app: psycopg.Connection, open_docs: Open
) -> None:
    server = loopback(api_key=KEY)
    monkeypatch.setenv("OUR_KEY", KEY)
    index = open_docs("v1", **declared(server, api_key_env="OUR_KEY"))
    fill(index, "v1")
    tables = app.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'embed_pipeline'").fetchall()
    for (table,) in tables:
        rows = app.execute(f"SELECT t::text FROM embed_pipeline.{table} AS t").fetchall()  # type: ignore[arg-type]
        assert KEY not in str(rows), table
    assert KEY not in repr(store_of(index, "v1")._engine.address)


def test_an_old_server_is_refused(loopback: Callable[..., Loopback], open_docs: Open) -> None:
    with pytest.raises(ConfigurationError, match=r"is 1\.18\.2; guarded writes are safe from 1\.19 on"):
        open_docs("v1", **declared(loopback(version="1.18.2")))


def test_a_backfill_outlives_a_restart_and_pays_for_nothing_twice(
    app: psycopg.Connection, open_docs: Open, server: Loopback, tmp_path: Path
) -> None:
    """Writes lost, cut and refused, and the server killed in the middle: what is embedded waits until it is written."""
    calls = tmp_path / "calls"
    version = counted(calls, batch_size=8)
    index = open_docs(versions={"v1": version}, backfill={"write_batch": 8}, **declared(server))
    for kind in ("lost", "cut"):
        server.fail(kind, method="^PUT$", path="/points", skip=1)
    held = server.fail("hold", method="^PUT$", path="/points", skip=4)

    def restart() -> None:
        server.wait_struck(held)
        server.restart()

    killer = threading.Thread(target=restart)
    killer.start()
    fill(index, "v1")
    killer.join()
    assert len(asked_texts(calls)) == DOCUMENTS
    require_consistent(index)


def test_a_dual_write_says_that_qdrant_is_away_and_loses_nothing(
    app: psycopg.Connection, open_docs: Open, server: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embed_pipeline.postgres.session.GIVE_UP_SECONDS", 0.3)
    index = open_docs("v1", **declared(server))
    fill(index, "v1")
    app.execute("UPDATE articles SET body = 'edited'")
    server.kill()
    (result,) = dual_write.sync(index)
    assert "does not answer" in result.error
    assert result.pending == DOCUMENTS
    server.start()
    settle(index)


def test_a_collection_that_somebody_removed_is_said(app: psycopg.Connection, open_docs: Open, shared: Loopback) -> None:
    index = open_docs("v1", **declared(shared, collection="removed"))
    collection = store_of(index, "v1").place.collection
    shared.client().delete_collection(collection)
    with pytest.raises(VersionRetired, match=f"{collection} was removed"):
        backfill.fill_partition(index, "v1", "00")


def test_local_mode_is_for_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "FOLDER_SECONDS", 0.3)
    holder = subprocess.Popen(
        [sys.executable, "-c", f"from qdrant_client import QdrantClient as Q; c = Q(path={str(tmp_path)!r}); print(); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    taken = engines.take(QdrantSpec(kind="qdrant", path=tmp_path))
    try:
        with pytest.raises(StoreUnavailable, match="one process at a time"):
            taken.call(lambda client: client.get_collections())
        holder.kill()
        holder.wait()
        assert taken.call(lambda client: client.get_collections().collections) == []
    finally:
        engines.give_back(taken)


def test_local_mode_is_let_go_by_its_last_user(tmp_path: Path) -> None:
    spec = QdrantSpec(kind="qdrant", path=tmp_path)
    first, second = engines.take(spec), engines.take(spec)
    assert first is second
    make(first)
    engines.give_back(first)
    assert second.call(lambda client: client.collection_exists("c"))
    engines.give_back(second)
    third = engines.take(spec)
    assert third is not first
    assert third.call(lambda client: client.collection_exists("c"))
    engines.give_back(third)


def test_a_refused_registration_lets_go_of_local_mode(app: psycopg.Connection, open_docs: Open, tmp_path: Path) -> None:
    """Nobody has the index to close it, and the folder is for one process at a time."""
    store = {"kind": "qdrant", "path": str(tmp_path), "layout": "named_vectors", "collection": "mine"}
    spec = QdrantSpec.model_validate(store)
    engine = engines.take(spec)
    engine.call(lambda client: client.create_collection("mine", {"a": models.VectorParams(size=2, distance=models.Distance.DOT)}))
    engines.give_back(engine)
    with pytest.raises(AnotherLedger, match="did not make"):
        open_docs("v1", store=store)
    taken = engines.take(spec)
    assert taken is not engine
    assert engines._users[taken.address] == 1
    engines.give_back(taken)


def test_local_mode_bears_many_threads(app: psycopg.Connection, open_docs: Open, tmp_path: Path) -> None:
    """Without one lock around it a collection that two threads write stays broken for good."""
    index = open_docs("v1", "v2", store={"kind": "qdrant", "path": str(tmp_path / "q"), "layout": "named_vectors"})
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            fill(index, name)
        except EmbedPipelineError as problem:  # Two may not build one index at once.
            if "another run" not in str(problem):
                failures.append(problem)
        except BaseException as problem:
            failures.append(problem)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("v1", "v2")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    require_consistent(index)


def test_a_forked_process_has_a_client_of_its_own(engine: Engine, shared: Loopback) -> None:
    """Parent and child ask over the same engine at the same time; each gets the answers to its own questions."""
    engine.call(
        lambda client: client.create_collection("forked", {"": models.VectorParams(size=2, distance=models.Distance.DOT)})
    )

    def wrong(there: str, missing: str) -> int:
        def ask(name: str) -> bool:
            return engine.call(lambda client: client.collection_exists(name))

        return sum(not ask(there) or ask(missing) for _ in range(20))

    assert wrong("forked", "none") == 0
    mine = engine._client
    with forked(lambda: [wrong("forked", "of the child"), engine._client is mine, engine.close()]) as child:
        assert wrong("forked", "of the parent") == 0
        assert said(child) == [0, False, None]
    assert engine._client is mine
    assert wrong("forked", "none") == 0


def test_local_mode_stays_with_the_process_that_opened_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that ends, or closes what it has, does not give the folder away under the parent."""
    monkeypatch.setattr(engine_module, "FOLDER_SECONDS", 0.1)
    spec = QdrantSpec(kind="qdrant", path=tmp_path / "qdrant")
    engine = engines.take(spec)
    make(engine)

    def refused() -> str:
        try:
            return str(engine.call(lambda client: client.collection_exists("c")))
        except StoreUnavailable as problem:
            return problem.message
        finally:
            engine.close()
            gc.collect()

    for _ in range(2):
        with forked(refused) as child:
            assert "Another process holds the local mode" in said(child)
    assert engine.call(lambda client: client.collection_exists("c"))
    engines.give_back(engine)
