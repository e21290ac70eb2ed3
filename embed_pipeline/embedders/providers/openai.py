"""OpenAI's protocol by its own library, `openai`: the provider itself, and every server that speaks it (`base_url`).

Vectors are asked for in base64, a quarter of the bytes that numbers take in JSON, and decoded here: the library would make Python
lists of them. A server that sends numbers all the same is understood. The library is imported when a version of it is opened.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from embed_pipeline.embedders import failures, models
from embed_pipeline.embedders.headers import headroom
from embed_pipeline.embedders.keys import Key
from embed_pipeline.embedders.protocol import Role
from embed_pipeline.embedders.provider import Provider
from embed_pipeline.embedders.rows import in_order, not_understood
from embed_pipeline.embedders.service import Reply, asked_dimensions
from embed_pipeline.spec import AccountSpec, VersionSpec

# The connection was never made: httpx's exceptions, by name, since the library brings a copy of its own.
NOT_SENT = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout"})


class OpenAIService:
    """The endpoint `/embeddings`."""

    cuts = False

    def __init__(self, spec: VersionSpec, account: AccountSpec, key: Key) -> None:
        import openai

        self._openai = openai
        self._key = key
        self._model = spec.model_name
        self._who = f"{spec.provider}, model {spec.model_name},"
        self.limits = models.limits(spec.provider, spec.model_name)
        # Servers of one's own that know input types take them beside OpenAI's fields.
        self._input_types = {"document": spec.document_input_type, "query": spec.query_input_type}
        dimensions = asked_dimensions(spec)
        self._fields: dict[str, Any] = {} if dimensions is None else {"dimensions": dimensions}
        self._client = openai.OpenAI(
            # The library wants some key; a server that asks for none does not look at it.
            api_key=key.value or "none",
            base_url=spec.base_url,
            timeout=account.timeout_seconds,
            max_retries=0,
        )

    def request(self, texts: Sequence[str], role: Role, *, cut: bool = False) -> Reply:
        """One POST; raises a failure or WrongAnswer."""
        input_type = self._input_types[role]
        try:
            raw = self._client.embeddings.with_raw_response.create(
                model=self._model,
                input=list(texts),
                encoding_format="base64",
                extra_body=None if input_type is None else {"input_type": input_type},
                **self._fields,
            )
        except self._openai.APIError as exc:
            # The library's exception holds the request, and so the key: it must not come along as a cause.
            raise self._failure(exc) from None
        return self._reply(raw.http_response.content, raw.headers, len(texts))

    def _reply(self, content: bytes, headers: Mapping[str, str], count: int) -> Reply:
        try:
            answer = json.loads(content)
            items = answer["data"]
            usage = answer.get("usage") or {}
            vectors = in_order([one["embedding"] for one in items], [one.get("index") for one in items], count, self._who)
            tokens = usage.get("total_tokens", usage.get("prompt_tokens"))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise not_understood(self._who) from None
        # Some servers count nothing and say 0.
        return Reply(vectors, tokens or None, headroom(headers))

    def _failure(self, exc: Any) -> failures.Failure:
        if isinstance(exc, self._openai.APIStatusError):
            return failures.of_status(
                exc.status_code, _words(exc.response.text) or exc.message, self._key, code=exc.code, headers=exc.response.headers
            )
        words = str(exc)
        # "Connection error." alone would not say which: refused, unknown host, bad certificate.
        if exc.__cause__ is not None and str(exc.__cause__):
            words = f"{words.rstrip('.')}: {exc.__cause__}"
        return failures.of_silence(
            words, self._key, unheard=type(exc.__cause__).__name__ not in ("ConnectError", "ConnectTimeout")
        )

    def identity(self) -> Mapping[str, str]:
        """Nothing: the declaration says all of it."""
        return {}

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def _words(body: str) -> str:
    """The sentence in an error's body. OpenAI: {"error": {"message": ...}}; others at the top, as plain text, or all of it in a list."""
    try:
        told = json.loads(body)
    except ValueError:
        return body.strip()
    told = told[0] if isinstance(told, list) and told else told
    for name in ("error", "message", "detail"):
        while isinstance(told, dict) and name in told:
            told = told[name]
    return told if isinstance(told, str) else body.strip()


PROVIDER = Provider(
    ("OPENAI_API_KEY",), OpenAIService, "embed_pipeline.embedders.providers.openai_batch:OpenAIBatch", others_speak_it=True
)
