"""The fakes of `tests/harness/fakes.py` are instruments: what other tests read off them is checked here."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embed_pipeline.embedders.checked import VersionEmbedder
from embed_pipeline.errors import EmbedderError
from embed_pipeline.spec import VersionSpec
from tests.harness.fakes import asked_texts

TEXTS = ["the cat sat on the mat", "a cat on a mat", "stocks fell sharply today"]


def opened(name: str, **options: Any) -> VersionEmbedder:
    spec = VersionSpec(provider=f"tests.harness.fakes:{name}", model_name="fake", dimensions=64, options=options)
    return VersionEmbedder.open(spec)


@pytest.mark.parametrize("name", ["HashEmbedder", "WordsEmbedder"])
def test_equal_texts_have_equal_vectors_and_two_salts_are_two_spaces(name: str) -> None:
    one, same, other = (opened(name, salt=salt).embed_documents(TEXTS).vectors for salt in ("a", "a", "b"))
    np.testing.assert_array_equal(one, same)
    assert np.abs((one * other).sum(axis=1)).max() < 0.5
    assert opened(name, salt="a").fingerprint != opened(name, salt="b").fingerprint


def test_common_words_are_near() -> None:
    vectors = opened("WordsEmbedder").embed_documents(TEXTS).vectors
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2


def test_a_model_that_drops_words_finds_less() -> None:
    documents = [f"alpha{n} beta{n} gamma{n} delta{n}" for n in range(200)]
    queries = [f"alpha{n} delta{n}" for n in range(200)]
    found = []
    for drop in (0.0, 0.5, 1.0):
        embedder = opened("WordsEmbedder", drop=drop)
        scores = embedder.embed_queries(queries).vectors @ embedder.embed_documents(documents).vectors.T
        found.append((scores.argmax(axis=1) == np.arange(200)).mean())
    assert found[0] > 0.95
    assert 0.4 < found[1] < 0.9
    assert found[2] < 0.1


def test_it_fails_when_told_to() -> None:
    embedder = opened("HashEmbedder", fail_on="poison", raise_on="outage")
    assert embedder.embed_documents(["fine", "poison here"]).rejected == {1: "told to fail on 'poison'"}
    with pytest.raises(EmbedderError, match="RuntimeError: told to raise on 'outage'"):
        embedder.embed_documents(["fine", "an outage"])


def _ask(calls_file: str, process: int) -> None:
    embedder = opened("HashEmbedder", calls_file=calls_file)
    for n in range(20):
        embedder.embed_documents([f"text {process} {n}", f"more {process} {n}"])


def test_calls_are_counted_across_processes(tmp_path: Path) -> None:
    file = tmp_path / "calls"
    assert asked_texts(file) == []
    context = multiprocessing.get_context("spawn")  # fork is unsafe next to the models' threads
    processes = [context.Process(target=_ask, args=(str(file), n)) for n in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    expected = {f"{word} {p} {n}" for word in ("text", "more") for p in range(2) for n in range(20)}
    assert sorted(asked_texts(file)) == sorted(expected)
