"""A request that is refused for one of its texts is asked for in parts; what these brought is paid for, whatever comes after."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from embed_pipeline.embedders import remote, sending
from embed_pipeline.errors import ProviderRefused
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import backfill, dual_write, sample
from tests.harness.articles import DOCUMENTS, require_consistent, settle, text_hash
from tests.harness.providers.loopback import Provider

Open = Callable[..., OpenIndex]
MODEL = "text-embedding-3-small"


@pytest.fixture
def index(app: psycopg.Connection, open_docs: Open, provider: Provider) -> OpenIndex:
    version = {"provider": "openai", "model_name": MODEL, "dimensions": 16, "base_url": provider.base_url("openai")}
    app.execute("UPDATE articles SET body = 'poison' WHERE id = 3")
    app.execute("UPDATE articles SET body = 'forbidden' WHERE id = 40")
    provider.fail("poison", holds="poison")
    return open_docs(versions={"v1": version}, partitions=1)


def paid_more_than_once(provider: Provider) -> dict[str, int]:
    harmless = {text_hash(remote.PROBE)}
    return {text: times for text, times in provider.paid(MODEL).items() if times > 1 and text not in harmless}


def test_backfill_keeps_the_answered_parts_of_a_request_that_fails(
    app: psycopg.Connection, index: OpenIndex, provider: Provider
) -> None:
    rule = provider.fail("refuse", status=403, holds="forbidden", skip=1)
    with pytest.raises(ProviderRefused):
        backfill.fill_partition(index, "v1", "00")
    kept = app.execute("SELECT count(*) FROM embed_pipeline.docs__v1").fetchone()
    assert kept is not None
    assert 0 < kept[0] < 59
    provider.lift(rule)
    backfill.fill_partition(index, "v1", "00")
    require_consistent(index)
    assert paid_more_than_once(provider) == {}


def test_dual_write_keeps_the_answered_parts_of_a_request_that_fails(
    app: psycopg.Connection, index: OpenIndex, provider: Provider
) -> None:
    backfill.fill_partition(index, "v1", "00")
    app.execute("UPDATE articles SET title = title || ' again'")
    rule = provider.fail("refuse", status=403, holds="forbidden", skip=1)
    (result,) = dual_write.sync(index)
    assert "status 403" in result.error
    left = app.execute("SELECT count(*) FROM embed_pipeline.pending").fetchone()
    assert left is not None
    assert 0 < left[0] < DOCUMENTS
    provider.lift(rule)
    settle(index)
    assert paid_more_than_once(provider) == {}


@pytest.mark.parametrize(
    "fault", [{"kind": "refuse", "status": 500}, {"kind": "reset"}, {"kind": "zeros"}, {"kind": "null"}], ids=str
)
def test_a_document_at_which_the_server_fails_is_a_dead_letter_and_hurts_no_other(
    app: psycopg.Connection, index: OpenIndex, provider: Provider, monkeypatch: pytest.MonkeyPatch, fault: dict[str, object]
) -> None:
    """In the backfill, and in a dual-write of it with all others."""
    monkeypatch.setattr(sending, "FIRST_WAIT", 0.001)
    provider.clear()
    provider.fail(**fault, holds="poison")  # type: ignore[arg-type]
    report = backfill.fill_partition(index, "v1", "00")
    assert (report.documents, report.rejected) == (DOCUMENTS, 1)
    app.execute("UPDATE articles SET title = title || ' again'")
    settle(index)
    require_consistent(index)
    assert app.execute("SELECT count(*) FROM embed_pipeline.docs__v1 WHERE embedding IS NOT NULL").fetchone() == (DOCUMENTS - 1,)
    letters = app.execute("SELECT doc_id, reason FROM embed_pipeline.dead_letters").fetchall()
    assert [doc_id for doc_id, _ in letters] == ["3"]
    assert "openai took a harmless text, and" in letters[0][1]
    assert paid_more_than_once(provider).keys() <= {text_hash(text) for text in poisons(app)}


def poisons(app: psycopg.Connection) -> list[str]:
    """The bad document's text, now and before it was edited."""
    row = app.execute("SELECT title, body FROM articles WHERE id = 3").fetchone()
    assert row is not None
    return [f"{title}\n\n{row[1]}" for title in (row[0], row[0].removesuffix(" again"))]


def test_a_sampled_verification_pays_for_its_sample_and_no_more(
    app: psycopg.Connection, open_docs: Open, provider: Provider
) -> None:
    """It is counted as `check`, however many documents there are."""
    version = {"provider": "openai", "model_name": MODEL, "dimensions": 16, "base_url": provider.base_url("openai")}
    index = open_docs(versions={"v1": version}, partitions=1, prices={MODEL: {"usd_per_million_tokens": 1000.0}})
    backfill.fill_partition(index, "v1", "00")
    before = provider.summary()["billed"]
    (found,) = sample.sample(index, "v1", 7)
    assert (found.asked, found.compared, found.differing) == (7, 7, {})
    assert provider.summary()["billed"] - before == 7
    assert found.usd == pytest.approx(found.tokens / 1000)
    kinds = dict(app.execute("SELECT kind, tokens FROM embed_pipeline.spending WHERE version = 'v1'").fetchall())
    assert kinds["check"] >= found.tokens > 0
