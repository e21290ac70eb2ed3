"""Cohere's datasets and batches, for jobs of /v2/embed: JSONL goes in, Avro comes out, and a job cannot shorten vectors."""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from tests.harness.providers.faults import Fault
from tests.harness.providers.jobs import Ask, File, Job, Jobs, Line, fields_of, read_lines
from tests.harness.providers.protocol import Refusal

# output_dimension is no field of a batch's request: a job answers at the model's own dimensions.
FIELDS = {"texts", "images", "inputs", "input_type", "max_tokens", "embedding_types", "truncate"}
STATUS = {"": "IN_PROGRESS", "completed": "COMPLETED", "failed": "FAILED", "cancelled": "CANCELED", "expired": "FAILED"}
VECTOR = {"type": "array", "items": "float"}
META = {
    "type": "record",
    "name": "meta",
    "fields": [{"name": "billed_units", "type": {"type": "map", "values": "double"}}],
}
ANSWER = {
    "type": "record",
    "name": "answer",
    "fields": [
        {"name": "embeddings", "type": {"type": "map", "values": {"type": "array", "items": VECTOR}}},
        {"name": "meta", "type": META},
    ],
}
SCHEMA = {
    "type": "record",
    "name": "result",
    "fields": [
        {"name": "custom_id", "type": "string"},
        {"name": "error", "type": "string"},
        {"name": "body", "type": ["null", ANSWER]},
    ],
}


class CohereJobs:
    """Answers requests below /cohere/v1/datasets, /cohere/v2/batches and /cohere/parts."""

    def __init__(self, jobs: Jobs, ask: Ask, faults: Callable[[Job], list[Fault]], url: str) -> None:
        self._jobs, self._ask, self._faults, self._url = jobs, ask, faults, url

    def request(self, method: str, path: str, query: dict[str, str], key: str, content_type: str, body: bytes) -> Any:
        """The answer, as JSON can carry it, or the bytes of a part."""
        what, _, identity = path.partition("/")
        if what == "parts":
            return self._jobs.files[identity].content
        if what == "datasets":
            return self._datasets(method, identity, query, content_type, body)
        if method == "POST" and not identity:
            return {"batch": self._create(key, json.loads(body))}
        if not identity:
            return self._list(query)
        identity, _, action = identity.partition(":")
        job = self._jobs.jobs.get(identity)
        if job is None:
            raise Refusal(404, f"batch {identity} not found")
        if action == "cancel":
            job.end = job.end or "cancelled"
            return {}
        self._jobs.look(job, self._ask, self._faults, self._finish)
        return {"batch": self._told(job)}

    def _datasets(self, method: str, identity: str, query: dict[str, str], content_type: str, body: bytes) -> Any:
        if method == "POST":
            name, content = fields_of(content_type, body)["data"]
            kept = self._jobs.keep("dataset-", query.get("name", name), query.get("type", ""), content)
            kept.error = _invalid(kept)
            return {"id": kept.id}
        if not identity:
            return {"datasets": [self._dataset(kept) for kept in self._jobs.files.values()]}
        kept_or_none = self._jobs.files.get(identity)
        if kept_or_none is None:
            raise Refusal(404, f"dataset with id {identity} not found")
        if method == "DELETE":
            del self._jobs.files[identity]
            return {}
        return {"dataset": self._dataset(kept_or_none)}

    def _dataset(self, kept: File) -> dict[str, Any]:
        part = {
            "id": f"{kept.id}-0",
            "name": "part-0",
            "url": f"{self._url}/cohere/parts/{kept.id}",
            "index": 0,
            "size_bytes": len(kept.content),
        }
        return {
            "id": kept.id,
            "name": kept.name,
            "created_at": _moment(kept.created),
            "updated_at": _moment(kept.created),
            "dataset_type": kept.kind,
            "validation_status": "failed" if kept.error else "validated",
            "validation_error": kept.error or None,
            "dataset_parts": [part],
        }

    def _create(self, key: str, asked: dict[str, Any]) -> dict[str, Any]:
        kept = self._jobs.files.get(str(asked.get("input_dataset_id")))
        if kept is None or kept.error or kept.kind != "batch-embed-v2-input":
            raise Refusal(400, f"invalid request: dataset {asked.get('input_dataset_id')} is no validated dataset of requests")
        if not asked.get("name") or not asked.get("model"):
            raise Refusal(400, "invalid request: name and model are required")
        lines = [Line(line["custom_id"], line["body"] | {"model": asked["model"]}) for line in read_lines(kept.content)]
        return self._told(self._jobs.add(Job(str(uuid.uuid4()), key, asked, lines)))

    def _list(self, query: dict[str, str]) -> Any:
        newest = sorted(self._jobs.jobs.values(), key=lambda job: -job.created)
        start, size = int(query.get("page_token") or 0), int(query.get("page_size") or 50)
        more = {"next_page_token": str(start + size)} if len(newest) > start + size else {}
        return {"batches": [self._told(job) for job in newest[start : start + size]], **more}

    def _finish(self, job: Job) -> None:
        from fastavro import parse_schema, writer

        if job.end == "failed":
            return
        rows = [
            {
                "custom_id": line.custom_id,
                "error": "" if line.status == 200 else line.body["message"] if line.body else f"the batch {job.end}",
                "body": line.body if line.status == 200 else None,
            }
            for line in job.lines
        ]
        written = io.BytesIO()
        writer(written, parse_schema(SCHEMA), rows)
        job.output = self._jobs.keep("dataset-", f"{job.asked['name']}-output", "batch-embed-v2-output", written.getvalue()).id

    def _told(self, job: Job) -> dict[str, Any]:
        tokens = sum(int(line.body["meta"]["billed_units"]["input_tokens"]) for line in job.answered if line.body)
        return {
            "id": job.id,
            "name": job.asked["name"],
            "status": f"BATCH_STATUS_{STATUS[job.end]}",
            "status_reason": job.words or ("the batch expired" if job.end == "expired" else None),
            "created_at": _moment(job.created),
            "updated_at": _moment(job.created),
            "input_dataset_id": job.asked["input_dataset_id"],
            "output_dataset_id": job.output,
            "input_tokens": str(tokens),
            "model": job.asked["model"],
            "num_records": len(job.lines),
            "num_successful_records": len(job.answered),
            "num_failed_records": len(job.refused),
        }


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, timezone.utc).isoformat()


def _invalid(kept: File) -> str:
    if kept.kind != "batch-embed-v2-input":
        return f"datasets of type {kept.kind} are not served here"
    try:
        for line in read_lines(kept.content):
            unknown = set(line["body"]) - FIELDS
            if unknown:
                return f"unknown field {sorted(unknown)[0]} in the body of {line['custom_id']}"
    except (ValueError, KeyError, TypeError) as exc:
        return f"malformed input: {exc}"
    return ""
