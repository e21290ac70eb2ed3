"""A canary: some users, always the same ones, are answered by a version that has passed and does not serve; nobody where none has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from embed_pipeline import Searcher
from embed_pipeline.embedders.checked import VersionEmbedder
from embed_pipeline.errors import ConfigurationError
from embed_pipeline.index.canary import place
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import cutover, gate, retire
from tests.harness.articles import at, fill

Open = Callable[..., OpenIndex]
TEXT = "title 7\n\nbody 7"
USERS = range(40)


def sides(searcher: Searcher) -> list[str]:
    return [searcher.search(TEXT, 1, key=user).version for user in USERS]


@pytest.fixture
def index(open_served: Open) -> OpenIndex:
    """v1 serves; v2 is ready and has passed."""
    index = open_served("v1", "v2")
    fill(index, "v2")
    assert gate.run(index, "v2").outcome == "pass"
    return index


def test_who_is_on_the_canary() -> None:
    """By the key alone: no salt of this process, and evenly. Of another version it is others."""
    assert place("a" * 64, "user-1") == pytest.approx(0.6543107576044354, abs=1e-12)
    on = {share: {n for n in range(20_000) if place("a" * 64, n) < share} for share in (0.05, 0.1)}
    assert [len(on[share]) / 20_000 for share in on] == pytest.approx([0.05, 0.1], abs=0.005)
    assert on[0.05] < on[0.1], "a share that grows takes nobody back"
    assert len(on[0.05] & {n for n in range(20_000) if place("b" * 64, n) < 0.05}) < 100


def test_a_share_of_the_users_is_answered_by_what_has_passed(
    index: OpenIndex, app: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    with index.connection() as conn:
        fingerprint = index.version(conn, "v2").fingerprint
    expected = ["v2" if place(fingerprint, user) < 0.4 else "v1" for user in USERS]
    assert set(expected) == {"v1", "v2"}
    with (
        Searcher("docs", index.url, canary=0.4, refresh_seconds=0) as searcher,
        Searcher("docs", index.url, canary=("v2", 0.4)) as other,
    ):
        assert sides(searcher) == sides(other) == expected
        for user in (expected.index("v1"), expected.index("v2")):
            answer, named = searcher.search(TEXT, 5, key=user), searcher.search(TEXT, 5, version=expected[user])
            assert (answer.fingerprint, answer.hits) == (named.fingerprint, named.hits), "in its own space"
            assert answer.hits[0].distance == pytest.approx(0, abs=1e-6)
        assert searcher.search(TEXT, 1).version == "v1", "nobody in particular asks"
        assert searcher.search(TEXT, 1, version="v1", key=expected.index("v2")).version == "v1"
        with Searcher("docs", index.url, canary=("v9", 1.0)) as unknown:
            assert set(sides(unknown)) == {"v1"}
        # Judged again, and not passed.
        app.execute(
            "INSERT INTO embed_pipeline.gate_evidence (index_name, version, fingerprint, baseline_version, baseline_fingerprint, outcome, "
            "sentence, documents, vectors, ef_search, valid_until) SELECT index_name, version, fingerprint, baseline_version, "
            "baseline_fingerprint, 'undecided', '', 0, 0, 1, valid_until FROM embed_pipeline.gate_evidence WHERE version = 'v2'"
        )
        assert set(sides(searcher)) == {"v1"}
        assert sum("answered by a canary" in each.message for each in caplog.records) == 2, "once for each reason"
        assert gate.run(index, "v2").outcome == "pass"
        assert sides(searcher) == expected
        cutover.cutover(index, "v2")
        assert set(sides(searcher)) == {"v2"}
        cutover.rollback(index)
        assert set(sides(searcher)) == {"v1"}, "who was rolled back from is tried on nobody"
    with pytest.raises(ConfigurationError, match="from 0 to 1"):
        Searcher("docs", index.url, canary=5.0)


def test_a_machine_without_the_model_of_the_canary(
    index: OpenIndex, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    open_model = VersionEmbedder.open

    def missing(*given: Any, name: str = "", **more: Any) -> VersionEmbedder:
        if name == "v2":
            raise ConfigurationError("The file v2.onnx does not exist.", next_step="Put it there.")
        return open_model(*given, name=name, **more)

    monkeypatch.setattr(VersionEmbedder, "open", missing)
    with Searcher("docs", index.url, canary=1.0) as searcher:
        assert set(sides(searcher)) == {"v1"}
    assert sum("v2 cannot be asked here" in each.message for each in caplog.records) == 1


def test_the_canary_is_retired_during_a_search(index: OpenIndex) -> None:
    """The user is answered all the same, by what serves."""
    with Searcher("docs", index.url, canary=1.0, refresh_seconds=600) as searcher:
        assert searcher.search(TEXT, 1, key="anybody").version == "v2"
        at("search.sided", lambda: retire.retire(index, "v2", "v2", accept_unseen_reads=True))
        answer = searcher.search(TEXT, 1, key="anybody")
    assert (answer.version, answer.hits[0].doc_id) == ("v1", "7")
