"""A cutover on the command line while somebody searches without the new model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg

from tests.database.cli.conftest import Place, Ran
from tests.harness.articles import leave_behind

Run = Callable[..., Ran]


def test_searchers_without_the_new_model_are_named(place: Place, run: Run, conn: psycopg.Connection[Any]) -> None:
    assert run("load", "docs", place.write_documents()).code == 0
    for arguments in (
        ("backfill", "docs", "v1"),
        ("gate", "docs", "v1"),
        ("cutover", "docs", "v1"),
        ("backfill", "docs", "v2"),
        ("gate", "docs", "v2"),
    ):
        assert run(*arguments).code == 0
    leave_behind(conn, "v2")
    assert (
        "A process that searches lacks the model of v2: web-7:4242 (role postgres): The file /srv/m.onnx"
        in run("status", "docs").out
    )
    refused = run("cutover", "docs", "v2")
    assert (refused.code, refused.out) == (1, "")
    assert "1 of the processes that search docs cannot embed queries for v2" in refused.err
    assert "embed-pipeline cutover docs v2 --anyway" in refused.err
    moved = run("cutover", "docs", "v2", "--anyway")
    assert (moved.code, moved.err.splitlines()[-1]) == (
        0,
        "left behind, without the model of v2: web-7:4242 (role postgres): The file /srv/m.onnx does not exist.",
    )
