"""A small table of articles, an index over it with models that know words, and an instance of Dagster in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg
import pytest

from embed_pipeline.dagster_layer.component import build_definitions
from embed_pipeline.dagster_layer.names import op_of
from embed_pipeline.evaluate.picture import Picture
from embed_pipeline.migrate.opening import opened
from embed_pipeline.spec import IndexSpec
from tests.harness import articles

DOCUMENTS = 40
QUERIES = 30

Declare = Callable[..., IndexSpec]


def words(number: int) -> str:
    """Words that only document `number` has."""
    return " ".join(f"w{number}x{position}" for position in range(6))


@pytest.fixture
def app(database_url: str) -> Iterator[psycopg.Connection]:
    """The application's connection, with its table of articles."""
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute("CREATE TABLE articles (id bigint PRIMARY KEY, body text)")
        with conn.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO articles VALUES (%s, %s)", [(number, words(number)) for number in range(1, DOCUMENTS + 1)]
            )
        yield conn


@pytest.fixture
def declare(database_url: str, app: psycopg.Connection, tmp_path: Path) -> Declare:
    """Declares index `docs`: `versions` gives the options of each version's model; `drop` makes a model blind to words."""
    holdout = tmp_path / "holdout.jsonl"
    rows = [{"query": " ".join(words(n).split()[:3]), "doc_id": str(n)} for n in range(1, QUERIES + 1)]
    holdout.write_text("\n".join(json.dumps(row) for row in rows))

    def declared(versions: dict[str, dict[str, Any]], **overrides: Any) -> IndexSpec:
        declaration: dict[str, Any] = {
            "name": "docs",
            "database_url": database_url,
            "documents": {"table": "articles", "key": "id", "text": "body"},
            "partitions": 4,
            "versions": {name: model(name, options) for name, options in versions.items()},
            "holdout": {"path": str(holdout)},
            "gate": {"min_queries": 10, "margin": 0.1},
            "retire": {"soak_seconds": 0, "unread_seconds": 0},
        }
        return IndexSpec.model_validate(declaration | overrides)

    return declared


def model(name: str, options: dict[str, Any]) -> dict[str, Any]:
    return {
        "provider": "tests.harness.fakes:WordsEmbedder",
        "model_name": f"model-{name}",
        "dimensions": 64,
        "batch_size": 5,
        "options": {"salt": name} | options,
    }


@pytest.fixture(scope="session")
def shared_instance() -> Iterator[dg.DagsterInstance]:
    """One for each worker: Dagster stamps the migrations of three storages to make one."""
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def instance(shared_instance: dg.DagsterInstance) -> Iterator[dg.DagsterInstance]:
    """An instance that knows nothing yet."""
    yield shared_instance
    shared_instance.wipe()


@pytest.fixture
def instance_on_disk() -> Iterator[dg.DagsterInstance]:
    """One that can be opened again. What steps print is not kept: Dagster takes four processes a step for that. In a process that was
    started with SIGINT ignored, as a shell starts one in the background, they ignore SIGTERM too, and the end of each is waited for."""
    logs = {"module": "dagster._core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager"}
    # Not entered: an instance that is entered again by a context leaves itself behind as the current one.
    made = dg.DagsterInstance.local_temp(overrides={"compute_logs": logs})
    yield made
    made.dispose()


@pytest.fixture
def pictures() -> None:
    """For a test that looks at the picture of an evaluation."""


@pytest.fixture(autouse=True)
def no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """To draw one is most of the work of an evaluation of thirty queries."""
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr(Picture, "png", lambda _: b"")


class Runner:
    """Runs what the UI would run, in this process."""

    def __init__(self, spec: IndexSpec, instance: dg.DagsterInstance) -> None:
        self.spec = spec
        self.instance = instance
        self.definitions = build_definitions(spec)

    def job(self, name: str, config: dict[str, Any] | None = None, **options: Any) -> dg.ExecuteInProcessResult:
        job = self.definitions.resolve_job_def(name)
        return job.execute_in_process(run_config=config, instance=self.instance, raise_on_error=False, **options)

    def op_job(self, name: str, **config: Any) -> dg.ExecuteInProcessResult:
        return self.job(name, {"ops": {op_of(name): {"config": config}}})

    def backfill(self, version: str, first: str = "00", last: str = "03") -> dg.ExecuteInProcessResult:
        """One run of a backfill over the partitions `first` to `last`."""
        tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
        return self.job(f"docs__{version}_backfill", tags=tags)

    def fill(self, version: str) -> None:
        assert self.backfill(version).success

    def serve(self, version: str) -> None:
        """Through everything to serving."""
        self.fill(version)
        assert self.job(f"docs__{version}_gate").success
        assert self.job(f"docs__{version}_cutover").success

    def find_serving(self, version: str) -> None:
        """The same by the verbs alone, as from a shell: Dagster has seen nothing of it. Takes a fifth of the time."""
        with opened(self.spec) as index:
            articles.serve(index, version)

    def filled(self, version: str) -> set[str]:
        """Partitions that Dagster shows as filled."""
        return set(self.instance.get_materialized_partitions(dg.AssetKey(["docs", version, "embeddings"])))


@pytest.fixture
def run(instance: dg.DagsterInstance) -> Callable[[IndexSpec], Runner]:
    return lambda spec: Runner(spec, instance)


def failure(result: dg.ExecuteInProcessResult) -> dg.DagsterEvent:
    """The event of the one step that failed."""
    (event,) = [event for event in result.all_events if event.is_step_failure]
    return event


def sentence(result: dg.ExecuteInProcessResult) -> str:
    """What a person reads about the failed step."""
    data = failure(result).step_failure_data
    assert data.user_failure_data is not None, data.error
    return data.user_failure_data.description or ""


def pointer(app: psycopg.Connection) -> str | None:
    row = app.execute("SELECT version FROM embed_pipeline.serving WHERE index_name = 'docs'").fetchone()
    return None if row is None else row[0]
