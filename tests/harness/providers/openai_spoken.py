"""OpenAI's protocol: POST /v1/embeddings. Bodies and headers as its API reference and its rate-limit guide show them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tests.harness.providers.bill import Standing
from tests.harness.providers.protocol import Asked, Refusal, Reply, encoded, text_list
from tests.harness.providers.served import Served


def duration(seconds: float) -> str:
    """Seconds as the rate-limit headers write them: 120ms, 8.64s, 1m2s."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}m{math.ceil(rest)}s" if minutes else f"{math.ceil(rest * 100) / 100:g}s"


class OpenAI:
    name = "openai"

    def parse(self, body: dict[str, Any]) -> Asked:
        model, given = body.get("model"), body.get("input")
        if not isinstance(model, str) or not model:
            raise Refusal(400, "you must provide a model parameter")
        encoding = body.get("encoding_format") or "float"
        if encoding not in ("float", "base64"):
            raise Refusal(400, f"'{encoding}' is not one of ['float', 'base64'] - 'encoding_format'")
        dimensions = body.get("dimensions")
        if dimensions is not None and (not isinstance(dimensions, int) or dimensions < 1):
            raise Refusal(400, f"{dimensions} is less than the minimum of 1 - 'dimensions'")
        texts, counts = self._texts(given)
        return Asked(model, texts, dimensions, encoding=encoding, counts=counts)

    def _texts(self, given: Any) -> tuple[list[str], list[int] | None]:
        if isinstance(given, str):
            return [given], None
        if (texts := text_list(given)) is not None:
            return texts, None
        if isinstance(given, list) and given and all(isinstance(number, int) for number in given):
            given = [given]
        if isinstance(given, list) and given and all(isinstance(item, list) and item for item in given):
            # Token numbers cannot be read back into text here: the numbers stand for it.
            return [f"tokens {item}" for item in given], [len(item) for item in given]
        raise Refusal(
            400, "'$.input' is invalid. Please check the API reference: https://platform.openai.com/docs/api-reference."
        )

    def answer(self, asked: Asked, reply: Reply) -> dict[str, Any]:
        return {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": vector}
                for index, vector in zip(reply.indexes, encoded(reply, asked.encoding), strict=True)
            ],
            "model": asked.model,
            "usage": {"prompt_tokens": reply.tokens, "total_tokens": reply.tokens},
        }

    def body(self, refusal: Refusal) -> dict[str, Any]:
        return {
            "error": {
                "message": refusal.words,
                "type": refusal.kind,
                "param": refusal.param,
                "code": refusal.code,
            }
        }

    def headers(self, standing: Standing) -> dict[str, str]:
        sent, limit = {}, standing.limit
        if limit.headers and limit.requests_per_minute is not None:
            sent["x-ratelimit-limit-requests"] = str(limit.requests_per_minute)
            sent["x-ratelimit-remaining-requests"] = str(max(0, limit.requests_per_minute - standing.requests))
            sent["x-ratelimit-reset-requests"] = duration(standing.reset_requests)
        if limit.headers and limit.tokens_per_minute is not None:
            sent["x-ratelimit-limit-tokens"] = str(limit.tokens_per_minute)
            sent["x-ratelimit-remaining-tokens"] = str(max(0, limit.tokens_per_minute - standing.tokens))
            sent["x-ratelimit-reset-tokens"] = duration(standing.reset_tokens)
        if standing.wait and limit.retry_after:
            sent["retry-after"] = str(math.ceil(standing.wait))
            sent["retry-after-ms"] = str(math.ceil(standing.wait * 1000))
        return sent

    def no_key(self, key: str) -> Refusal:
        if not key:
            return Refusal(401, "You didn't provide an API key.", param=None)
        shown = f"{key[:4]}{'*' * 12}{key[-4:]}"
        return Refusal(401, f"Incorrect API key provided: {shown}.", code="invalid_api_key")

    def no_model(self, name: str, known: Sequence[str]) -> Refusal:
        words = f"The model `{name}` does not exist or you do not have access to it."
        return Refusal(404, words, code="model_not_found")

    def rate_limited(self, model: Served, standing: Standing, tokens: int) -> Refusal:
        which = ("requests per min (RPM)", standing.limit.requests_per_minute, standing.requests, 1)
        if standing.exceeded == "tokens":
            which = ("tokens per min (TPM)", standing.limit.tokens_per_minute, standing.tokens, tokens)
        words = (
            f"Rate limit reached for {model.name} in organization org-loopback on {which[0]}: Limit {which[1]}, Used {which[2]}, "
            f"Requested {which[3]}. Please try again in {duration(standing.wait)}."
        )
        return Refusal(429, words, code="rate_limit_exceeded", kind=standing.exceeded, headers=self.headers(standing))

    def empty_text(self, position: int) -> Refusal | None:
        return Refusal(400, f"Invalid 'input[{position}]': input cannot be an empty string.", param=f"input[{position}]")

    def wrong_dimensions(self, model: Served, dimensions: int) -> Refusal:
        if not model.dimensions:
            return Refusal(400, "This model does not support specifying dimensions.", param=None)
        words = f"Invalid value for 'dimensions' = {dimensions}. Must be less than or equal to {model.native}."
        return Refusal(400, words, param="dimensions")

    def too_many_texts(self, model: Served, texts: int) -> Refusal:
        words = (
            f"Invalid 'input': array too long. Expected an array with maximum length {model.request_texts}, "
            f"but got an array with length {texts} instead."
        )
        return Refusal(400, words, code="array_above_max_length", param="input")

    def too_many_tokens(self, model: Served, tokens: int) -> Refusal:
        words = f"Invalid 'input': maximum request size is {model.request_tokens} tokens per request, requested {tokens} tokens."
        return Refusal(400, words, code="max_tokens_per_request", kind="max_tokens_per_request")

    def too_long(self, model: Served, position: int, tokens: int) -> Refusal:
        words = (
            f"This model's maximum context length is {model.max_tokens} tokens, however you requested {tokens} tokens "
            f"({tokens} in your prompt; 0 for the completion). Please reduce your prompt; or completion length."
        )
        return Refusal(400, words)

    def refused_content(self, position: int) -> Refusal:
        return Refusal(400, "Your request was rejected as a result of our safety system.", code="content_policy_violation")

    def no_money(self) -> Refusal:
        words = "You exceeded your current quota, please check your plan and billing details."
        return Refusal(429, words, code="insufficient_quota", kind="insufficient_quota")

    def told(self, status: int, words: str, code: str | None) -> Refusal:
        known = {
            403: ("Country, region, or territory not supported", "unsupported_country_region_territory", "request_forbidden"),
            404: ("The requested resource does not exist.", None, "invalid_request_error"),
            413: ("The request body is too large.", None, "invalid_request_error"),
            429: ("Rate limit reached for requests", "rate_limit_exceeded", "requests"),
            503: ("The engine is currently overloaded, please try again later", None, "server_error"),
        }
        usual = known.get(status)
        if usual is None and status >= 500:
            usual = ("The server had an error while processing your request. Sorry about that!", None, "server_error")
        said, usual_code, kind = usual or ("The request was refused.", None, "invalid_request_error")
        return Refusal(status, words or said, code or usual_code, kind)
