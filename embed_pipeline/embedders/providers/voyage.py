"""Voyage's protocol by its own library, `voyageai`, imported when a version of it is opened.

The library's client answers with the vectors alone and drops the index of each; so what is called is what that client calls itself,
`voyageai.Embedding`, whose answer still has them. It makes no retries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from embed_pipeline.embedders import failures, models
from embed_pipeline.embedders.keys import Key
from embed_pipeline.embedders.protocol import Role
from embed_pipeline.embedders.provider import Provider
from embed_pipeline.embedders.rows import in_order, not_understood
from embed_pipeline.embedders.service import Reply, asked_dimensions
from embed_pipeline.spec import AccountSpec, VersionSpec

INPUT_TYPES = {"document": "document", "query": "query"}


class VoyageService:
    """The endpoint `/embeddings`. The library keeps one connection for each thread that asks."""

    cuts = True

    def __init__(self, spec: VersionSpec, account: AccountSpec, key: Key) -> None:
        import voyageai
        from voyageai.util import get_default_base_url

        self._voyageai: Any = voyageai
        self._key = key
        # It logs the words of a refusal as they come.
        key.keep_out_of("voyage")
        self._model = spec.model_name
        self._dimensions = spec.dimensions
        self.limits = models.limits(spec.provider, spec.model_name)
        self._input_types = {
            "document": spec.document_input_type or INPUT_TYPES["document"],
            "query": spec.query_input_type or INPUT_TYPES["query"],
        }
        dimensions = asked_dimensions(spec)
        self._fields: dict[str, Any] = {} if dimensions is None else {"output_dimension": dimensions}
        self._fields |= {
            "api_key": key.value,
            "base_url": spec.base_url or get_default_base_url(key.value),
            "request_timeout": account.timeout_seconds,
            "encoding_format": "base64",
        }

    def request(self, texts: Sequence[str], role: Role, *, cut: bool = False) -> Reply:
        """One POST; raises a failure."""
        try:
            answer = self._voyageai.Embedding.create(
                input=list(texts), model=self._model, input_type=self._input_types[role], truncation=cut, **self._fields
            )
        except self._voyageai.error.VoyageError as exc:
            # What caused the library's exception holds the request, and so the key: it must not come along.
            raise self._failure(exc) from None
        except OSError as exc:
            # A body that breaks off is requests' own exception.
            raise failures.of_silence(f"{type(exc).__name__}: {exc}", self._key) from None
        return self._reply(answer, len(texts))

    def _reply(self, answer: Any, count: int) -> Reply:
        try:
            items = answer["data"]
            rows = in_order([one["embedding"] for one in items], [one.get("index") for one in items], count, self._dimensions)
            tokens = int(answer["usage"]["total_tokens"])
        except (KeyError, TypeError, AttributeError, ValueError):
            raise not_understood() from None
        return Reply(rows.vectors, tokens, spoiled=rows.spoiled)

    def _failure(self, exc: Any) -> Exception:
        if exc.http_status is None:
            unheard = "NewConnectionError" not in str(exc) and "ConnectTimeout" not in type(exc.__cause__).__name__
            return failures.of_silence(str(exc.user_message), self._key, unheard=unheard)
        if exc.http_status < 400:
            return not_understood()
        body = exc.json_body if isinstance(exc.json_body, Mapping) else {}
        # For 403 and others the library puts the whole answer, headers too, into its message.
        words = body.get("detail") or body.get("message") or exc.http_body or ""
        return failures.of_status(exc.http_status, str(words), self._key, headers=exc.headers)

    def leave_out(self, words: str) -> None:
        """Nothing: the provider knows all that is sent."""

    def identity(self) -> Mapping[str, str]:
        """The input types, which may come from here and not from the declaration."""
        return {f"{role}_input_type": word for role, word in self._input_types.items()}

    def close(self) -> None:
        """Nothing: the connections are their threads'."""


PROVIDER = Provider(("VOYAGE_API_KEY",), VoyageService)
