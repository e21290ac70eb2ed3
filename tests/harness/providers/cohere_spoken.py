"""Cohere's protocol: POST /v2/embed. Shapes as its SDK's types have them; it sends no Retry-After."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from tests.harness.providers.bill import Standing
from tests.harness.providers.protocol import Asked, Refusal, Reply, encoded, text_list
from tests.harness.providers.served import Served

INPUT_TYPES = ("search_document", "search_query", "classification", "clustering", "image")


class Cohere:
    name = "cohere"

    def parse(self, body: dict[str, Any]) -> Asked:
        texts, model = text_list(body.get("texts")), body.get("model")
        if not isinstance(model, str) or not model:
            raise Refusal(400, "invalid request: model is required")
        if texts is None:
            raise Refusal(400, "invalid request: one of texts, images or inputs must be provided")
        input_type = body.get("input_type")
        if input_type not in INPUT_TYPES:
            raise Refusal(400, f"invalid request: input_type must be one of {', '.join(INPUT_TYPES)}, not {input_type!r}")
        types = body.get("embedding_types") or ["float"]
        if any(kind not in ("float", "base64") for kind in types):
            raise Refusal(400, f"invalid request: embedding_types {types} are not served here")
        cut = body.get("truncate") or "END"
        if cut not in ("NONE", "START", "END"):
            raise Refusal(400, f"invalid request: truncate must be NONE, START or END, not {cut!r}")
        return Asked(model, texts, body.get("output_dimension"), input_type, "+".join(types), cut != "NONE")

    def answer(self, asked: Asked, reply: Reply) -> dict[str, Any]:
        billed: dict[str, Any] = {"billed_units": {"input_tokens": reply.tokens}, "api_version": {"version": "2"}}
        return {
            "id": str(uuid.uuid4()),
            "embeddings": {kind: encoded(reply, kind) for kind in asked.encoding.split("+")},
            "texts": asked.texts,
            "response_type": "embeddings_by_type",
            "meta": billed,
        }

    def body(self, refusal: Refusal) -> dict[str, Any]:
        return {"id": str(uuid.uuid4()), "message": refusal.words}

    def headers(self, standing: Standing) -> dict[str, str]:
        limit = standing.limit
        if not limit.headers or limit.requests_per_minute is None:
            return {}
        return {
            "x-endpoint-monthly-call-limit": "1000000",
            "x-trial-endpoint-call-limit": str(limit.requests_per_minute),
            "x-trial-endpoint-call-remaining": str(max(0, limit.requests_per_minute - standing.requests)),
        }

    def no_key(self, key: str) -> Refusal:
        return Refusal(401, "invalid api token" if key else "no api key supplied")

    def no_model(self, name: str, known: Sequence[str]) -> Refusal:
        return Refusal(
            404, f"model '{name}' not found, make sure the correct model ID was used and that you have access to the model."
        )

    def rate_limited(self, model: Served, standing: Standing, tokens: int) -> Refusal:
        if standing.exceeded == "tokens":
            words = f"token rate limit exceeded, limit is {standing.limit.tokens_per_minute} tokens per minute"
        else:
            words = f"You are limited to {standing.limit.requests_per_minute} API calls / minute."
        return Refusal(429, words, headers=self.headers(standing))

    def empty_text(self, position: int) -> Refusal | None:
        return Refusal(400, f"invalid request: texts[{position}] must not be empty")

    def wrong_dimensions(self, model: Served, dimensions: int) -> Refusal:
        if not model.dimensions:
            return Refusal(400, f"invalid request: output_dimension is not supported for model {model.name}")
        allowed = ", ".join(map(str, sorted({*model.dimensions, model.native})))  # type: ignore[list-item]
        return Refusal(400, f"invalid request: output_dimension must be one of {allowed}, not {dimensions}")

    def too_many_texts(self, model: Served, texts: int) -> Refusal:
        return Refusal(400, f"invalid request: total number of texts must be at most {model.request_texts} - received {texts}")

    def too_many_tokens(self, model: Served, tokens: int) -> Refusal:
        words = f"too many tokens: total number of tokens in the request cannot exceed {model.request_tokens} - received {tokens}"
        return Refusal(400, words)

    def too_long(self, model: Served, position: int, tokens: int) -> Refusal:
        words = (
            f"too many tokens: total number of tokens in the input cannot exceed {model.max_tokens} - received {tokens}. "
            "Try using a shorter input, or enable prompt truncating."
        )
        return Refusal(400, words)

    def refused_content(self, position: int) -> Refusal:
        return Refusal(400, "invalid request: the content of a text was blocked by our safety policy")

    def no_money(self) -> Refusal:
        return Refusal(402, "Please add or update your payment method to continue.")

    def told(self, status: int, words: str, code: str | None) -> Refusal:
        usual = {
            403: "your API key is not allowed to use this endpoint",
            404: "404 page not found",
            413: "request entity too large",
            422: "unprocessable entity",
            429: "Please wait and try again later",
            503: "service unavailable, please try again later",
        }
        return Refusal(status, words or usual.get(status, "internal server error"))
