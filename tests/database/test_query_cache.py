"""The cache of query vectors over a cutover: a question is paid for once, and never answered with another version's vector."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from embed_pipeline import Searcher
from embed_pipeline.embedders.checked import VersionEmbedder
from embed_pipeline.embedders.protocol import Vectors
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import cutover, gate
from tests.harness.articles import fill

Open = Callable[..., OpenIndex]
TEXT = "title 7\n\nbody 7"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(fingerprint, text) of every query that was embedded."""
    calls: list[tuple[str, str]] = []
    embed = VersionEmbedder.embed_query

    def counted(self: VersionEmbedder, text: str) -> Vectors:
        calls.append((self.fingerprint, text))
        return embed(self, text)

    monkeypatch.setattr(VersionEmbedder, "embed_query", counted)
    return calls


def test_no_vector_of_the_version_before_is_served_after_a_cutover(open_served: Open, asked: list[tuple[str, str]]) -> None:
    index = open_served("v1", "v2")
    fill(index, "v2")
    gate.run(index, "v2")
    with Searcher("docs", index.url, refresh_seconds=0, query_cache=10) as searcher:
        for version in ("v1", "v2"):
            if version == "v2":
                cutover.cutover(index, "v2")
            for _ in range(3):
                answer = searcher.search(TEXT, 1)
                assert (answer.version, answer.hits[0].doc_id) == (version, "7")
                assert answer.hits[0].distance == pytest.approx(0, abs=1e-6)
            assert searcher.search_vector(searcher.embed(TEXT), 1).hits[0].doc_id == "7"
        assert len(asked) == len(set(asked)) == 2, "once for each version"
        # Whoever writes into what they were given changes nobody's answer.
        with pytest.raises(ValueError, match="read-only"):
            searcher.embed(TEXT).values[:] = 0
    with Searcher("docs", index.url) as searcher:
        searcher.search(TEXT, 1)
        searcher.search(TEXT, 1)
    assert len(asked) == 4, "off unless it is asked for"
