from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from embed_pipeline.embedders.checked import VersionEmbedder
from embed_pipeline.embedders.protocol import Embedded, Role
from embed_pipeline.embedders.providers.onnx import OnnxEmbedder
from embed_pipeline.errors import DatabaseUnavailable, EmbedderError, EmbedPipelineError, WrongAnswer
from embed_pipeline.spec import HnswSpec, VersionSpec
from tests.harness.real_models import Models

Answer = Callable[[Sequence[str]], Any]


class Scripted:
    """An embedder that answers what the test says, and remembers what it was asked."""

    def __init__(self, answer: Answer, identity: Mapping[str, str] | None = None) -> None:
        self.answer = answer
        self.asked: list[tuple[Role, list[str]]] = []
        self.closed = False
        self._identity = identity or {}

    def embed(self, texts: Sequence[str], role: Role) -> Embedded:
        self.asked.append((role, list(texts)))
        answer = self.answer(texts)
        return answer if isinstance(answer, Embedded) else Embedded(np.asarray(answer))

    def identity(self) -> Mapping[str, str]:
        return self._identity

    def close(self) -> None:
        self.closed = True


def spec(**changed: Any) -> VersionSpec:
    return VersionSpec(**{"provider": "my.module:Own", "model_name": "mine", "dimensions": 3, **changed})


def lengths(texts: Sequence[str]) -> list[list[float]]:
    return [[len(text), 0, 0] for text in texts]


def checked(answer: Answer, **changed: Any) -> VersionEmbedder:
    return VersionEmbedder(Scripted(answer), spec(**changed), name="v2")


def test_each_role_gets_its_prefix() -> None:
    inner = Scripted(lengths)
    embedder = VersionEmbedder(inner, spec(document_prefix="passage: ", query_prefix="query: "))
    embedder.embed_documents(["a"])
    embedder.embed_query("b")
    assert inner.asked == [("document", ["passage: a"]), ("query", ["query: b"])]


def test_slices_hold_batch_size_texts_and_positions_are_those_of_the_whole() -> None:
    def answer(texts: Sequence[str]) -> Embedded:
        rejected = {n: f"no {text}" for n, text in enumerate(texts) if "bad" in text}
        cut = frozenset(n for n, text in enumerate(texts) if "long" in text)
        return Embedded(np.asarray(lengths(texts), dtype=np.float32), rejected, cut)

    inner = Scripted(answer)
    embedder = VersionEmbedder(inner, spec(batch_size=2, too_long="truncate", normalize=False))
    got = embedder.embed_documents(["a", " ", "bad1", "four", "long1", "bad22"])
    assert [texts for _, texts in inner.asked] == [["a", "bad1"], ["four", "long1"], ["bad22"]]
    assert got.rejected == {1: "empty text", 2: "no bad1", 5: "no bad22"}
    assert got.truncated == {4}
    assert got.vectors[:, 0].tolist() == [1, 0, 0, 4, 5, 0]


def test_a_blank_text_is_rejected_unasked_whatever_the_prefix() -> None:
    inner = Scripted(lengths)
    embedder = VersionEmbedder(inner, spec(document_prefix="passage: "))
    assert embedder.embed_documents(["", "\n "]).rejected == {0: "empty text", 1: "empty text"}
    assert inner.asked == []


def test_vectors_are_float32_and_normalised_when_the_version_says_so() -> None:
    rows = [[3.0, 4.0, 0.0]]
    normalised = checked(lambda _: np.asarray(rows, dtype=np.float64)).embed_documents(["a"]).vectors
    assert normalised.dtype == np.float32
    np.testing.assert_allclose(normalised, [[0.6, 0.8, 0]], atol=1e-7)
    assert checked(lambda _: rows, normalize=False).embed_documents(["a"]).vectors.tolist() == rows


