"""A whole migration of an index in Qdrant through Dagster, while others write and search: v1, v2, back, v2 again, v1 retired.

Qdrant is the loopback server, a process of its own. `verify` must find nothing at any step, and whoever searches, through the Searcher
or through Qdrant alone, must be answered in exactly one space at every moment.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import dagster as dg
import psycopg
import pytest

from embed_pipeline.configuration import load_indexes
from embed_pipeline.migrate import verify
from embed_pipeline.migrate.opening import opened
from embed_pipeline.spec import IndexSpec
from tests.database.dagster_layer.conftest import Runner
from tests.end_to_end.following import Reader, Writer, beside, readers_of
from tests.end_to_end.running import DATABASE_VARIABLE, Dagster, running, wait
from tests.harness.articles import declared
from tests.harness.postgres.seen import nothing_waits
from tests.harness.qdrant.conftest import loopback  # noqa: F401  (fixture)
from tests.harness.qdrant.loopback import Loopback
from tests.harness.strikes import in_turn

LAYOUTS = ("collections", "named_vectors")
# Few documents, and somebody writes all along: their number moves by more than the usual 5 %, and between an exact search and the other.
GATE = {"min_queries": 2, "margin": 0.2, "max_row_change": 0.9, "min_ann_recall": 0.5}
PARTITIONS = ["00", "01", "02", "03"]

DEFS = """
type: embed_pipeline.EmbeddingIndex
attributes:
  name: docs
  database_url: "{{{{ env.E2E_DATABASE_URL }}}}"
  documents: {{table: articles, key: id, text: [title, body], payload: [views]}}
  store: {{kind: qdrant, url: "{url}", layout: {layout}}}
  partitions: 4
  backfill: {{partitions_per_run: 2}}
  versions:
    v1: {{provider: "tests.harness.fakes:HashEmbedder", model_name: one, dimensions: 16, options: {{salt: v1}}}}
    v2: {{provider: "tests.harness.fakes:HashEmbedder", model_name: two, dimensions: 16, options: {{salt: v2}}}}
  holdout: {{path: "{holdout}"}}
  gate: {gate}
  retire: {{soak_seconds: 0, unread_seconds: 0}}
