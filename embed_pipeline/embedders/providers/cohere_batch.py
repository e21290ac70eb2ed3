"""Cohere's Batches API for embeddings: a dataset of requests goes up, a dataset of answers in Avro comes down.

A request in a batch has no output_dimension (refused by its validation): a version with shortened vectors cannot go this way. A batch has
no metadata: our token is its name.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np

from embed_pipeline.embedders import failures
from embed_pipeline.embedders.batch import ONLINE, Answer, JobState
from embed_pipeline.embedders.keys import Key
from embed_pipeline.embedders.providers.cohere import CohereService
from embed_pipeline.embedders.rows import not_understood
from embed_pipeline.errors import ConfigurationError
from embed_pipeline.spec import AccountSpec, VersionSpec

T = TypeVar("T")

DATASET = "batch-embed-v2-input"
OVER = ("COMPLETED", "FAILED", "CANCELED")
# The provider looks at a dataset before a job may use it.
VALIDATION_SECONDS, LOOK_SECONDS = 600.0, 0.5


class CohereBatch(CohereService):
    """Datasets and batches, with the client and the failures of the endpoint itself."""

    def __init__(self, spec: VersionSpec, account: AccountSpec, key: Key) -> None:
        super().__init__(spec, account, key)
        if self._fields:
            raise ConfigurationError(
                f"{spec.provider}, model {spec.model_name} has vectors of its own length alone in batch jobs, not of {spec.dimensions} dimensions.",
                next_step=ONLINE,
            )
        self._body = {"input_type": self._input_types["document"], "embedding_types": ["float"], "truncate": "NONE"}

    def submit(self, texts: Mapping[str, str], token: str) -> str:
        """Upload the dataset, wait until it is validated, and start its batch."""
        import cohere

        lines = [json.dumps({"custom_id": name, "body": self._body | {"texts": [text]}}) for name, text in texts.items()]
        content = io.BytesIO("\n".join(lines).encode())
        dataset = self._ask(lambda: self._client.datasets.create(name=token, type=DATASET, data=(f"{token}.jsonl", content))).id
        self._wait_validated(str(dataset))
        asked = cohere.Batch(name=token, input_dataset_id=str(dataset), model=self._model)
        return str(self._ask(lambda: self._client.batches.create(request=asked)).batch.id)

    def find(self, token: str) -> str | None:
        """Look through all batches for the name."""
        page: str | None = None
        while True:
            listed = self._ask(lambda page=page: self._client.batches.list(page_size=1000, page_token=page))  # type: ignore[misc]
            for batch in listed.batches or []:
                if batch.name == token:
                    return str(batch.id)
            page = listed.next_page_token
            if not page:
                return None

    def poll(self, job: str) -> JobState:
        """Its status and the reason."""
        batch = self._ask(lambda: self._client.batches.retrieve(job)).batch
        status = str(batch.status).removeprefix("BATCH_STATUS_")
        words = [status.lower().replace("_", " "), *([str(batch.status_reason)] if batch.status_reason else [])]
        return JobState(status in OVER, self._key.scrub(": ".join(words)))

    def collect(self, job: str) -> Iterator[Answer]:
        """From the parts of the output dataset."""
        from fastavro import reader

        batch = self._ask(lambda: self._client.batches.retrieve(job)).batch
        if not batch.output_dataset_id:
            return
        dataset = self._ask(lambda: self._client.datasets.get(str(batch.output_dataset_id))).dataset
        for part in dataset.dataset_parts or []:
            content = self._ask(lambda part=part: self._connections.get(str(part.url)).raise_for_status().content)  # type: ignore[misc]
            for row in reader(io.BytesIO(content)):
                yield self._answer(row)

    def _answer(self, row: Any) -> Answer:
        try:
            name, body = str(row["custom_id"]), row["body"]
            if row["error"] or body is None:
                return Answer(name, None, self._key.scrub(str(row["error"] or "no word why")))
            tokens = int(((body.get("meta") or {}).get("billed_units") or {}).get("input_tokens") or 0)
            (vector,) = body["embeddings"]["float"]
            return Answer(name, np.asarray(vector, dtype=np.float32), tokens=tokens)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise not_understood() from None

    def _wait_validated(self, dataset: str) -> None:
        deadline = time.monotonic() + VALIDATION_SECONDS
        while time.monotonic() < deadline:
            found = self._ask(lambda: self._client.datasets.get(dataset)).dataset
            if found.validation_status == "validated":
                return
            if found.validation_status in ("failed", "skipped"):
                raise failures.Refused(self._key.scrub(f"the dataset is not valid: {found.validation_error}"))
            time.sleep(LOOK_SECONDS)
        raise failures.Transient("the dataset was not validated in time")

    def _ask(self, call: Callable[[], T]) -> T:
        import httpx

        try:
            return call()
        # The library's exceptions hold headers, and what caused them the request with its key: they must not come along.
        except self._api_error as exc:
            failure = self._failure(exc)
        except self._silence as exc:
            failure = failures.of_silence(f"{type(exc).__name__}: {exc}", self._key)
        except httpx.HTTPStatusError as exc:
            failure = failures.of_status(exc.response.status_code, "the answers cannot be fetched", self._key)
        except self._not_understood:
            failure = not_understood()
        raise failure
