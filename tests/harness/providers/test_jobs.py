"""Batch jobs of the loopback provider, through the real SDKs."""

from __future__ import annotations

import io
import json

import cohere
import openai
import requests
from fastavro import reader

from tests.harness.providers.keys import KEYS
from tests.harness.providers.loopback import Provider

MODEL = "text-embedding-3-small"


def openai_job(client: openai.OpenAI, texts: list[str]) -> str:
    lines = [
        {
            "custom_id": str(n),
            "method": "POST",
            "url": "/v1/embeddings",
            "body": {"model": MODEL, "input": [text], "dimensions": 8},
        }
        for n, text in enumerate(texts)
    ]
    content = "\n".join(map(json.dumps, lines)).encode()
    file = client.files.create(file=("input.jsonl", content), purpose="batch")
    job = client.batches.create(
        input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h", metadata={"token": "mine"}
    )
    return job.id


def test_a_job_of_openai_is_held_then_done_and_its_refused_line_is_apart(provider: Provider) -> None:
    client = openai.OpenAI(api_key=KEYS["openai"], base_url=provider.base_url("openai"), max_retries=0)
    provider.set(batches_held=True)
    provider.fail("poison", holds="kill")
    job = openai_job(client, ["one", "kill", "three"])
    assert client.batches.retrieve(job).status == "in_progress"
    assert provider.billed() == []
    provider.set(batches_held=False)
    done = client.batches.retrieve(job)
    assert (done.status, done.metadata) == ("completed", {"token": "mine"})
    assert done.output_file_id is not None
    assert done.error_file_id is not None
    answered = [json.loads(line) for line in client.files.content(done.output_file_id).text.splitlines()]
    refused = [json.loads(line) for line in client.files.content(done.error_file_id).text.splitlines()]
    assert [line["custom_id"] for line in answered] == ["0", "2"]
    assert len(answered[0]["response"]["body"]["data"][0]["embedding"]) == 8
    assert [line["response"]["status_code"] for line in refused] == [400]
    assert [found.id for found in client.batches.list(limit=5).data] == [job]
    assert [entry["batch"] for entry in provider.billed()] == [job, job]


def test_a_job_that_expires_keeps_and_bills_what_it_had_done(provider: Provider) -> None:
    client = openai.OpenAI(api_key=KEYS["openai"], base_url=provider.base_url("openai"), max_retries=0)
    provider.fail("batch_expired")
    done = client.batches.retrieve(openai_job(client, ["one", "two"]))
    assert done.status == "expired"
    assert done.output_file_id is not None
    assert len(client.files.content(done.output_file_id).text.splitlines()) == len(provider.billed()) == 1


def test_a_job_of_cohere_reads_a_dataset_and_writes_another(provider: Provider) -> None:
    client = cohere.ClientV2(api_key=KEYS["cohere"], base_url=provider.base_url("cohere"))
    provider.fail("poison", holds="kill")
    body = {"input_type": "search_document", "embedding_types": ["float"], "truncate": "NONE"}
    lines = [{"custom_id": str(n), "body": body | {"texts": [text]}} for n, text in enumerate(["one", "kill"])]
    content = io.BytesIO("\n".join(map(json.dumps, lines)).encode())
    dataset = client.datasets.create(name="in", type="batch-embed-v2-input", data=("in.jsonl", content))
    assert dataset.id is not None
    assert client.datasets.get(dataset.id).dataset.validation_status == "validated"
    created = client.batches.create(request=cohere.Batch(name="mine", input_dataset_id=dataset.id, model="embed-v4.0"))
    assert created.batch.id is not None
    done = client.batches.retrieve(created.batch.id).batch
    assert (done.status, done.num_successful_records, done.num_failed_records) == ("BATCH_STATUS_COMPLETED", 1, 1)
    assert done.output_dataset_id is not None
    (part,) = client.datasets.get(done.output_dataset_id).dataset.dataset_parts or []
    assert part.url is not None
    rows = list(reader(io.BytesIO(requests.get(part.url, timeout=10).content)))
    assert [(row["custom_id"], bool(row["error"]), row["body"] is None) for row in rows] == [
        ("0", False, False),
        ("1", True, True),
    ]
    assert len(rows[0]["body"]["embeddings"]["float"][0]) == 1536
    assert [entry["batch"] for entry in provider.billed()] == [created.batch.id]
    assert [batch.name for batch in client.batches.list().batches or []] == ["mine"]
