"""A rollback past what the old model cannot embed, and a declaration that was changed in what is frozen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg

from embed_pipeline.migrate import backfill, gate
from embed_pipeline.migrate.opening import opened
from embed_pipeline.spec import IndexSpec
from tests.database.dagster_layer.conftest import Declare, Runner, pointer, sentence
from tests.harness.articles import fill, leave_behind, serve

Run = Callable[[IndexSpec], Runner]


def test_a_rollback_takes_along_what_it_is_told_to(declare: Declare, run: Run, app: psycopg.Connection, tmp_path: Path) -> None:
    down = tmp_path / "down"
    spec = declare({"v1": {"raise_while": str(down)}, "v2": {}}, partitions=1)
    with opened(spec) as index:
        serve(index, "v1")
        serve(index, "v2")
    down.touch()
    app.execute("UPDATE articles SET body = 'edited' WHERE id = 1")
    assert "1 documents of v1 have waited" in sentence(run(spec).op_job("docs_rollback"))
    assert run(spec).op_job("docs_rollback", accept_stale=1, reason="complaints").success
    assert pointer(app) == "v1"
    down.unlink()
    assert "was rolled back already" in sentence(run(spec).op_job("docs_rollback", reason="typed twice"))
    assert run(spec).op_job("docs_rollback", to="v2").success
    assert pointer(app) == "v2"


def test_searchers_without_the_new_model_are_left_behind_when_it_is_told_to(
    declare: Declare, run: Run, app: psycopg.Connection
) -> None:
    spec = declare({"v1": {}, "v2": {}}, partitions=1)
    with opened(spec) as index:
        serve(index, "v1")
        fill(index, "v2")
        gate.run(index, "v2")
    leave_behind(app, "v2")
    assert "web-7:4242 (role postgres): The file /srv/m.onnx does not exist." in sentence(run(spec).job("docs__v2_cutover"))
    assert pointer(app) == "v1"
    moved = run(spec).job("docs__v2_cutover", {"ops": {"docs__v2__cutover": {"config": {"confirm": "v2", "anyway": True}}}})
    assert moved.success
    (event,) = [
        event for event in moved.get_asset_materialization_events() if event.asset_key and event.asset_key.path[-1] == "cutover"
    ]
    assert str(event.materialization.metadata["left behind"].value).startswith("web-7:4242")
    assert pointer(app) == "v2"


def test_partitions_that_are_declared_otherwise_are_filled_by_no_run(declare: Declare, run: Run, app: psycopg.Connection) -> None:
    """The code location loads without a database, with the partitions that are declared. None of them becomes green."""
    with opened(declare({"v1": {}})) as index:
        backfill.fill_partition(index, "v1", "00")
    for number, last in ((2, "01"), (8, "07")):
        otherwise = run(declare({"v1": {}}, partitions=number))
        failed = otherwise.backfill("v1", last, last)
        assert f"partitions is registered as 4 and declared as {number}" in sentence(failed)
        assert "Put the registered values back" in sentence(failed)
        assert otherwise.filled("v1") == set()
    assert "partitions is registered as 4" in sentence(otherwise.job("docs_compare"))
    assert run(declare({"v1": {}})).backfill("v1", "01", "01").success
