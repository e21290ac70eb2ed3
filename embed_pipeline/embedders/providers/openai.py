"""OpenAI's protocol by its own library, `openai`: the provider itself, and every server that speaks it (`base_url`).

Vectors are asked for in base64, a quarter of the bytes that numbers take in JSON, and decoded here: the library would make Python
lists of them. A server that sends numbers all the same is understood, and one that refuses base64 is asked for numbers. The library is
imported when a version of it is opened.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

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
# What servers say of a field that they do not take.
OF_ENCODING = re.compile(r"encoding[_ ]format|base64", re.IGNORECASE)
OF_DIMENSIONS = re.compile(r"\bdimensions\b|matryoshka", re.IGNORECASE)
NOT_TAKEN = re.compile(
    r"not (?:support|permit|allow|recogni)|unsupported|unknown|unexpected|unrecogni[sz]ed|extra (?:inputs|fields)", re.IGNORECASE
)
VERSIONED = re.compile(r"/v\d\w*(?:/|$)")


class OpenAIService:
    """The endpoint `/embeddings`."""

    cuts = False

    def __init__(self, spec: VersionSpec, account: AccountSpec, key: Key) -> None:
        import openai

        self._openai = openai
        self._key = key
        self._model = spec.model_name
        self._dimensions = spec.dimensions
        self._server = spec.base_url
        self.limits = models.limits(spec.provider, spec.model_name)
        # Servers of one's own that know input types take them beside OpenAI's fields.
        self._input_types = {"document": spec.document_input_type, "query": spec.query_input_type}
        dimensions = asked_dimensions(spec)
        self._fields: dict[str, Any] = {} if dimensions is None else {"dimensions": dimensions}
        self._encoding: Literal["base64", "float"] = "base64"
        settings: dict[str, Any] = {
            # The library wants some key; a server that asks for none does not look at it.
            "api_key": key.value or "none",
            "base_url": spec.base_url,
            "timeout": account.timeout_seconds,
            "max_retries": 0,
        }
        self._is_azure = spec.api_version is not None
        if spec.api_version is None:
            self._client = openai.OpenAI(**settings)
        else:
            # Azure: the key in a header of its own, and the deployment, which is the model's name, in the path.
            self._client = openai.AzureOpenAI(**settings, api_version=spec.api_version)

    def request(self, texts: Sequence[str], role: Role, *, cut: bool = False) -> Reply:
        """One POST; raises a failure."""
        input_type = self._input_types[role]
        try:
            raw = self._client.embeddings.with_raw_response.create(
                model=self._model,
                input=list(texts),
                encoding_format=self._encoding,
                extra_body=None if input_type is None else {"input_type": input_type},
                **self._fields,
            )
        except self._openai.APIError as exc:
            # The library's exception holds the request, and so the key: it must not come along as a cause.
            raise self._failure(exc) from None
        return self._reply(raw.http_response.content, raw.headers, len(texts))

    def leave_out(self, words: str) -> str | None:
        """The encoding, and the number of dimensions: the answer shows whether it has the declared ones."""
        if self._encoding == "base64" and OF_ENCODING.search(words):
            self._encoding = "float"
            return "the server does not send vectors in base64; it is asked for numbers, which are four times as many bytes."
        if "dimensions" in self._fields and OF_DIMENSIONS.search(words) and NOT_TAKEN.search(words):
            self._fields = {name: value for name, value in self._fields.items() if name != "dimensions"}
            return "the server does not take `dimensions`; it is asked without, and must answer with the declared ones."
        return None

    def _reply(self, content: bytes, headers: Mapping[str, str], count: int) -> Reply:
        try:
            answer = json.loads(content)
        except ValueError:
            raise self._not_understood(failures.shown(content.decode(errors="replace"), self._key)) from None
        if isinstance(answer, dict) and answer.get("error") and not answer.get("data"):
            # A gateway that answers 200 whatever the server behind it said.
            raise failures.of_status(_status_in(answer["error"]), _words(content.decode(errors="replace")), self._key)
        try:
            items = answer["data"]
            usage = answer.get("usage") or {}
            rows = in_order([one["embedding"] for one in items], [one.get("index") for one in items], count, self._dimensions)
            tokens = usage.get("total_tokens", usage.get("prompt_tokens"))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise self._not_understood() from None
        # Some servers count nothing and say 0.
        return Reply(rows.vectors, tokens or None, headroom(headers), rows.spoiled)

    def _not_understood(self, body: str = "") -> failures.Unusable:
        failure = not_understood(body)
        if self._lacks_version():
            failure.words += f" (base_url has no version: is it {self._with_version()}?)"
        return failure

    def _failure(self, exc: Any) -> failures.Failure:
        if isinstance(exc, self._openai.APIStatusError):
            said = exc.response.text
            failure = failures.of_status(
                exc.status_code, _words(said) or exc.message, self._key, code=exc.code, headers=exc.response.headers
            )
            if isinstance(failure, failures.Systemic):
                failure.next_step = self._advice(exc.status_code, failure.words) or failure.next_step
            return failure
        words = str(exc)
        # "Connection error." alone would not say which: refused, unknown host, bad certificate.
        if exc.__cause__ is not None and str(exc.__cause__):
            words = f"{words.rstrip('.')}: {exc.__cause__}"
        not_sent = type(exc.__cause__).__name__ in NOT_SENT
        there = f"Start the server at {self._server}, or correct base_url." if not_sent and self._server is not None else ""
        return failures.of_silence(words, self._key, unheard=not not_sent, next_step=there)

    def _advice(self, status: int, words: str) -> str:
        """What to do where a server of one's own knows no such path or model; empty where nothing is known beyond the status."""
        if self._server is None or status not in (404, 405):
            return ""
        if "pull" in words:
            return f"Run: ollama pull {self._model}. {failures.RESUME}"
        if "deployment" in words.lower():
            return f"Set model_name to the name of a deployment of {self._server}. {failures.RESUME}"
        if self._lacks_version():
            return f"Set base_url to {self._with_version()}. {failures.RESUME}"
        return f"See which models it serves, and correct model_name: curl {self._server.rstrip('/')}/models. {failures.RESUME}"

    def _lacks_version(self) -> bool:
        """Whether the url of a server of one's own ends before the part of its path that speaks OpenAI's protocol."""
        return self._server is not None and not VERSIONED.search(self._server) and not self._is_azure

    def _with_version(self) -> str:
        return f"{(self._server or '').rstrip('/')}/v1"

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


def _status_in(error: Any) -> int:
    """The status that the body of an error names; 500 where it names none."""
    code = str(error.get("code")) if isinstance(error, dict) else ""
    return int(code) if code.isdecimal() and 400 <= int(code) < 600 else 500


PROVIDER = Provider(
    ("OPENAI_API_KEY",), OpenAIService, "embed_pipeline.embedders.providers.openai_batch:OpenAIBatch", others_speak_it=True
)
