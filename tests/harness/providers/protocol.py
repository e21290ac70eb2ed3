"""What the three protocols have in common: a request understood, a refusal, and what a protocol has to say of each."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from embed_pipeline.embedders.protocol import Vectors
from tests.harness.providers.bill import Standing
from tests.harness.providers.served import Served


@dataclass(frozen=True)
class Asked:
    """A request of an embedding endpoint. `counts`: tokens of each text where they came as token numbers."""

    model: str
    texts: list[str]
    dimensions: int | None = None
    input_type: str | None = None
    encoding: str = "float"
    cut: bool = False
    counts: list[int] | None = None


@dataclass(frozen=True)
class Reply:
    """What goes back: vectors in the order and with the indexes that they are sent with, and the tokens billed."""

    vectors: Vectors
    indexes: list[int]
    tokens: int
    instead: dict[int, Any] = field(default_factory=dict)
    """By row, what stands in the answer where its vector should be."""


@dataclass
class Refusal(Exception):
    """An answer that is no answer. `code` and `kind` are OpenAI's fields of these names; others have words only."""

    status: int
    words: str
    code: str | None = None
    kind: str = "invalid_request_error"
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


class Spoken(Protocol):
    """One provider's protocol: how it understands, answers, and words its refusals."""

    name: str

    def parse(self, body: dict[str, Any]) -> Asked: ...
    def answer(self, asked: Asked, reply: Reply) -> dict[str, Any]: ...
    def body(self, refusal: Refusal) -> dict[str, Any]: ...
    def headers(self, standing: Standing) -> dict[str, str]: ...
    def no_key(self, key: str) -> Refusal: ...
    def no_model(self, name: str, known: Sequence[str]) -> Refusal: ...
    def rate_limited(self, model: Served, standing: Standing, tokens: int) -> Refusal: ...
    def empty_text(self, position: int) -> Refusal | None: ...
    def wrong_dimensions(self, model: Served, dimensions: int) -> Refusal: ...
    def too_many_texts(self, model: Served, texts: int) -> Refusal: ...
    def too_many_tokens(self, model: Served, tokens: int) -> Refusal: ...
    def too_long(self, model: Served, position: int, tokens: int) -> Refusal: ...
    def refused_content(self, position: int) -> Refusal: ...
    def no_money(self) -> Refusal: ...
    def told(self, status: int, words: str, code: str | None) -> Refusal: ...


def encoded(reply: Reply, encoding: str) -> list[Any]:
    """The vectors as JSON carries them: numbers, or little-endian float32 in base64."""
    listed: list[Any] = reply.vectors.tolist()
    if encoding == "base64":
        listed = [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in reply.vectors]
    return [reply.instead.get(n, row) for n, row in enumerate(listed)]


def text_list(value: Any) -> list[str] | None:
    """A list of texts, or None when it is none."""
    good = isinstance(value, list) and value and all(isinstance(text, str) for text in value)
    return list(value) if good else None


def checked(spoken: Spoken, model: Served, asked: Asked) -> tuple[list[str], list[int], int]:
    """The texts as they are embedded, the tokens billed for each, and the dimensions; Refusal when the provider would refuse."""
    dimensions = asked.dimensions or model.native
    # A model of one length refuses the field itself, whatever number stands in it.
    if asked.dimensions is not None and not (model.dimensions and model.takes(dimensions)):
        raise spoken.wrong_dimensions(model, dimensions)
    if len(asked.texts) > model.request_texts:
        raise spoken.too_many_texts(model, len(asked.texts))
    texts, counts = list(asked.texts), list(asked.counts or map(model.tokens, asked.texts))
    for position, text in enumerate(texts):
        if text == "" and (refusal := spoken.empty_text(position)) is not None:
            raise refusal
        if counts[position] > model.max_tokens:
            if not asked.cut:
                raise spoken.too_long(model, position, counts[position])
            texts[position] = model.cut(text)
            counts[position] = model.tokens(texts[position])
    if model.request_tokens is not None and sum(counts) > model.request_tokens:
        raise spoken.too_many_tokens(model, sum(counts))
    return texts, counts, dimensions
