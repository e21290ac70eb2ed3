"""Servers that speak OpenAI's protocol with an accent: other error bodies and statuses, no tokens counted, base64 not understood.

They share models, limits, keys, rules and bill with `openai` (one that asks for no key: `provider.keys("openai", None)`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tests.harness.providers.bill import Standing
from tests.harness.providers.openai_spoken import OpenAI
from tests.harness.providers.protocol import Asked, Refusal, Reply
from tests.harness.providers.served import Served


class VLLM(OpenAI):
    """vLLM: the error's fields stand at the top, and the code is the status."""

    def body(self, refusal: Refusal) -> Any:
        kinds = {400: "BadRequestError", 401: "Unauthorized", 404: "NotFoundError", 429: "TooManyRequests"}
        kind = kinds.get(refusal.status, "InternalServerError")
        return {"object": "error", "message": refusal.words, "type": kind, "param": None, "code": refusal.status}

    def too_long(self, model: Served, position: int, tokens: int) -> Refusal:
        words = (
            f"This model's maximum context length is {model.max_tokens} tokens. However, you requested {tokens} tokens in the "
            "input for embedding generation. Please reduce the length of the input."
        )
        return Refusal(400, words)

    def wrong_dimensions(self, model: Served, dimensions: int) -> Refusal:
        words = f'Model "{model.name}" does not support matryoshka representation, changing output dimensions will lead to poor results.'
        return Refusal(400, words)

    def no_model(self, name: str, known: Sequence[str]) -> Refusal:
        return Refusal(404, f"The model `{name}` does not exist.")


class TEI(OpenAI):
    """Text Embeddings Inference: what it does not take is 413, and 429 means that the model is busy."""

    def body(self, refusal: Refusal) -> Any:
        kinds = {413: "Validation", 422: "Tokenizer", 424: "Backend", 429: "Overloaded", 503: "Unhealthy"}
        return {"message": refusal.words, "code": refusal.status, "type": kinds.get(refusal.status, "Backend")}

    def too_long(self, model: Served, position: int, tokens: int) -> Refusal:
        return Refusal(413, f"Input validation error: `inputs` must have less than {model.max_tokens} tokens. Given: {tokens}")

    def too_many_texts(self, model: Served, texts: int) -> Refusal:
        return Refusal(413, f"batch size {texts} > maximum allowed batch size {model.request_texts}")

    def rate_limited(self, model: Served, standing: Standing, tokens: int) -> Refusal:
        return Refusal(429, "Model is overloaded")

    def headers(self, standing: Standing) -> dict[str, str]:
        return {}


class Ollama(OpenAI):
    """Ollama: it answers numbers whatever encoding was asked for, and does not say how long a text is."""

    def answer(self, asked: Asked, reply: Reply) -> dict[str, Any]:
        return super().answer(replace(asked, encoding="float"), reply)

    def body(self, refusal: Refusal) -> Any:
        return {"error": {"message": refusal.words, "type": "api_error", "param": None, "code": None}}

    def no_model(self, name: str, known: Sequence[str]) -> Refusal:
        return Refusal(404, f'model "{name}" not found, try pulling it first')

    def too_long(self, model: Served, position: int, tokens: int) -> Refusal:
        return Refusal(400, "the input length exceeds the context length")

    def headers(self, standing: Standing) -> dict[str, str]:
        return {}


class Gemini(OpenAI):
    """Gemini's endpoint: errors come in a list, a rate limit is worded as a quota, no tokens are counted, and long texts are cut.

    Its messages are protobuf's, which leave out a number that is zero: the first vector has no index.
    """

    def parse(self, body: dict[str, Any]) -> Asked:
        return replace(super().parse(body), cut=True)

    def answer(self, asked: Asked, reply: Reply) -> dict[str, Any]:
        answer = super().answer(replace(asked, encoding="float"), reply)
        del answer["usage"]
        for row in answer["data"]:
            if row["index"] == 0:
                del row["index"]
        return answer

    def body(self, refusal: Refusal) -> Any:
        states = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND"}
        states |= {429: "RESOURCE_EXHAUSTED", 503: "UNAVAILABLE"}
        error = {"code": refusal.status, "message": refusal.words, "status": states.get(refusal.status, "INTERNAL")}
        return [{"error": error}]

    def too_many_texts(self, model: Served, texts: int) -> Refusal:
        return Refusal(400, f"* BatchEmbedContentsRequest.requests: at most {model.request_texts} requests can be in one batch\n")

    def rate_limited(self, model: Served, standing: Standing, tokens: int) -> Refusal:
        words = (
            "You exceeded your current quota, please check your plan and billing details. "
            f"Please retry in {math.ceil(standing.wait)}s."
        )
        return Refusal(429, words)

    def headers(self, standing: Standing) -> dict[str, str]:
        return {}


class LlamaCpp(OpenAI):
    """llama.cpp's server: numbers, and a text that does not fit into its physical batch is an error of the server."""

    def answer(self, asked: Asked, reply: Reply) -> dict[str, Any]:
        return super().answer(replace(asked, encoding="float"), reply)

    def body(self, refusal: Refusal) -> Any:
        kind = "server_error" if refusal.status >= 500 else "invalid_request_error"
        return {"error": {"code": refusal.status, "message": refusal.words, "type": kind}}

    def too_long(self, model: Served, position: int, tokens: int) -> Refusal:
        words = f"input ({tokens} tokens) is too large to process. increase the physical batch size (current batch size: {model.max_tokens})"
        return Refusal(500, words)

    def headers(self, standing: Standing) -> dict[str, str]:
        return {}


class Azure(OpenAI):
    """Azure's endpoint: the deployment in the path, the key in a header of its own, and a wait that is said in words only."""

    def no_key(self, key: str) -> Refusal:
        words = (
            "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an active "
            "subscription and use a correct regional API endpoint for your resource."
        )
        return Refusal(401, words, code="401")

    def no_model(self, name: str, known: Sequence[str]) -> Refusal:
        words = (
            "The API deployment for this resource does not exist. If you created the deployment within the last 5 minutes, please "
            "wait a moment and try again."
        )
        return Refusal(404, words, code="DeploymentNotFound")

    def rate_limited(self, model: Served, standing: Standing, tokens: int) -> Refusal:
        words = (
            "Requests to the Embeddings_Create Operation under Azure OpenAI API version 2024-10-21 have exceeded call rate limit of "
            f"your current OpenAI S0 pricing tier. Please retry after {math.ceil(standing.wait)} seconds."
        )
        return Refusal(429, words, code="429")

    def headers(self, standing: Standing) -> dict[str, str]:
        return {}
