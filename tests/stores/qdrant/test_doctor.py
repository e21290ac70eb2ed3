"""doctor on a collection that knows nothing of this package."""

from __future__ import annotations

import json

from click.testing import CliRunner
from qdrant_client import models

from embed_pipeline.cli.main import cli
from tests.harness.qdrant.loopback import Loopback
from tests.unit.doctor.test_judging import DIMENSIONS, ROWS, embedded, texts


def test_a_mixture_in_a_collection_is_found_and_nothing_is_written(shared_loopback: Loopback) -> None:
    shared_loopback.clear()
    client = shared_loopback.client()
    written = texts()
    stored = embedded(written, "one")
    stored[::5] = embedded(written[::5], "two")
    named = {"mine": models.VectorParams(size=DIMENSIONS, distance=models.Distance.DOT)}
    client.create_collection("items", vectors_config=named)
    points = [
        models.PointStruct(id=row + 1, vector={"mine": vector.tolist()}, payload={"body": text})
        for row, (text, vector) in enumerate(zip(written, stored, strict=True))
    ]
    client.upsert("items", points, wait=True)
    before = client.get_collection("items").model_dump()
    called = ["doctor", "--collection", "items", "--url", shared_loopback.url]
    seen = CliRunner().invoke(cli, [*called, "--vector", "mine", "--text", "body", "--json"])
    assert seen.exit_code == 4, seen.output
    told = json.loads(seen.stdout)
    assert told["looked_at"] == f"all {ROWS} points"
    assert [each["code"] for each in told["findings"]] == ["mixture"]
    assert client.get_collection("items").model_dump() == before
    refused = CliRunner().invoke(cli, called)
    assert (refused.exit_code, "has no unnamed vector" in refused.stderr) == (1, True)
