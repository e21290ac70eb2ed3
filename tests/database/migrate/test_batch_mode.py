"""`backfill: {mode: batch}` through the real SDKs: whatever happens to a job or to us, each text is paid for once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from embed_pipeline.catalog import control
from embed_pipeline.embedders.remote import PROBE
from embed_pipeline.errors import ConfigurationError, ModelChanged, ProviderRefused, Stopped
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import backfill, batch_backfill, model_check, model_sample
from embed_pipeline.signals import forget_all, listen
from tests.harness.articles import DOCUMENTS, at, change, require_consistent, settle, stored
from tests.harness.providers.loopback import Provider, waited

Open = Callable[..., OpenIndex]

MODELS = {"openai": ("text-embedding-3-small", 8), "cohere": ("embed-multilingual-v3.0", 1024)}

# The sample of the model check, and what is asked after a refusal: no documents.
OURS = {hashlib.sha256(text.encode()).hexdigest() for text in (*model_sample.TEXTS, PROBE)}


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_backfill, "POLL_SECONDS", 0.02)


@pytest.fixture
def index(provider: Provider, open_docs: Open) -> OpenIndex:
    return opened(provider, open_docs, "openai")


def opened(provider: Provider, open_docs: Open, name: str, **overrides: Any) -> OpenIndex:
    model, dimensions = MODELS[name]
    version = {"provider": name, "model_name": model, "dimensions": dimensions, "base_url": provider.base_url(name)}
    return open_docs(**{"versions": {"v1": version}, "partitions": 2, "backfill": {"mode": "batch"}} | overrides)


def fill(index: OpenIndex) -> int:
    keys = index.spec.partition_keys()
    backfill.submit_ahead(index, "v1", keys)
    return sum(backfill.fill_partition(index, "v1", key).written for key in keys)


def paid(provider: Provider, name: str = "openai") -> tuple[int, int, int]:
    """Documents paid for in jobs and online, and how many of all were paid for twice."""
    billed = [entry for entry in provider.billed(MODELS[name][0]) if entry["hash"] not in OURS]
    hashes = [entry["hash"] for entry in billed]
    in_jobs = sum(bool(entry["batch"]) for entry in billed)
    return in_jobs, len(billed) - in_jobs, len(hashes) - len(set(hashes))


@pytest.mark.parametrize("name", MODELS)
def test_everything_goes_by_jobs_submitted_together(
    provider: Provider, open_docs: Open, app: psycopg.Connection, name: str
) -> None:
    index = opened(provider, open_docs, name)
    provider.set(batches_held=True)
    with ThreadPoolExecutor(1) as pool:
        filling = pool.submit(fill, index)
        waited(lambda: len(provider.jobs(name)) == 2, "the second partition's job waits for the first")
        provider.set(batches_held=False)
        assert filling.result() == DOCUMENTS
    assert paid(provider, name) == (DOCUMENTS, 0, 0)
    billed = sum(entry["tokens"] for entry in provider.billed(MODELS[name][0]) if entry["batch"])
    spent = app.execute("SELECT requests, tokens FROM embed_pipeline.spending WHERE kind = 'batch'").fetchall()
    assert spent == [(2, billed)]
    require_consistent(index)


def test_a_budget_stops_a_job_before_it_is_submitted(provider: Provider, open_docs: Open) -> None:
    index = opened(provider, open_docs, "openai", budget={"usd_per_version": 0.000_006})
    with pytest.raises(Stopped, match="budget"):
        backfill.fill_partition(index, "v1", "00")
    assert provider.jobs("openai") == []


def test_a_refused_text_and_a_changed_one_are_left_to_the_online_way(
    provider: Provider, index: OpenIndex, app: psycopg.Connection
) -> None:
    change(app, 3, "poison")
    provider.fail("poison", holds="poison")
    listen("batch.submitted", lambda: change(app, 4, "changed under the job"))
    assert fill(index) == DOCUMENTS - 1
    settle(index)
    assert set(stored(app, "v1")) == {str(n) for n in range(1, DOCUMENTS + 1)} - {"3"}
    assert app.execute("SELECT doc_id FROM embed_pipeline.dead_letters").fetchall() == [("3",)]
    assert paid(provider)[2] == 0


@pytest.mark.parametrize("end", ["batch_failed", "batch_expired", "batch_cancelled"])
def test_what_a_broken_job_does_not_bring_is_embedded_online(provider: Provider, index: OpenIndex, end: str) -> None:
    provider.fail(end)
    assert fill(index) == DOCUMENTS
    in_jobs, online, twice = paid(provider)
    assert (in_jobs, online, twice) == ((0, DOCUMENTS, 0) if end == "batch_failed" else (DOCUMENTS // 2, DOCUMENTS // 2, 0))
    require_consistent(index)


@pytest.mark.parametrize("moment", ["batch.intended", "batch.submitted", "batch.collected", "batch.written"])
def test_a_process_that_dies_in_between_pays_for_nothing_twice(provider: Provider, index: OpenIndex, moment: str) -> None:
    class Died(BaseException):
        pass

    def die() -> None:
        raise Died

    listen(moment, die)
    with pytest.raises(Died):
        fill(index)
    forget_all()
    fill(index)
    assert paid(provider) == (DOCUMENTS, 0, 0)
    assert len(provider.jobs("openai")) == 2
    require_consistent(index)


def test_a_job_whose_answer_was_lost_is_found_by_its_token(provider: Provider, index: OpenIndex) -> None:
    lost = provider.fail("lost", at="batches", times=1)
    assert fill(index) == DOCUMENTS
    assert provider.struck(lost) == 1
    assert len(provider.jobs("openai")) == 2
    assert paid(provider) == (DOCUMENTS, 0, 0)


def test_a_refused_job_stops_and_online_mode_goes_on(provider: Provider, open_docs: Open) -> None:
    index = opened(provider, open_docs, "openai")
    refused = provider.fail("refuse", status=404, at="files", words="no files here")
    with pytest.raises(ProviderRefused, match=r"no files here.*mode: online"):
        fill(index)
    assert stored_count(index) == 0
    provider.lift(refused)
    provider.fail("refuse", status=404, at="batches")
    index = opened(provider, open_docs, "openai", backfill={"mode": "online"})
    assert fill(index) == DOCUMENTS
    assert paid(provider) == (0, DOCUMENTS, 0)


def test_stop_reaches_who_waits_for_a_job_and_the_next_run_collects_it(
    provider: Provider, index: OpenIndex, app: psycopg.Connection
) -> None:
    provider.set(batches_held=True)
    listen("batch.waiting", lambda: control.set_state(app, "docs", "aborted", "enough"))
    with pytest.raises(Stopped, match="enough"):
        fill(index)
    forget_all()
    control.set_state(app, "docs", "running", "")
    provider.set(batches_held=False)
    assert fill(index) == DOCUMENTS
    assert paid(provider) == (DOCUMENTS, 0, 0)


def test_what_a_job_brings_is_not_stored_once_its_model_has_changed(
    provider: Provider, open_docs: Open, app: psycopg.Connection
) -> None:
    """The check goes red while the job is waited for; the job is collected when the model is the old one again."""
    index = opened(provider, open_docs, "openai", partitions=1)
    provider.set(batches_held=True)

    def turn() -> None:
        changed = provider.fail("changed")
        assert model_check.check(index)[0].outcome == "changed"
        provider.lift(changed)
        provider.set(batches_held=False)

    at("batch.waiting", turn)
    with pytest.raises(ModelChanged):
        fill(index)
    assert not stored(app, "v1")
    assert model_check.check(index)[0].outcome == "same"
    assert fill(index) == DOCUMENTS
    assert paid(provider) == (DOCUMENTS, 0, 0)


def test_a_provider_without_batches_is_refused_in_a_sentence(provider: Provider, open_docs: Open) -> None:
    version = {"provider": "voyage", "model_name": "voyage-3.5", "dimensions": 1024, "base_url": provider.base_url("voyage")}
    index = open_docs(versions={"v1": version}, backfill={"mode": "batch"})
    with pytest.raises(ConfigurationError, match=r"voyage has no batch interface\. Set backfill: \{mode: online\}"):
        backfill.fill_partition(index, "v1", "00")


def stored_count(index: OpenIndex) -> int:
    with index.connection() as conn:
        return index.store(index.version(conn, "v1")).count(conn)
