"""A retire that died after it had removed the vectors and before the catalog knew: Qdrant's part is in no transaction."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from embed_pipeline import signals
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import retire
from embed_pipeline.postgres import connection
from embed_pipeline.report.status import status
from tests.harness.articles import fill, serve
from tests.harness.qdrant.loopback import Loopback
from tests.harness.stores import Declared


class Died(Exception):
    """What ends the retire."""


def test_it_is_finished_by_the_same_command(open_docs: Callable[..., OpenIndex], qdrant_store: Declared) -> None:
    index = open_docs("v1", "v2", store=qdrant_store)
    serve(index, "v2")
    fill(index, "v1")

    def drop_and_die() -> None:
        with index.connection() as conn:
            index.store(index.version(conn, "v1")).drop(conn)
        raise Died

    signals.listen("retire.detached", drop_and_die)
    with pytest.raises(Died):
        retire.retire(index, "v1", "v1")
    signals.forget_all()

    (gone,) = [each for each in status(index).versions if each.name == "v1"]
    assert (gone.state, gone.dropped, gone.stored, gone.bytes, gone.ann_index) == ("retired", False, 0, 0, "missing")
    assert status(index).next.command == "embed-pipeline retire docs v1"
    assert retire.retire(index, "v1", "v1").freed_bytes == 0
    (gone,) = [each for each in status(index).versions if each.name == "v1"]
    assert gone.dropped


def test_removing_the_vectors_takes_longer_than_a_process_may_freeze(
    open_docs: Callable[..., OpenIndex],
    qdrant_at: Callable[[str], Declared],
    shared_loopback: Loopback,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server ends a transaction that nobody carries on: none may stand open while Qdrant works."""
    monkeypatch.setattr(connection, "FROZEN_MS", 200)
    index = open_docs("v1", "v2", store=qdrant_at("loopback-collections"))
    serve(index, "v2")
    slow = shared_loopback.fail("late", method="^DELETE$", path="/collections/", seconds=0.6)
    retire.retire(index, "v1", "v1")
    assert shared_loopback.struck(slow) == 1
    (gone,) = [each for each in status(index).versions if each.name == "v1"]
    assert gone.dropped