def test_very_small_and_large_numbers_still_normalise() -> None:
    embedder = checked(lambda _: [[1e-30, 0, 0], [1e30, 1e30, 0]])
    vectors = embedder.embed_documents(["a", "b"]).vectors
    np.testing.assert_allclose(vectors, [[1, 0, 0], [0.5**0.5, 0.5**0.5, 0]], atol=1e-6)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ([[1, 2, 3]], "answered 2 texts with 1 vectors"),
        ([[1, 2, 3]] * 3, "answered 2 texts with 3 vectors"),
        ([[1, 2]] * 2, "answered 2 texts with vectors of 2 dimensions, not the declared 3"),
        ([1, 2, 3], r"array of shape \(3,\), not one row for each text"),
        (np.ones((2, 1, 3)), r"array of shape \(2, 1, 3\)"),
        ([[1, 2, 3], [1, np.nan, 3]], r"1 vectors that hold no finite numbers \(NaN or infinity\): position 1 of"),
        ([[np.inf, 2, 3], [1, 2, 3]], "no finite numbers.*position 0 of"),
        ([[1e300, 2, 3], [1, 2, 3]], "no finite numbers.*position 0 of"),
        ([[0, 0, 0], [0, 0, 0]], "2 vectors that hold zeros alone: position 0, 1 of"),
        ([["a", "b", "c"]] * 2, "not one row of numbers for each text"),
        (Embedded(np.ones((2, 3), dtype=np.float32), {2: "no"}), "a word on position 2, which was not asked"),
        (Embedded(np.ones((2, 3), dtype=np.float32), {}, frozenset({-1})), "position -1, which was not asked"),
    ],
)
@pytest.mark.parametrize("normalize", [True, False])
def test_a_wrong_answer_is_refused_in_a_sentence_that_names_version_and_model(answer: Any, said: str, normalize: bool) -> None:
    with pytest.raises(WrongAnswer, match=said) as caught:
        checked(lambda _: answer, normalize=normalize).embed_documents(["a", "b"])
    assert "version v2 (my.module:Own, model mine)" in str(caught.value)
    assert "Nothing of this answer was stored" in str(caught.value)


def test_many_bad_rows_are_counted_and_not_all_listed() -> None:
    with pytest.raises(WrongAnswer, match=r"8 vectors that hold zeros alone: position 0, 1, 2, 3, 4 and 3 more"):
        checked(lambda texts: np.zeros((len(texts), 3))).embed_documents(["a"] * 8)


def test_a_rejected_row_may_hold_anything_and_becomes_zeros() -> None:
    rows = np.array([[np.nan, 1, 1], [1, 0, 0], [0, 0, 0]], dtype=np.float32)
    got = checked(lambda _: Embedded(rows, {0: "no", 2: "never"})).embed_documents(["a", "b", "c"])
    assert got.vectors.tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert got.rejected == {0: "no", 2: "never"}


def test_a_cut_text_is_rejected_unless_the_version_allows_cutting() -> None:
    cut = Embedded(np.ones((1, 3), dtype=np.float32), {}, frozenset({0}))
    for allowed in ({}, {"too_long": "chunk", "max_tokens": 100}):
        refused = checked(lambda _: cut, **allowed).embed_documents(["a"])
        assert refused.rejected == {0: "over the token limit: the embedder cut it"}
        assert not refused.truncated
        assert not refused.vectors.any()
    assert checked(lambda _: cut, too_long="truncate").embed_documents(["a"]).truncated == {0}


def test_a_number_too_large_for_halfvec_is_refused_before_the_database_does() -> None:
    rows = [[70_000.0, 0, 0]]
    with pytest.raises(WrongAnswer, match="a number above 65504, too large for halfvec"):
        checked(lambda _: rows, normalize=False, precision="halfvec").embed_documents(["a"])
    assert checked(lambda _: rows, precision="halfvec").embed_documents(["a"]).vectors.tolist() == [[1, 0, 0]]
    assert checked(lambda _: rows, normalize=False).embed_documents(["a"]).vectors.tolist() == rows


