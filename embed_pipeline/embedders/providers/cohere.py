"""Cohere's protocol by its own library, `cohere`: version 2 of its interface, `/v2/embed`.

Its models are told whether a text is a document or a query. Vectors are asked for in base64: the library turns each number of a JSON
list into a Python object and looks at it. It is imported when a version of it is opened.
"""

from __future__ import annotations

import os
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

INPUT_TYPES = {"document": "search_document", "query": "search_query"}


class CohereService:
    """The endpoint `/v2/embed`."""

    cuts = True

    def __init__(self, spec: VersionSpec, account: AccountSpec, key: Key) -> None:
        import cohere
        import httpx
        from cohere.core.api_error import ApiError
        from cohere.core.parse_error import ParsingError

        self._api_error, self._silence = ApiError, httpx.TransportError
        self._not_understood = (ParsingError, httpx.DecodingError)
        self._not_sent = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
        self._key = key
        self._model = spec.model_name
        self._dimensions = spec.dimensions
        self.limits = models.limits(spec.provider, spec.model_name)
        self._input_types = {
            "document": spec.document_input_type or INPUT_TYPES["document"],
            "query": spec.query_input_type or INPUT_TYPES["query"],
        }
        dimensions = asked_dimensions(spec)
        self._fields: dict[str, Any] = {} if dimensions is None else {"output_dimension": dimensions}
        # httpx's own limit, 100 connections, would hold up the 101st request without a word.
        self._connections = httpx.Client(
            timeout=account.timeout_seconds,
            follow_redirects=True,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=100),
        )
        self._client = cohere.ClientV2(
            api_key=key.value,
            base_url=spec.base_url or os.environ.get("CO_API_URL"),
            timeout=account.timeout_seconds,
            max_retries=0,
            httpx_client=self._connections,
            log_warning_experimental_features=False,
        )

    def request(self, texts: Sequence[str], role: Role, *, cut: bool = False) -> Reply:
        """One POST; raises a failure."""
        try:
            answer = self._client.with_raw_response.embed(
                model=self._model,
                texts=list(texts),
                input_type=self._input_types[role],
                embedding_types=["base64"],
                truncate="END" if cut else "NONE",
                **self._fields,
            )
        # The library's exceptions hold headers, and what caused them the request with its key: they must not come along.
        except self._api_error as exc:
            raise self._failure(exc) from None
        except self._silence as exc:
            unheard = not isinstance(exc, self._not_sent)
            raise failures.of_silence(f"{type(exc).__name__}: {exc}", self._key, unheard=unheard) from None
        except self._not_understood:
            raise not_understood() from None
        return self._reply(answer.data, answer.headers, len(texts))

    def _reply(self, answer: Any, headers: Mapping[str, str], count: int) -> Reply:
        try:
            embeddings = answer.embeddings
            sent = embeddings.base64 if embeddings.base64 is not None else embeddings.float_
            rows = in_order(sent, [None] * len(sent), count, self._dimensions)
            billed = answer.meta.billed_units if answer.meta is not None else None
            tokens = None if billed is None or billed.input_tokens is None else int(billed.input_tokens)
        except (AttributeError, TypeError, ValueError):
            raise not_understood() from None
        told = headroom({name.lower(): value for name, value in headers.items()})
        return Reply(rows.vectors, tokens, told, rows.spoiled)

    def _failure(self, exc: Any) -> Exception:
        if exc.status_code is None or exc.status_code < 400:
            return not_understood()
        words = exc.body.get("message") if isinstance(exc.body, Mapping) else exc.body
        return failures.of_status(exc.status_code, str(words or ""), self._key, headers=exc.headers)

    def leave_out(self, words: str) -> None:
        """Nothing: the provider knows all that is sent."""

    def identity(self) -> Mapping[str, str]:
        """The input types, which may come from here and not from the declaration."""
        return {f"{role}_input_type": word for role, word in self._input_types.items()}

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()


PROVIDER = Provider(
    ("CO_API_KEY", "COHERE_API_KEY"), CohereService, "embed_pipeline.embedders.providers.cohere_batch:CohereBatch"
)
