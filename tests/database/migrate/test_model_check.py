"""A model that changes behind its name: found by asking again, and kept out of what was made with the old one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from embed_pipeline.catalog import model_samples
from embed_pipeline.catalog.model_samples import Sample
from embed_pipeline.errors import CutoverRefused, EmbedderError, ModelChanged
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import backfill, cutover, dual_write, gate, model_check
from embed_pipeline.migrate.model_sample import TEXTS
from tests.harness.articles import DOCUMENTS, at, change, fill, serve, settle, stored
from tests.harness.fakes import asked_texts

Open = Callable[..., OpenIndex]


@pytest.fixture(autouse=True)
def fakes_are_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What these fakes stand for: a model that somebody else runs."""
    monkeypatch.setattr(model_check, "_asks_provider", lambda version: True)


@pytest.fixture
def turned(tmp_path: Path) -> Path:
    """While this file exists the model of v1 is another one."""
    return tmp_path / "turned"


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    return tmp_path / "calls"


@pytest.fixture
def index(open_docs: Open, turned: Path, calls: Path) -> OpenIndex:
    options = {"turned": str(turned), "calls_file": str(calls)}
    version = {"provider": "tests.harness.fakes:HashEmbedder", "model_name": "m", "dimensions": 16, "options": options}
    return open_docs(versions={"v1": version})


def outcome(index: OpenIndex) -> str:
    (found,) = model_check.check(index)
    return found.outcome


def kept(index: OpenIndex) -> Sample:
    with index.connection() as conn:
        found = model_samples.read(conn, "docs", "v1")
    assert found is not None
    return found


def events(app: psycopg.Connection) -> list[tuple[Any, ...]]:
    return app.execute(
        "SELECT event, from_state, to_state, reason FROM embed_pipeline.audit_events WHERE event LIKE 'model%' ORDER BY id"
    ).fetchall()


@pytest.mark.parametrize("way", ["backfill", "dual-write"])
def test_the_sample_is_taken_once_before_the_first_document(
    index: OpenIndex, app: psycopg.Connection, calls: Path, way: str
) -> None:
    change(app, 1, "changed")
    for _ in range(2):
        if way == "backfill":
            backfill.fill_partition(index, "v1", "00")
        else:
            change(app, 1, "changed again")
            assert not dual_write.sync(index)[0].error
    asked = asked_texts(calls)
    ours = [" ".join(text.split()) for text in TEXTS]
    assert asked[: len(TEXTS)] == ours
    assert not set(asked[len(TEXTS) :]) & set(ours)
    sample = kept(index)
    assert (sample.texts, sample.late, sample.changed_at) == (TEXTS, False, None)
    assert events(app) == [("model_sample", None, None, "")]


def test_a_changed_model_embeds_nothing_more_until_it_is_the_old_one_again(
    index: OpenIndex, app: psycopg.Connection, turned: Path, calls: Path
) -> None:
    backfill.fill_partition(index, "v1", "00")
    assert outcome(index) == "same"
    turned.touch()
    agreed = kept(index).agreed_at
    assert outcome(index) == "changed"
    assert outcome(index) == "changed"
    assert kept(index).agreed_at == agreed, "what was embedded after that may be of the new model"

    asked = len(asked_texts(calls))
    with pytest.raises(ModelChanged, match="has changed m: .*last agreed at .* check-model docs v1 --accept"):
        backfill.fill_partition(index, "v1", "01")
    change(app, 1, "changed")
    app.execute("DELETE FROM articles WHERE id = 2")
    (synced,) = dual_write.sync(index)
    assert "would mix two spaces" in synced.error
    assert len(asked_texts(calls)) == asked, "nothing may be paid for that cannot be stored"
    assert "2" not in stored(app, "v1"), "a deleted document is not found again, whatever its model does"

    turned.unlink()
    assert outcome(index) == "same"
    backfill.fill_partition(index, "v1", "01")
    assert not dual_write.sync(index)[0].error
    checks = [event for event in events(app) if event[0] == "model_check"]
    assert checks == [("model_check", "same", "changed", ""), ("model_check", "changed", "same", "")], "changes, not every look"


