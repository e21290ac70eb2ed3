"""remove with vectors in Qdrant: what the index made goes, an adopted collection stays, and our fields in it only go when asked for."""

from __future__ import annotations

import pytest

from embed_pipeline.migrate import cutover, gate
from embed_pipeline.migrate import remove as removing
from embed_pipeline.migrate.opening import opened
from embed_pipeline.postgres.connection import connect
from tests.harness.articles import fill
from tests.stores.qdrant.by_hand import MARK
from tests.stores.qdrant.world import World, close_to, dense, own_payload


@pytest.mark.parametrize(
    ("world", "fields"), [(("dense", "collections"), False), (("dense", "named_vectors"), True)], indirect=["world"]
)
def test_what_was_made_goes_and_what_was_adopted_stays(world: World, fields: bool) -> None:
    client, collection = world.collection.client, world.collection
    collection.make()
    vectors = {key: dense(point, "dense") for key, point in collection.points().items()}
    others = {each.name for each in client.get_collections().collections}
    world.adopt()
    with opened(world.spec("v1", "v2")) as index:
        fill(index, "v1")
        fill(index, "v2")
        gate.run(index, "v2")
        cutover.cutover(index, "v2")
    with connect(world.database_url, autocommit=True) as conn:
        said = removing.plan(conn, "docs", fields=fields)
        assert any(collection.name in each for each in said.stays)
        assert any(MARK in each for each in said.stays) is not fields
        removing.remove(conn, "docs", "docs", unread_seconds=0, anyway=True, fields=fields)
    assert {each.name for each in client.get_collections().collections} == others
    assert client.get_aliases().aliases == []
    points = collection.points()
    assert points.keys() == vectors.keys()
    for key, point in points.items():
        assert own_payload(point) == collection.kept[key]
        assert (MARK in (point.payload or {})) is not fields
        assert close_to(dense(point, "dense"), vectors[key])
    if fields:
        info = client.get_collection(collection.name)
        metadata = info.config.metadata or {}
        assert [key for key, value in metadata.items() if key.startswith(MARK) and value is not None] == []
        assert [field for field in info.payload_schema if field.startswith(f"{MARK}.")] == []
