"""What OpenAI's and Cohere's batch interfaces have in common: uploaded files, jobs that take their time, lines answered one by one."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.harness.providers.faults import Fault
from tests.harness.providers.protocol import Refusal, Spoken

# What a line of a job was answered: a status and a body, as the embedding endpoint would have.
Ask = Callable[[dict[str, Any], str], tuple[int, dict[str, Any]]]


@dataclass
class File:
    """Something uploaded, or made by a job."""

    id: str
    name: str
    kind: str
    content: bytes
    created: float = field(default_factory=time.time)
    error: str = ""


@dataclass
class Line:
    """One request of a job. `body` is None as long as it was not answered."""

    custom_id: str
    asked: dict[str, Any]
    status: int = 0
    body: dict[str, Any] | None = None


@dataclass
class Job:
    """A batch job. `end`: completed, failed, expired or cancelled; empty while it runs."""

    id: str
    key: str
    asked: dict[str, Any]
    lines: list[Line]
    created: float = field(default_factory=time.time)
    end: str = ""
    words: str = ""
    output: str = ""
    errors: str = ""

    @property
    def answered(self) -> list[Line]:
        return [line for line in self.lines if line.body is not None and line.status == 200]

    @property
    def refused(self) -> list[Line]:
        return [line for line in self.lines if line.body is not None and line.status != 200]

    @property
    def unanswered(self) -> list[Line]:
        return [line for line in self.lines if line.body is None]


@dataclass
class Jobs:
    """Files and jobs of one provider. While `held`, no job gets on; otherwise the first look at a job finds it done."""

    files: dict[str, File] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    held: bool = False
    lock: threading.RLock = field(default_factory=threading.RLock)

    def keep(self, prefix: str, name: str, kind: str, content: bytes) -> File:
        kept = File(f"{prefix}{uuid.uuid4().hex}", name, kind, content)
        self.files[kept.id] = kept
        return kept

    def add(self, job: Job) -> Job:
        self.jobs[job.id] = job
        return job

    def look(self, job: Job, ask: Ask, faults: Callable[[Job], list[Fault]], finish: Callable[[Job], None]) -> None:
        """Let the job get on, if nothing holds it."""
        with self.lock:
            if job.end or self.held:
                return
            end = next((fault for fault in faults(job) if fault.kind.startswith("batch_")), None)
            _run(job, ask, end)
            finish(job)


def _run(job: Job, ask: Ask, fault: Fault | None) -> None:
    kind = fault.kind if fault else "batch_completed"
    job.end = kind.removeprefix("batch_")
    job.words = fault.words if fault else ""
    if kind == "batch_failed":
        return
    # An expired or cancelled job keeps what it had done by then: the first half.
    answered = job.lines if kind == "batch_completed" else job.lines[: len(job.lines) // 2]
    for line in answered:
        line.status, line.body = ask(line.asked, job.id)


def read_lines(content: bytes) -> list[dict[str, Any]]:
    """The objects of a JSONL file; ValueError when a line is none."""
    lines = [json.loads(line) for line in content.decode().splitlines() if line.strip()]
    if not all(isinstance(line, dict) and isinstance(line.get("custom_id"), str) for line in lines):
        raise ValueError("every line needs a custom_id")
    return lines


def fields_of(content_type: str, body: bytes) -> dict[str, tuple[str, bytes]]:
    """The parts of a multipart/form-data body by field name: file name (or empty) and content."""
    boundary = content_type.partition("boundary=")[2].strip('"').encode()
    found: dict[str, tuple[str, bytes]] = {}
    for part in body.split(b"--" + boundary)[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        words = head.decode(errors="replace")
        name = words.partition('name="')[2].partition('"')[0]
        found[name] = (words.partition('filename="')[2].partition('"')[0], content.removesuffix(b"\r\n"))
    return found


def asking(spoken: Spoken, answer: Callable[[dict[str, Any], str], dict[str, Any]]) -> Ask:
    """A line's status and body, a refusal included."""

    def ask(body: dict[str, Any], job: str) -> tuple[int, dict[str, Any]]:
        try:
            return 200, answer(body, job)
        except Refusal as refusal:
            return refusal.status, spoken.body(refusal)

    return ask