def test_a_running_backfill_stops_when_the_check_goes_red(open_docs: Open, app: psycopg.Connection, turned: Path) -> None:
    """As by the check of another process. What was embedded before it is kept."""
    options = {"turned": str(turned)}
    version = {
        "provider": "tests.harness.fakes:HashEmbedder",
        "model_name": "m",
        "dimensions": 16,
        "batch_size": 5,
        "options": options,
    }
    index = open_docs(versions={"v1": version}, partitions=1, backfill={"write_batch": 5})

    def turn() -> None:
        turned.touch()
        model_check.check(index)

    at("backfill.embedded", turn)
    with pytest.raises(ModelChanged):
        backfill.fill_partition(index, "v1", "00")
    assert 0 < len(stored(app, "v1")) < DOCUMENTS


def test_no_cutover_to_a_version_whose_model_has_changed(index: OpenIndex, turned: Path) -> None:
    fill(index, "v1")
    gate.run(index, "v1")
    turned.touch()
    assert outcome(index) == "changed"
    with pytest.raises(CutoverRefused, match="The provider has changed m"):
        cutover.cutover(index, "v1")
    turned.unlink()
    assert outcome(index) == "same"
    assert cutover.cutover(index, "v1").version == "v1"


def test_a_rollback_to_it_is_refused_only_by_what_it_would_have_to_embed(
    open_docs: Open, app: psycopg.Connection, turned: Path
) -> None:
    versions = {
        name: {"provider": "tests.harness.fakes:HashEmbedder", "model_name": name, "dimensions": 16, "options": options}
        for name, options in (("v1", {"turned": str(turned)}), ("v2", {}))
    }
    index = open_docs(versions=versions)
    serve(index, "v1")
    serve(index, "v2")
    turned.touch()
    assert [each.outcome for each in model_check.check(index)] == ["changed", "same"]
    assert cutover.rollback(index).version == "v1"
    assert gate.run(index, "v2").outcome == "pass"
    cutover.cutover(index, "v2")
    change(app, 1, "changed")
    with pytest.raises(CutoverRefused, match=r"1 documents of v1 .*The provider has changed v1.* They are: 1 .*--accept-stale 1"):
        cutover.rollback(index)
    assert cutover.rollback(index, accept_stale=1).stale == ("1",)


def test_a_person_may_accept_what_the_model_is_now(index: OpenIndex, app: psycopg.Connection, turned: Path) -> None:
    fill(index, "v1")
    turned.touch()
    assert outcome(index) == "changed"
    assert model_check.accept(index, "v1", "the provider says so").late
    assert outcome(index) == "same"
    change(app, 1, "changed")
    settle(index)
    assert ("model_accepted", None, None, "the provider says so") in events(app)


def test_a_sample_that_came_after_documents_says_so(open_docs: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that is older than the check."""
    index = open_docs("v1")
    with monkeypatch.context() as before:
        before.setattr(model_check, "_asks_provider", lambda version: False)
        fill(index, "v1")
        assert model_check.check(index) == []
    (found,) = model_check.check(index)
    assert (found.outcome, found.late) == ("taken", True)
    assert "of those it proves nothing" in found.sentence


def test_a_provider_that_fails_is_unknown_and_stops_nothing_else(open_docs: Open, tmp_path: Path) -> None:
    down = tmp_path / "down"
    versions = {
        name: {"provider": "tests.harness.fakes:HashEmbedder", "model_name": name, "dimensions": 16, "options": options}
        for name, options in (("v1", {"raise_while": str(down)}), ("v2", {}))
    }
    index = open_docs(versions=versions)
    down.touch()
    first, second = model_check.check(index)
    assert (first.outcome, second.outcome) == ("unknown", "taken")
    assert "the provider is down" in first.sentence
    with pytest.raises(EmbedderError, match="the provider is down"):
        backfill.fill_partition(index, "v1", "00")


def test_a_check_of_a_sample_that_was_replaced_meanwhile_changes_nothing(index: OpenIndex, turned: Path) -> None:
    model_check.check(index)
    turned.touch()
    old = kept(index)
    model_check.accept(index, "v1", "")
    with index.connection() as conn:
        assert model_samples.note_check(conn, "docs", "v1", old, 0.1, same=False) is None
        assert model_samples.is_changed(conn, "docs", "v1") is False


def test_every_text_of_the_sample_is_its_own() -> None:
    assert len(set(TEXTS)) == 16
    assert max(len(text.encode()) for text in TEXTS) < 120