"""


class Launcher(Protocol):
    """Something that executes what the UI would launch. Both answer whether it succeeded."""

    def fill(self, version: str) -> bool: ...

    def job(self, name: str, config: dict[str, Any] | None = None) -> bool: ...


class InProcess:
    """Dagster without its processes: each job in this one."""

    def __init__(self, spec: IndexSpec, instance: dg.DagsterInstance) -> None:
        self._runner = Runner(spec, instance)

    def fill(self, version: str) -> bool:
        return self._told(self._runner.backfill(version))

    def job(self, name: str, config: dict[str, Any] | None = None) -> bool:
        return self._told(self._runner.job(name, config))

    @staticmethod
    def _told(result: dg.ExecuteInProcessResult) -> bool:
        for event in result.all_events:
            if event.is_step_failure:
                failed = event.step_failure_data
                print(failed.user_failure_data.description if failed.user_failure_data else failed.error_display_string)
        return result.success


class OverGraphQL:
    """A running Dagster."""

    def __init__(self, client: Dagster) -> None:
        self._client = client

    def fill(self, version: str) -> bool:
        return self._client.backfill(version, PARTITIONS) == ("COMPLETED_SUCCESS", 4, 0)

    def job(self, name: str, config: dict[str, Any] | None = None) -> bool:
        return self._client.run(name, config) == "SUCCESS"


def migrate(launch: Launcher, spec: IndexSpec, readers: tuple[Reader, Reader], writers: list[Writer]) -> None:
    """From nothing to v2 alone. Writers write all along, readers read from when there is something to read."""

    def nothing_differs(*filled: str) -> None:
        with opened(spec, register_new=False) as index:
            for name in filled:
                coverage = verify.verify(index, name)[name]
                assert coverage.differences == 0, (name, coverage)

    def serves(name: str, *filled: str) -> None:
        for reader in readers:
            reader.await_version(name)
        nothing_differs(*filled)

    with beside(*writers):
        assert launch.fill("v1")
        assert launch.job("docs__v1_gate")
        assert launch.job("docs__v1_cutover")
        with beside(*readers):
            serves("v1", "v1")
            assert launch.fill("v2")
            nothing_differs("v1", "v2")
            assert launch.job("docs__v2_gate")
            for job, name in (("docs__v2_cutover", "v2"), ("docs_rollback", "v1"), ("docs__v2_cutover", "v2")):
                assert launch.job(job)
                serves(name, "v1", "v2")
            assert launch.job("docs__v1_retire", {"ops": {"docs__v1_retire__op": {"config": {"confirm": "v1"}}}})
            # A round through the anchors by each, after v1 has gone.
            rounds = [reader.steps + 30 for reader in readers]
            wait(lambda: all(reader.steps >= until for reader, until in zip(readers, rounds, strict=True)) or None, 60)
            serves("v2", "v2")
    for actor in (*readers, *writers):
        assert actor.problems == [], f"{type(actor).__name__} in step {actor.steps}"
        assert actor.steps > 10
    for reader in readers:
        assert reader.versions == ["v1", "v2", "v1", "v2"], type(reader).__name__


def nothing_is_left(app: psycopg.Connection, spec: IndexSpec, server: Loopback) -> None:
    """With all writers stopped and the queue worked off, v2 holds exactly the documents, and nothing of v1 is in Qdrant."""
    with opened(spec, register_new=False) as index:
        ((name, coverage),) = verify.verify(index).items()
    assert (name, coverage.differences, coverage.pending) == ("v2", 0, 0)
    assert app.execute("SELECT count(*) FROM articles").fetchone() == (coverage.vectors,)
    client = server.client()
    with_v1 = [each.name for each in client.get_collections().collections if "__v1__" in each.name]
    (collection,) = [each.name for each in client.get_collections().collections]
    vectors = client.get_collection(collection).config.params.vectors
    assert not with_v1
    assert not [each for each in (vectors if isinstance(vectors, dict) else {}) if each.startswith("v1__")]
    records, _ = client.scroll(collection, limit=10_000)
    assert all("v1" not in (record.payload or {})["embed_pipeline"]["versions"] for record in records)
    client.close()


@pytest.mark.soak
@pytest.mark.parametrize("layout", LAYOUTS)
def test_migration_in_process(
    app: psycopg.Connection,
    database_url: str,
    holdout: Path,
    loopback: Callable[..., Loopback],  # noqa: F811
    layout: str,
) -> None:
    server = loopback()
    store = {"kind": "qdrant", "url": server.url, "layout": layout}
    spec = declared(database_url, holdout, "v1", "v2", store=store, gate=GATE, partitions=4)
    with dg.DagsterInstance.ephemeral() as instance:
        launch = InProcess(spec, instance)
        migrate(launch, spec, readers_of(layout, database_url, server.url, "docs"), [Writer(database_url, 1)])
        assert launch.job("docs_dual_write")
        compared = launch.job("docs_compare")
    assert compared
    nothing_is_left(app, spec, server)


@pytest.mark.soak
@pytest.mark.parametrize("layout", in_turn(LAYOUTS))
def test_migration_over_graphql(
    app: psycopg.Connection,
    database_url: str,
    holdout: Path,
    loopback: Callable[..., Loopback],  # noqa: F811
    layout: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = loopback()
    monkeypatch.setenv(DATABASE_VARIABLE, database_url)
    project = tmp_path / "project"
    with running(
        project, DEFS.format(url=server.url, layout=layout, holdout=holdout, gate=json.dumps(GATE)), database_url
    ) as client:
        spec = load_indexes(project / "assets")["docs"]
        writers = [Writer(database_url, 1), Writer(database_url, 2)]
        migrate(OverGraphQL(client), spec, readers_of(layout, database_url, server.url, "docs"), writers)
        # The sensor carries the last changes; nobody calls sync here.
        wait(lambda: nothing_waits(app) or None, 120)
    nothing_is_left(app, spec, server)
