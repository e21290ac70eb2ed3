"""The loopback provider: one process that speaks OpenAI's, Cohere's and Voyage's protocols, and keeps the bill.

    python -m tests.harness.providers.server [--port N]

It prints its port and serves until its standard input is closed. `/_control/...` is for tests (tests/harness/providers/loopback.py).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.harness.providers.cohere_jobs import CohereJobs
from tests.harness.providers.cohere_spoken import Cohere
from tests.harness.providers.compatible_spoken import TEI, VLLM, Azure, Gemini, LlamaCpp, Ollama
from tests.harness.providers.control import WISHES
from tests.harness.providers.faults import Fault
from tests.harness.providers.jobs import Job, asking
from tests.harness.providers.openai_jobs import OpenAIJobs
from tests.harness.providers.openai_spoken import OpenAI
from tests.harness.providers.protocol import Refusal, Spoken
from tests.harness.providers.state import Hung, State
from tests.harness.providers.voyage_spoken import Voyage

OPENAI, COHERE, VOYAGE = OpenAI(), Cohere(), Voyage()
EMBEDDINGS: dict[str, Spoken] = {
    "/openai/v1/embeddings": OPENAI,
    "/cohere/v2/embed": COHERE,
    "/voyage/v1/embeddings": VOYAGE,
    "/vllm/v1/embeddings": VLLM(),
    "/tei/v1/embeddings": TEI(),
    "/ollama/v1/embeddings": Ollama(),
    "/gemini/v1beta/openai/embeddings": Gemini(),
    "/llamacpp/v1/embeddings": LlamaCpp(),
}
AZURE = Azure()
DEPLOYMENT = re.compile(r"/azure/openai/deployments/[^/]+/embeddings")
# Beginnings of the paths of batch jobs: whose they are, the part of the path that is cut off, and what a rule calls them.
JOBS: dict[str, tuple[Spoken, str, str]] = {
    "/openai/v1/files": (OPENAI, "/openai/v1/", "files"),
    "/openai/v1/batches": (OPENAI, "/openai/v1/", "batches"),
    "/cohere/v1/datasets": (COHERE, "/cohere/v1/", "files"),
    "/cohere/v2/batches": (COHERE, "/cohere/v2/", "batches"),
    "/cohere/parts": (COHERE, "/cohere/", "files"),
}


class Handler(BaseHTTPRequestHandler):
    """One connection. Requests of the endpoints go to the state, `/_control` to the server."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    # Headers and body leave in one packet.
    wbufsize = -1
    server: Server

    def do_POST(self) -> None:
        self._serve(self._read())

    def do_GET(self) -> None:
        self._serve(b"")

    def do_DELETE(self) -> None:
        self._serve(b"")

    def _serve(self, body: bytes) -> None:
        path, query = urlsplit(self.path).path, urlsplit(self.path).query
        if path.startswith("/_control/"):
            self._send(200, self.server.control(path.removeprefix("/_control/"), json.loads(body or b"{}")))
            return
        spoken = EMBEDDINGS.get(path)
        if DEPLOYMENT.fullmatch(path) and "api-version=" in query:
            spoken = AZURE
        job = next((found for beginning, found in JOBS.items() if path.startswith(beginning)), None)
        spoken = spoken or (job[0] if job else None)
        if spoken is None:
            self._send(404, {"message": f"no such path: {path}"})
            return
        try:
            if job is not None:
                self._send(200, self._job(job, path, body))
            else:
                self._send(200, *self.server.state.embed(spoken, self._key(), _parsed(body)))
        except Refusal as refusal:
            sent: Any = refusal.words if refusal.status == 200 else spoken.body(refusal)
            self._send(refusal.status, sent, refusal.headers)
        except Hung:
            self.close_connection = True

    def _job(self, job: tuple[Spoken, str, str], path: str, body: bytes) -> Any:
        spoken, cut, at = job
        state = self.server.state
        if not path.startswith("/cohere/parts"):
            state.check_key(spoken, self._key())
        lost = state.stand(at, spoken)
        query = dict(parse_qsl(urlsplit(self.path).query))
        content_type = self.headers.get("content-type") or ""
        answer = self.server.jobs(spoken).request(self.command, path.removeprefix(cut), query, self._key(), content_type, body)
        if lost:
            raise Hung
        return answer

    def _key(self) -> str:
        return (self.headers.get("api-key") or self.headers.get("authorization") or "").removeprefix("Bearer ").strip()

    def _read(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        read = bytearray()
        while size := int(self.rfile.readline(), 16):
            read += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return bytes(read)

    def _send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        kind = {str: "text/html", bytes: "application/octet-stream"}.get(type(body), "application/json")
        sent = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(sent)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        # The client may have gone while it was held: its timeout is what is tested.
        with contextlib.suppress(ConnectionError):
            self.wfile.write(sent)
            self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None


class Server(ThreadingHTTPServer):
    """The server and its control."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.state = State()

    def jobs(self, spoken: Spoken) -> OpenAIJobs | CohereJobs:
        """The batch interface of a provider, over the present state."""
        state, kept = self.state, self.state.jobs[spoken.name]

        def endings(job: Job) -> list[Fault]:
            given = [line.asked.get("input") or line.asked.get("texts") or [] for line in job.lines]
            texts = [text for one in given for text in ([one] if isinstance(one, str) else one)]
            return state.endings(spoken, job.lines[0].asked.get("model", "") if job.lines else "", texts)

        ask = asking(spoken, lambda body, job: state.line(spoken, body, job))
        if spoken.name == "cohere":
            return CohereJobs(kept, ask, endings, f"http://127.0.0.1:{self.server_address[1]}")
        return OpenAIJobs(kept, ask, endings)

    def control(self, what: str, wanted: dict[str, Any]) -> Any:
        """Carry out one wish of a test. Answers are JSON."""
        if what == "reset":
            # Whoever is held by a rule goes on, with the state that it began with.
            self.state.faults.clear()
            self.state = State()
            return {}
        return WISHES[what](self.state, **wanted)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are no news; anything else is a mistake of ours and is shown."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    server = Server(parser.parse_args().port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
