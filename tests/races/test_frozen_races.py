"""Workers that are stopped in mid-transaction, or whose machine is gone: what they hold, the server gives back."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import psycopg
import pytest

from embed_pipeline.index.handle import OpenIndex
from tests.harness.articles import change, declared, fill, settle, stored
from tests.harness.forkserver import CONTEXT, preload
from tests.harness.providers.loopback import waited
from tests.races import workers
from tests.races.hands import OPEN_TRANSACTIONS, distribute, take_claims_over

Open = Callable[..., OpenIndex]

preload("tests.races.workers")


def frozen_at(place: Path, declaration: str, moment: str, frozen_ms: int) -> BaseProcess:
    """A worker that has come to `moment` and is stopped there; the server ends its transactions after `frozen_ms`."""
    frozen = place / "frozen"
    worker = CONTEXT.Process(target=workers.freeze_at, args=(declaration, moment, frozen_ms, frozen))
    worker.start()
    waited(frozen.exists, "it was never frozen")
    return worker


def thawed(worker: BaseProcess) -> int | None:
    """The exit code of a stopped worker that was let go on (`workers.freeze_at` says which)."""
    os.kill(worker.pid or 0, signal.SIGCONT)
    worker.join()
    return worker.exitcode


@pytest.mark.parametrize(
    "moment", ["inbox.announced", "queue.claiming", "insert_new.written", "replace.locked", "replace.written"]
)
def test_frozen_worker_is_thrown_out(
    app: psycopg.Connection, open_docs: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """A worker is stopped by SIGSTOP in the middle of a transaction: no application waits for it, and the server ends the transaction, for
    whose rows distributors and other workers would wait."""
    index = open_docs("v1")
    if not moment.startswith("insert"):
        fill(index, "v1")
        change(app, 1, "edited")
    if moment.startswith("replace"):
        distribute(index)
    worker = frozen_at(tmp_path, index.spec.model_dump_json(), moment, 500)
    app.execute("SET lock_timeout = '1ms'")
    app.execute("DELETE FROM articles WHERE id = 1")
    app.execute("RESET lock_timeout")
    waited(lambda: app.execute(OPEN_TRANSACTIONS).fetchone() == (0,), "its transaction stands open")
    assert distribute(index) == 1
    assert thawed(worker) == 3, "the thrown out worker noticed nothing"
    take_claims_over(app)
    fill(index, "v1")
    settle(index)
    assert "1" not in stored(app, "v1")


def test_frozen_in_its_copy_a_worker_holds_nobody_up(app: psycopg.Connection, open_docs: Open, tmp_path: Path) -> None:
    """While a COPY waits for its rows PostgreSQL looks at no timeout: nothing may be held then that an application waits for."""
    index = open_docs("v1")
    worker = frozen_at(tmp_path, index.spec.model_dump_json(), "store.copying", 60_000)
    app.execute("SET statement_timeout = '20s'")
    app.execute("DELETE FROM articles WHERE id = 1")
    app.execute("UPDATE articles SET id = 1001, body = 'edited' WHERE id = 2")
    app.execute("RESET statement_timeout")
    assert thawed(worker) == 0
    fill(index, "v1")
    settle(index)
    assert {"1", "2"}.isdisjoint(stored(app, "v1"))


@pytest.mark.parametrize("moment", ["register.locked", "capture.canary"])
def test_frozen_holder_of_a_documents_lock_is_thrown_out(
    app: psycopg.Connection, open_docs: Open, holdout: Path, tmp_path: Path, moment: str
) -> None:
    """A registration is stopped under the documents lock, or a backfill in its canary change: every writer, or that of one document, waits
    for a bounded time, and the same command finishes the work."""
    index = open_docs("v1")
    name = "other" if moment.startswith("register") else "docs"
    declaration = declared(index.url, holdout, "v1", name=name).model_dump_json()
    worker = frozen_at(tmp_path, declaration, moment, 500)
    app.execute("SET statement_timeout = '20s'")
    app.execute("UPDATE articles SET body = 'new'")
    app.execute("RESET statement_timeout")
    assert thawed(worker) == 3, "the thrown out worker noticed nothing"
    again = open_docs("v1", name=name)
    fill(again, "v1")
    settle(again)


def test_frozen_in_its_read_a_worker_lets_the_application_have_its_table(
    app: psycopg.Connection, open_docs: Open, tmp_path: Path
) -> None:
    """A worker is stopped when the server has its read and not yet the COMMIT after it. PostgreSQL takes the session for a busy one, which
    no timeout of idle ones ends."""
    if app.info.server_version < 170_000:
        pytest.skip("PostgreSQL knows transaction_timeout, which ends such a session, from 17 on")
    index = open_docs("v1")
    fill(index, "v1")
    change(app, 1, "edited")
    worker = frozen_at(tmp_path, index.spec.model_dump_json(), "slice.reading", 500)
    app.execute("SET statement_timeout = '20s'")
    app.execute("ALTER TABLE articles SET (fillfactor = 90)")
    app.execute("CLUSTER articles USING articles_pkey")
    app.execute("RESET statement_timeout")
    assert thawed(worker) == 3, "the thrown out worker noticed nothing"
    take_claims_over(app)
    settle(index)
