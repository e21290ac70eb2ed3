"""Voyage's protocol: POST /v1/embeddings. Error codes as its documentation lists them; words are under `detail`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tests.harness.providers.bill import Standing
from tests.harness.providers.protocol import Asked, Refusal, Reply, encoded, text_list
from tests.harness.providers.served import Served


class Voyage:
    name = "voyage"

    def parse(self, body: dict[str, Any]) -> Asked:
        given, model = body.get("input"), body.get("model")
        texts = [given] if isinstance(given, str) else text_list(given)
        if not isinstance(model, str) or not model:
            raise Refusal(400, "The request body is missing the argument 'model'.")
        if texts is None:
            raise Refusal(400, "The argument 'input' must be a string or a non-empty list of strings.")
        input_type = body.get("input_type")
        if input_type not in (None, "document", "query"):
            raise Refusal(
                400, f"Value '{input_type}' provided for argument 'input_type' is not valid: use 'query' or 'document'."
            )
        if body.get("output_dtype") not in (None, "float"):
            raise Refusal(400, f"output_dtype '{body['output_dtype']}' is not served here.")
        encoding = body.get("encoding_format") or "float"
        if encoding not in ("float", "base64"):
            raise Refusal(400, f"Value '{encoding}' provided for argument 'encoding_format' is not valid.")
        cut = body.get("truncation", True)
        return Asked(model, texts, body.get("output_dimension"), input_type, encoding, cut is not False)

    def answer(self, asked: Asked, reply: Reply) -> dict[str, Any]:
        return {
            "object": "list",
            "data": [
                {"object": "embedding", "embedding": vector, "index": index}
                for index, vector in zip(reply.indexes, encoded(reply, asked.encoding), strict=True)
            ],
            "model": asked.model,
            "usage": {"total_tokens": reply.tokens},
        }

    def body(self, refusal: Refusal) -> dict[str, Any]:
        return {"detail": refusal.words}

    def headers(self, standing: Standing) -> dict[str, str]:
        if standing.wait and standing.limit.retry_after:
            return {"retry-after": str(math.ceil(standing.wait))}
        return {}

    def no_key(self, key: str) -> Refusal:
        return Refusal(401, "Provided API key is invalid." if key else "You forgot to provide an API key.")

    def no_model(self, name: str, known: Sequence[str]) -> Refusal:
        return Refusal(400, f"Model {name} is not supported. Supported models are {sorted(known)}.")

    def rate_limited(self, model: Served, standing: Standing, tokens: int) -> Refusal:
        limit = standing.limit
        words = (
            f"You have reached the rate limit of your organization for {model.name}: "
            f"{limit.requests_per_minute} RPM and {limit.tokens_per_minute} TPM."
        )
        return Refusal(429, words, headers=self.headers(standing))

    def empty_text(self, position: int) -> Refusal | None:
        return Refusal(400, "Input cannot contain empty strings or empty lists.")

    def wrong_dimensions(self, model: Served, dimensions: int) -> Refusal:
        allowed = sorted({*model.dimensions, model.native})  # type: ignore[list-item]
        return Refusal(
            400, f"Value '{dimensions}' for argument 'output_dimension' is not valid: model {model.name} has {allowed}."
        )

    def too_many_texts(self, model: Served, texts: int) -> Refusal:
        return Refusal(400, f"The batch size limit is {model.request_texts}. Your batch size is {texts}.")

    def too_many_tokens(self, model: Served, tokens: int) -> Refusal:
        words = (
            f"Request to model '{model.name}' failed. The max allowed tokens per submitted batch is {model.request_tokens}. "
            f"Your batch has {tokens} tokens after truncation. Please lower the number of tokens in the batch."
        )
        return Refusal(400, words)

    def too_long(self, model: Served, position: int, tokens: int) -> Refusal:
        words = (
            f"Request to model '{model.name}' failed. The example at index {position} in your batch has too many tokens and does "
            f"not fit into the model's context window of {model.max_tokens} tokens. Please lower the number of tokens in the "
            "listed example(s) or use truncation."
        )
        return Refusal(400, words)

    def refused_content(self, position: int) -> Refusal:
        return Refusal(400, f"The example at index {position} in your batch was refused by our content policy.")

    def no_money(self) -> Refusal:
        return Refusal(402, "Your free tokens are used up and there is no payment method on file.")

    def told(self, status: int, words: str, code: str | None) -> Refusal:
        usual = {
            403: "Your IP address is forbidden.",
            404: "Not Found",
            413: "Request body too large",
            422: "Malformed request",
            429: "Rate limit exceeded",
        }
        return Refusal(status, words or usual.get(status, "Unexpected issue on our servers."))
