"""OpenAI's Batch API for embeddings: a file of requests goes up, a file of answers comes down.

At most 50,000 texts and 200 MB in one job (OpenAI's documentation of the Batch API). A job keeps metadata, and ours is the token.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeVar

from embed_pipeline.embedders import failures
from embed_pipeline.embedders.batch import Answer, JobState
from embed_pipeline.embedders.keys import Key
from embed_pipeline.embedders.providers.openai import OpenAIService
from embed_pipeline.embedders.rows import in_order, not_understood
from embed_pipeline.spec import AccountSpec, VersionSpec

T = TypeVar("T")

ENDPOINT: Literal["/v1/embeddings"] = "/v1/embeddings"
TOKEN = "embed_pipeline"
OVER = frozenset({"completed", "failed", "expired", "cancelled"})


class OpenAIBatch(OpenAIService):
    """Files and batches, with the client and the failures of the endpoint itself."""

    def __init__(self, spec: VersionSpec, account: AccountSpec, key: Key) -> None:
        super().__init__(spec, account, key)
        input_type = self._input_types["document"]
        self._body: dict[str, Any] = {"model": self._model, "encoding_format": "base64", **self._fields}
        if input_type is not None:
            self._body["input_type"] = input_type

    def submit(self, texts: Mapping[str, str], token: str) -> str:
        """Upload the file, and start its job."""
        lines = [
            json.dumps({"custom_id": name, "method": "POST", "url": ENDPOINT, "body": self._body | {"input": [text]}})
            for name, text in texts.items()
        ]
        content = "\n".join(lines).encode()
        file = self._ask(lambda: self._client.files.create(file=(f"{token}.jsonl", content), purpose="batch"))
        job = self._ask(
            lambda: self._client.batches.create(
                input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h", metadata={TOKEN: token}
            )
        )
        return str(job.id)

    def find(self, token: str) -> str | None:
        """Look through all jobs, the newest first."""
        found = self._ask(
            lambda: next((job for job in self._client.batches.list(limit=100) if (job.metadata or {}).get(TOKEN) == token), None)
        )
        return None if found is None else str(found.id)

    def poll(self, job: str) -> JobState:
        """Its status, and what was wrong with it as a whole."""
        batch = self._ask(lambda: self._client.batches.retrieve(job))
        problems = [str(each.message) for each in (batch.errors.data or [])] if batch.errors is not None else []
        return JobState(batch.status in OVER, self._key.scrub(": ".join([batch.status, *problems[:1]])))

    def collect(self, job: str) -> Iterator[Answer]:
        """From the file of answers and the file of errors."""
        batch = self._ask(lambda: self._client.batches.retrieve(job))
        for file in (batch.output_file_id, batch.error_file_id):
            if file is not None:
                content = self._ask(lambda file=file: self._client.files.content(file).content)  # type: ignore[misc]
                yield from (self._answer(line) for line in content.splitlines() if line.strip())

    def _answer(self, line: bytes) -> Answer:
        try:
            told = json.loads(line)
            name = str(told["custom_id"])
            response = told.get("response") or {}
            body = response.get("body") or {}
            if response.get("status_code") != 200:
                problem = body.get("error") or told.get("error") or {}
                return Answer(name, None, self._key.scrub(str(problem.get("message") or "no word why")))
            tokens = int((body.get("usage") or {}).get("total_tokens") or 0)
            sent = [one["embedding"] for one in body["data"]]
        except (ValueError, TypeError, KeyError, AttributeError):
            raise not_understood() from None
        try:
            rows = in_order(sent, [None] * len(sent), 1, self._dimensions)
        except failures.Unusable as wrong:
            return Answer(name, None, f"answered {wrong.words}", tokens)
        if rows.spoiled:
            return Answer(name, None, f"answered with {rows.spoiled[0]}", tokens)
        return Answer(name, rows.vectors[0], tokens=tokens)

    def _ask(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except self._openai.APIError as exc:
            # The library's exception holds the request, and so the key: it must not come along as a cause.
            failure: failures.Failure = self._failure(exc)
        raise failure
