"""Adapters in the catalog: kept as they were fitted, of the two spaces that are registered, and never changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg import errors

from embed_pipeline.catalog import adapters, versions
from embed_pipeline.embedders import maps
from embed_pipeline.embedders.maps import KINDS, Kind
from embed_pipeline.index.handle import OpenIndex

Open = Callable[..., OpenIndex]

NARROW = {"provider": "tests.harness.fakes:HashEmbedder", "model_name": "narrow", "dimensions": 12}
WIDE = {"provider": "tests.harness.fakes:HashEmbedder", "model_name": "wide", "dimensions": 16}


def fitted(kind: Kind, source: int = 16, target: int = 12) -> maps.Map:
    random = np.random.default_rng(0)
    pairs = random.normal(size=(400, source)).astype(np.float32), random.normal(size=(400, target)).astype(np.float32)
    return maps.fit(kind, *pairs)


@pytest.fixture
def conn(open_docs: Open, app: psycopg.Connection) -> psycopg.Connection:
    open_docs(versions={"v1": NARROW, "v2": WIDE})
    return app


def keep(conn: psycopg.Connection, found: maps.Map, pairs: int = 400) -> int:
    source, target = versions.get(conn, "docs", "v2"), versions.get(conn, "docs", "v1")
    return adapters.store(conn, source, target, found, pairs=pairs, pairs_sha256="0" * 64, measures={"agreement": 0.5})


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_is_read_as_it_was_fitted(conn: psycopg.Connection, kind: Kind) -> None:
    found = fitted(kind)
    number = keep(conn, found)
    read = adapters.read(conn, "docs", number)
    assert read is not None
    assert (read.kind, read.from_version, read.to_version, read.pairs, read.measures) == (
        kind,
        "v2",
        "v1",
        400,
        {"agreement": 0.5},
    )
    np.testing.assert_array_equal(read.map.weights, found.weights)
    query = np.random.default_rng(1).normal(size=16).astype(np.float32)
    np.testing.assert_array_equal(read.map.apply(query), found.apply(query))
    assert read.is_of(versions.get(conn, "docs", "v2"), versions.get(conn, "docs", "v1"))
    assert not read.is_of(versions.get(conn, "docs", "v1"), versions.get(conn, "docs", "v2"))


def test_the_latest_of_a_direction_is_found(conn: psycopg.Connection) -> None:
    assert adapters.latest(conn, "docs", "v2", "v1") is None
    keep(conn, fitted("procrustes"))
    second = keep(conn, fitted("procrustes_centred"))
    found = adapters.latest(conn, "docs", "v2", "v1")
    assert found is not None
    assert (found.id, found.kind) == (second, "procrustes_centred")
    assert adapters.latest(conn, "docs", "v1", "v2") is None
    assert adapters.read(conn, "other", second) is None


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE embed_pipeline.adapters SET measures = '{}'",
        "DELETE FROM embed_pipeline.adapters",
        "TRUNCATE embed_pipeline.adapters CASCADE",
    ],
)
def test_an_adapter_is_never_changed(conn: psycopg.Connection, statement: Any) -> None:
    keep(conn, fitted("procrustes"))
    with pytest.raises(errors.CheckViolation, match="append-only"):
        conn.execute(statement)


def test_an_adapter_of_no_registered_space_is_refused(conn: psycopg.Connection) -> None:
    """Also one that somebody writes by hand: the other direction, another fingerprint, another size, too few pairs, no cosine."""
    keep(conn, fitted("procrustes"))

    def by_hand(column: str, value: str) -> None:
        columns = (
            "index_name, from_version, from_fingerprint, from_dimensions, to_version, to_fingerprint, to_dimensions, kind, weights, bias, "
            "pairs, pairs_sha256"
        )
        wanted = ", ".join(value if each == column else each for each in columns.split(", "))
        conn.execute(f"INSERT INTO embed_pipeline.adapters ({columns}) SELECT {wanted} FROM embed_pipeline.adapters")  # type: ignore[arg-type]

    by_hand("pairs", "301")
    for column, value, reason in [
        ("from_fingerprint", "to_fingerprint", "as they are registered"),
        ("from_version", "to_version", "as they are registered"),
        ("to_fingerprint", "repeat('0', 64)", "as they are registered"),
        ("to_dimensions", "16", "as they are registered"),
        ("weights", "'\\x00'::bytea", "check constraint"),
        ("bias", "'\\x00'::bytea", "check constraint"),
        ("kind", "'procrustes_centred'", "check constraint"),
        ("kind", "'mlp'", "check constraint"),
        ("pairs", "299", "check constraint"),
    ]:
        with pytest.raises(errors.CheckViolation, match=reason):
            by_hand(column, value)


def test_an_adapter_is_between_spaces_of_cosine_distance(open_docs: Open, app: psycopg.Connection) -> None:
    open_docs(versions={"v1": NARROW, "v2": WIDE | {"distance": "l2"}})
    with pytest.raises(errors.CheckViolation, match="cosine distance"):
        keep(app, fitted("procrustes"))
