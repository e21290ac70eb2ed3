"""A sentence-embedding model in ONNX form, run on this machine's CPU by onnxruntime.

The text is tokenised with a `tokenizer.json` (Hugging Face tokenizers), the model gives one vector for each token, and
pooling makes one vector of them: `mean` over the tokens that are no padding, or `cls`, the first token's (Reimers and
Gurevych, Sentence-BERT, 2019, section 3). The two libraries are imported when an embedder is opened, not before.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embed_pipeline.embedders.packaged import resolve, sha256_of, verify
from embed_pipeline.embedders.protocol import Embedded, Role, Vectors
from embed_pipeline.embedders.tokens import not_a_text, open_tokenizer
from embed_pipeline.errors import ConfigurationError, EmbedderError
from embed_pipeline.extras import needed_for
from embed_pipeline.spec import VersionSpec

if TYPE_CHECKING:
    from tokenizers import Encoding

THREADS_VARIABLE = "EMBED_PIPELINE_ONNX_THREADS"

# Attention needs memory in proportion to texts * tokens^2: this bound on texts * tokens of one run lets a model of
# 8,192 tokens take one long text at a time. Small runs are also the faster ones: they stay in the processor's cache and
# are padded less (219 docstrings on 2 cores, MiniLM-L6 int8: 2.2 s with 1,024, 2.4 s with 2,048, 4.4 s with 4,096).
TOKENS_PER_RUN = 1024

# An export above protobuf's 2 GB limit keeps its weights beside the model, under one of these two customary names.
WEIGHTS_SUFFIXES = (".data", "_data")

Tokens = NDArray[np.int64]


def identity_of_files(spec: VersionSpec) -> dict[str, str]:
    """sha256 of the declared `model` file, of the `tokenizer` and, where there is one, of the `weights` file.

    ConfigurationError for a file that is missing or is not the declared one.
    """
    assert spec.model_path is not None
    assert spec.tokenizer_path is not None
    model = resolve(spec.model_path)
    found = {
        "model": verify(model, spec.model_sha256),
        "tokenizer": verify(resolve(spec.tokenizer_path), spec.tokenizer_sha256),
    }
    for suffix in WEIGHTS_SUFFIXES:
        weights = model.with_name(model.name + suffix)
        if weights.is_file():
            found["weights"] = sha256_of(weights)
    return found


class OnnxEmbedder:
    """The embedder of `provider: onnx`. One session serves all threads: onnxruntime's `run` is safe to call at once.

    Opening it embeds one word, so that a wrong output, dimension or tokenizer is met before the first document is.
    Raises ConfigurationError for a file that is missing, is not the declared one or is no model or tokenizer.
    """

    def __init__(self, spec: VersionSpec) -> None:
        if spec.model_path is None or spec.tokenizer_path is None or spec.max_tokens is None:
            raise ConfigurationError("Provider onnx needs model_path, tokenizer_path and max_tokens.")
        self._spec = spec
        self._max_tokens = spec.max_tokens
        model, tokenizer = resolve(spec.model_path), resolve(spec.tokenizer_path)
        self._identity = identity_of_files(spec)
        # Two tokenizers, because truncation is a setting of the object and threads share it.
        self._tokenizer = open_tokenizer(str(tokenizer))
        self._cutter = open_tokenizer(str(tokenizer))
        self._cutter.enable_truncation(max_length=spec.max_tokens)
        self._session: Any = _open_session(model)
        self._inputs = {entry.name for entry in self._session.get_inputs()}
        self._output = self._choose_output(model)
        self._probe(model)

    def embed(self, texts: Sequence[str], role: Role) -> Embedded:
        """Vectors of shape (len(texts), dimensions), not normalised; prefixes are the caller's, `role` is unused.

        Rejected: an empty text, one without any token, and with `too_long: reject` one of more than max_tokens tokens,
        special tokens counted. Raises EmbedderError when the model itself fails, or after `close`.
        """
        rejected = {n: reason for n, text in enumerate(texts) if (reason := not_a_text(text)) is not None}
        asked = [n for n in range(len(texts)) if n not in rejected]
        encoded: dict[int, Encoding] = {}
        truncated: set[int] = set()
        for position, encoding in zip(asked, self._tokenizer.encode_batch([texts[n] for n in asked]), strict=True):
            length = len(encoding.ids)
            if sum(encoding.special_tokens_mask) == length:
                rejected[position] = "empty text: the tokenizer finds no token in it"
            elif length <= self._max_tokens:
                encoded[position] = encoding
            elif self._spec.too_long == "truncate":
                encoded[position] = self._cutter.encode(texts[position])
                truncated.add(position)
            else:
                rejected[position] = f"{length} tokens, the limit is {self._max_tokens}"
        vectors = np.zeros((len(texts), self._spec.dimensions), dtype=np.float32)
        for positions in _runs({n: len(e.ids) for n, e in encoded.items()}):
            vectors[positions] = self._run([encoded[n].ids for n in positions])
        return Embedded(vectors, rejected, frozenset(truncated))

    def identity(self) -> Mapping[str, str]:
        """sha256 of the `model` file, of the `tokenizer` and, where there is one, of the `weights` file."""
        return dict(self._identity)

    def close(self) -> None:
        """Let the model go. A call of `embed` that is under way in another thread finishes first."""
        self._session = None

    def _run(self, batch: Sequence[Sequence[int]]) -> Vectors:
        session = self._session
        if session is None:
            raise EmbedderError(f"The embedder {self._spec.model_name} is closed.")
        width = max(map(len, batch))
        ids = np.zeros((len(batch), width), dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, tokens in enumerate(batch):
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        try:
            (states,) = session.run([self._output], self._feed(ids, mask))
        except Exception as exc:  # onnxruntime's exceptions share no other base
            raise EmbedderError(f"The model {self._spec.model_name} failed: {_first_line(exc)}") from exc
        return self._pool(states, mask)

    def _feed(self, ids: Tokens, mask: Tokens) -> dict[str, Tokens]:
        # token_type_ids number the sentences of a pair; one text is sentence 0 throughout.
        known = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        return {name: value for name, value in known.items() if name in self._inputs}

    def _pool(self, states: Any, mask: Tokens) -> Vectors:
        expected = (*mask.shape, self._spec.dimensions)
        if states.shape != expected:
            raise EmbedderError(
                f"The model {self._spec.model_name} gave an array of shape {states.shape} as output {self._output}; "
                f"one vector of {self._spec.dimensions} dimensions for each token has shape {expected}."
            )
        vectors = np.asarray(states, dtype=np.float32)
        if self._spec.pooling == "cls":
            return vectors[:, 0, :]
        weights = mask[:, :, np.newaxis].astype(np.float32)
        mean: Vectors = (vectors * weights).sum(axis=1) / weights.sum(axis=1)
        return mean

    def _choose_output(self, model: Path) -> str:
        names = [entry.name for entry in self._session.get_outputs()]
        wanted = self._spec.output
        if wanted is not None and wanted not in names:
            raise ConfigurationError(
                f"The model {model} has no output {wanted!r}; it has {', '.join(names)}.",
                next_step="Correct `output` in the version's declaration.",
            )
        unknown = self._inputs - {"input_ids", "attention_mask", "token_type_ids"}
        if unknown or "input_ids" not in self._inputs:
            raise ConfigurationError(
                f"The model {model} takes {', '.join(sorted(self._inputs))}; this embedder can give input_ids, "
                "attention_mask and token_type_ids.",
                next_step="Export the model as a plain text encoder, or write an embedder of your own for it.",
            )
        return wanted if wanted is not None else str(names[0])

    def _probe(self, model: Path) -> None:
        try:
            self._run([self._cutter.encode("probe").ids])
        except EmbedderError as exc:
            raise ConfigurationError(
                f"The model {model} cannot embed as declared. {exc.message}",
                next_step="Correct `output`, `dimensions` or `tokenizer_path` in the version's declaration.",
            ) from exc


def _runs(lengths: Mapping[int, int]) -> Iterator[list[int]]:
    """The positions in groups of similar length, shortest first: padding costs as much as text does."""
    group: list[int] = []
    for position in sorted(lengths, key=lambda n: (lengths[n], n)):
        # In ascending order the newcomer is the longest, so it sets the width of the whole group.
        if group and (len(group) + 1) * lengths[position] > TOKENS_PER_RUN:
            yield group
            group = []
        group.append(position)
    if group:
        yield group


def _open_session(path: Path) -> Any:
    with needed_for("Provider onnx"):
        import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _threads()
    options.log_severity_level = 3  # errors; its warnings are about graph optimisation
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # onnxruntime's exceptions share no other base
        raise ConfigurationError(
            f"The file {path} is no model that onnxruntime can open: {_first_line(exc)}",
            next_step="Point model_path at the model's .onnx file.",
        ) from exc


def _threads() -> int:
    value = os.environ.get(THREADS_VARIABLE, "").strip()
    if not value:
        return os.cpu_count() or 1
    if not value.isdecimal() or int(value) < 1:
        raise ConfigurationError(f"{THREADS_VARIABLE} must be a number of threads from 1 up, not {value!r}.")
    return int(value)


def _first_line(exc: Exception) -> str:
    lines = str(exc).strip().splitlines()
    return lines[0] if lines else type(exc).__name__
