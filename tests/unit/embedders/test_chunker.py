"""Splitting: every passage is where it says, and nothing of the text is lost."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embed_pipeline.embedders import chunker as module
from embed_pipeline.embedders.checked import VersionEmbedder
from embed_pipeline.embedders.chunker import Chunker
from embed_pipeline.errors import EmbedderError
from embed_pipeline.spec import ChunkerSpec, VersionSpec

# Few letters, so that texts repeat themselves; all kinds of white space; characters of one to four bytes.
TEXTS = st.text(alphabet="ab \n\t\r\u00a0\u2028éß€𝄞", max_size=300) | st.lists(
    st.sampled_from(["to be ", "or not ", "\n\n", "\n", "  ", "x" * 30, "to be or not to be"]), max_size=40
).map("".join)


@st.composite
def chunkers(draw: st.DrawFn) -> ChunkerSpec:
    size = draw(st.integers(1, 60))
    return ChunkerSpec(size=size, overlap=draw(st.integers(0, size - 1)))


@settings(max_examples=150, deadline=None)
@given(TEXTS, chunkers())
def test_nothing_but_white_space_is_outside_all_passages(text: str, spec: ChunkerSpec) -> None:
    passages = Chunker(spec).passages(text)
    inside = {position for start, end in passages for position in range(start, end)}
    assert all(character.isspace() for position, character in enumerate(text) if position not in inside)


@settings(max_examples=150, deadline=None)
@given(TEXTS, chunkers())
def test_passages_are_the_splitters_chunks_in_order_and_overlap_no_more_than_declared(text: str, spec: ChunkerSpec) -> None:
    chunker = Chunker(spec)
    passages = chunker.passages(text)
    chunks = [chunk.strip() for chunk in chunker._splitter.split_text(text)]
    assert [text[start:end] for start, end in passages] == [chunk for chunk in chunks if chunk]
    assert all(0 <= start < end <= len(text) and end - start <= spec.size for start, end in passages)
    assert list(passages) == sorted(passages)
    assert all(one.end - two.start <= spec.overlap for one, two in pairwise(passages))


def test_a_text_that_repeats_itself_is_placed_where_each_chunk_was() -> None:
    """Looking for the chunk from the overlap on would find it too early, and leave the end of the text outside."""
    text = "a b " * 50
    passages = Chunker(ChunkerSpec(size=7, overlap=3)).passages(text)
    assert passages[-1].end == len(text.rstrip())
    assert len({passage.start for passage in passages}) == len(passages)


def test_a_blank_text_has_no_passages() -> None:
    assert Chunker(ChunkerSpec(size=5)).passages(" \n\n \u00a0 \n") == []
    assert Chunker(ChunkerSpec(size=5)).passages("") == []


def test_marks_may_repeat_in_a_long_text(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\n\n".join(f"paragraph {number} of many" for number in range(200))
    spec = ChunkerSpec(size=40, overlap=10)
    expected = Chunker(spec).passages(text)
    monkeypatch.setattr(module, "MARKS", 50)
    assert Chunker(spec).passages(text) == expected


def test_a_splitter_that_changes_the_text_is_refused() -> None:
    class Shouting:
        def split_text(self, text: str) -> list[str]:
            return [text.upper()]

    chunker = Chunker(ChunkerSpec(size=100))
    chunker._splitter = Shouting()
    with pytest.raises(EmbedderError, match="are not where they stand"):
        chunker.passages("quiet")


def test_another_splitting_under_the_same_name_is_another_space(monkeypatch: pytest.MonkeyPatch) -> None:
    def fingerprint(chunker: dict[str, object] | None) -> str:
        declared = {"provider": "tests.harness.fakes:HashEmbedder", "model_name": "m", "dimensions": 8, "chunker": chunker}
        return VersionEmbedder.open(VersionSpec.model_validate(declared)).fingerprint

    chunked, whole = fingerprint({"size": 50}), fingerprint(None)
    split = Chunker.passages
    monkeypatch.setattr(Chunker, "passages", lambda self, text: split(self, text)[1:])
    assert fingerprint({"size": 50}) != chunked
    assert fingerprint(None) == whole


def test_the_splitter_is_imported_by_versions_with_a_chunker_only() -> None:
    code = (
        "import sys; from embed_pipeline.embedders.checked import VersionEmbedder; from embed_pipeline.spec import VersionSpec; "
        "VersionEmbedder.open(VersionSpec(provider='tests.harness.fakes:HashEmbedder', model_name='m', dimensions=8)); "
        "heavy = {each for each in sys.modules if each.startswith('langchain')}; sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