def test_a_foreign_exception_becomes_an_embedder_error_and_hides_secrets() -> None:
    def fail(_: Sequence[str]) -> Any:
        raise ConnectionError("no route with hunter2")

    said = r"version v2 \(my.module:Own, model mine\) failed: ConnectionError: no route with \*\*\*"
    with pytest.raises(EmbedderError, match=said) as caught:
        checked(fail, options={"api_key": "hunter2"}).embed_documents(["a"])
    assert isinstance(caught.value.__cause__, ConnectionError)


def test_an_error_of_this_package_passes_as_it_is() -> None:
    error = DatabaseUnavailable("away")

    def fail(_: Sequence[str]) -> Any:
        raise error

    with pytest.raises(DatabaseUnavailable) as caught:
        checked(fail).embed_documents(["a"])
    assert caught.value is error


def test_a_query_without_a_vector_is_an_error_with_the_reason() -> None:
    with pytest.raises(EmbedPipelineError, match=r"The query has no vector in version v2 \(.*\): empty text\."):
        checked(lengths).embed_query(" ")
    assert checked(lengths).embed_query("abc").tolist() == [1, 0, 0]


def test_the_model_version_is_declared_or_the_hash_or_one() -> None:
    hashed = Scripted(lengths, {"model": "0123456789abcdef" * 4})
    assert VersionEmbedder(hashed, spec(model_version="2026-01")).model_version == "2026-01"
    assert VersionEmbedder(hashed, spec()).model_version == "0123456789ab"
    assert VersionEmbedder(Scripted(lengths), spec()).model_version == "1"


def test_close_reaches_the_embedder() -> None:
    inner = Scripted(lengths)
    VersionEmbedder(inner, spec()).close()
    assert inner.closed


@pytest.mark.parametrize(
    "changed",
    [
        {"query_prefix": "query: "},
        {"document_prefix": "passage: "},
        {"pooling": "cls"},
        {"normalize": False},
        {"precision": "halfvec"},
        {"distance": "l2"},
        {"max_tokens": 64},
        {"too_long": "truncate"},
        {"model_name": "another"},
    ],
)
def test_the_fingerprint_changes_with_what_decides_a_vector(models: Models, small: OnnxEmbedder, changed: dict[str, Any]) -> None:
    # The declaration makes the difference; the model's files, which are slow to open, stay.
    base = VersionEmbedder(small, models.small()).fingerprint
    assert VersionEmbedder(small, models.small(**changed)).fingerprint != base


def test_the_fingerprint_changes_with_the_model_file_alone(models: Models, small: OnnxEmbedder, large: OnnxEmbedder) -> None:
    declared = models.small()
    assert VersionEmbedder(small, declared).fingerprint != VersionEmbedder(large, declared).fingerprint


@pytest.mark.parametrize(
    "changed", [{"batch_size": 7}, {"hnsw": HnswSpec(m=32)}, {"tokenizer_path": "/elsewhere/tokenizer.json"}]
)
def test_the_fingerprint_does_not_change_with_speed_index_or_place(
    models: Models, small: OnnxEmbedder, changed: dict[str, Any]
) -> None:
    base = VersionEmbedder(small, models.small()).fingerprint
    assert VersionEmbedder(small, models.small(**changed)).fingerprint == base


def test_a_real_model_end_to_end(models: Models) -> None:
    embedder = VersionEmbedder.open(models.large(too_long="truncate", batch_size=2), name="v2")
    got = embedder.embed_documents(["Read a file.", "", "Cook some rice.", "word " * 400])
    assert list(got.rejected) == [1]
    assert got.truncated == {3}
    np.testing.assert_allclose(np.linalg.norm(got.vectors, axis=1), [1, 0, 1, 1], atol=1e-6)
    assert np.argmax(got.vectors @ embedder.embed_query("How do I load text from disk?")) == 0
    embedder.close()
