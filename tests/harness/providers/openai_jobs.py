"""OpenAI's Files and Batch endpoints, for jobs of /v1/embeddings."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

from tests.harness.providers.faults import Fault
from tests.harness.providers.jobs import Ask, File, Job, Jobs, Line, fields_of, read_lines
from tests.harness.providers.protocol import Refusal

MOST_REQUESTS = MOST_TEXTS = 50_000
MOST_BYTES = 200 * 2**20
DAY = 86_400


class OpenAIJobs:
    """Answers requests below /openai/v1/files and /openai/v1/batches."""

    def __init__(self, jobs: Jobs, ask: Ask, faults: Callable[[Job], list[Fault]]) -> None:
        self._jobs, self._ask, self._faults = jobs, ask, faults

    def request(self, method: str, path: str, query: dict[str, str], key: str, content_type: str, body: bytes) -> Any:
        """The answer, as JSON can carry it, or the bytes of a file."""
        what, _, rest = path.partition("/")
        identity, _, action = rest.partition("/")
        if what == "files":
            return self._files(method, identity, action, content_type, body)
        if method == "POST" and not identity:
            return self._create(key, json.loads(body))
        if not identity:
            return self._list(query)
        job = self._jobs.jobs.get(identity)
        if job is None:
            raise Refusal(404, f"No batch found with id '{identity}'.")
        if action == "cancel" and not job.end:
            job.end = "cancelled"
            self._finish(job)
        self._jobs.look(job, self._ask, self._faults, self._finish)
        return self._told(job)

    def _files(self, method: str, identity: str, action: str, content_type: str, body: bytes) -> Any:
        if method == "POST":
            fields = fields_of(content_type, body)
            if "file" not in fields or "purpose" not in fields:
                raise Refusal(400, "'file' and 'purpose' are required properties")
            name, content = fields["file"]
            if len(content) > MOST_BYTES:
                raise Refusal(413, "The file is too large: a batch file has at most 200 MB.")
            return _file(self._jobs.keep("file-", name, fields["purpose"][1].decode(), content))
        if not identity:
            return {"object": "list", "data": [_file(kept) for kept in self._jobs.files.values()], "has_more": False}
        kept = self._jobs.files.get(identity)
        if kept is None:
            raise Refusal(404, f"No such File object: {identity}", param="id")
        if method == "DELETE":
            del self._jobs.files[identity]
            return {"id": identity, "object": "file", "deleted": True}
        return kept.content if action == "content" else _file(kept)

    def _create(self, key: str, asked: dict[str, Any]) -> Any:
        kept = self._jobs.files.get(str(asked.get("input_file_id")))
        if kept is None or kept.kind != "batch":
            raise Refusal(400, f"Invalid 'input_file_id': no batch file with id {asked.get('input_file_id')}.")
        if asked.get("endpoint") != "/v1/embeddings" or asked.get("completion_window") != "24h":
            raise Refusal(400, "Only the endpoint /v1/embeddings with the completion window 24h is served here.")
        job = Job(f"batch_{uuid.uuid4().hex}", key, asked, [])
        try:
            lines = read_lines(kept.content)
            job.lines = [Line(line["custom_id"], line["body"]) for line in lines]
            if any(line.get("url") != "/v1/embeddings" or line.get("method") != "POST" for line in lines):
                raise ValueError("each line needs method POST and url /v1/embeddings, the batch's endpoint")
            job.words = _too_much(job.lines)
        except (ValueError, KeyError) as exc:
            job.words = str(exc)
        if job.words:
            job.end = "failed"
        return self._told(self._jobs.add(job))

    def _list(self, query: dict[str, str]) -> Any:
        newest = sorted(self._jobs.jobs.values(), key=lambda job: -job.created)
        after = [n for n, job in enumerate(newest) if job.id == query.get("after")]
        start, size = (after[0] + 1 if after else 0), int(query.get("limit", "20"))
        page = [self._told(job) for job in newest[start : start + size]]
        return {"object": "list", "data": page, "has_more": len(newest) > start + size}

    def _finish(self, job: Job) -> None:
        answered = [_line(line, {"status_code": 200, "request_id": "req_1", "body": line.body}, None) for line in job.answered]
        failed = [
            _line(line, {"status_code": line.status, "request_id": "req_1", "body": line.body}, None) for line in job.refused
        ]
        if job.end in ("expired", "cancelled"):
            words = "This request could not be executed before the completion window expired."
            failed += [_line(line, None, {"code": f"batch_{job.end}", "message": words}) for line in job.unanswered]
        if answered:
            job.output = self._jobs.keep("file-", f"{job.id}_output.jsonl", "batch_output", "".join(answered).encode()).id
        if failed:
            job.errors = self._jobs.keep("file-", f"{job.id}_error.jsonl", "batch_output", "".join(failed).encode()).id

    def _told(self, job: Job) -> dict[str, Any]:
        created = int(job.created)
        problem = {"code": "invalid_request", "message": job.words or "The batch failed.", "param": None, "line": None}
        return {
            "id": job.id,
            "object": "batch",
            "endpoint": job.asked["endpoint"],
            "errors": {"object": "list", "data": [problem]} if job.end == "failed" else None,
            "input_file_id": job.asked["input_file_id"],
            "completion_window": "24h",
            "status": job.end or "in_progress",
            "output_file_id": job.output or None,
            "error_file_id": job.errors or None,
            "created_at": created,
            "in_progress_at": created,
            "expires_at": created + DAY,
            "completed_at": created if job.end == "completed" else None,
            "request_counts": {"total": len(job.lines), "completed": len(job.answered), "failed": len(job.refused)},
            "metadata": job.asked.get("metadata"),
        }


def _file(kept: File) -> dict[str, Any]:
    return {
        "id": kept.id,
        "object": "file",
        "bytes": len(kept.content),
        "created_at": int(kept.created),
        "filename": kept.name,
        "purpose": kept.kind,
        "status": "processed",
    }


def _line(line: Line, response: dict[str, Any] | None, error: dict[str, Any] | None) -> str:
    told = {"id": f"batch_req_{uuid.uuid4().hex}", "custom_id": line.custom_id, "response": response, "error": error}
    return json.dumps(told) + "\n"


def _too_much(lines: list[Line]) -> str:
    texts = sum(len(line.asked["input"]) if isinstance(line.asked["input"], list) else 1 for line in lines)
    if len({line.custom_id for line in lines}) != len(lines):
        return "The custom_id of a request is not unique."
    if len({line.asked["model"] for line in lines}) != 1:
        return "A batch file has requests for exactly one model."
    if len(lines) > MOST_REQUESTS or texts > MOST_TEXTS:
        return f"The batch has {len(lines)} requests and {texts} inputs; the limit is {MOST_TEXTS} of each."
    return ""
