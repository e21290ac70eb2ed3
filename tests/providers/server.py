"""The loopback provider: one process that speaks OpenAI's, Cohere's and Voyage's protocols, and keeps the bill.

    python -m tests.providers.server [--port N]

It prints its port and serves until its standard input is closed. `/_control/...` is for tests (tests/providers/loopback.py).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from embed_pipeline.embedders.protocol import Vectors
from tests.providers.bill import Bill, Limit, Standing
from tests.providers.cohere_spoken import Cohere
from tests.providers.faults import Fault, Faults
from tests.providers.keys import KEYS
from tests.providers.openai_spoken import OpenAI
from tests.providers.protocol import Asked, Refusal, Reply, Spoken, checked
from tests.providers.served import Models, Served
from tests.providers.voyage_spoken import Voyage

ENDPOINTS: dict[str, Spoken] = {
    "/openai/v1/embeddings": OpenAI(),
    "/cohere/v2/embed": Cohere(),
    "/voyage/v1/embeddings": Voyage(),
}


class Hung(Exception):
    """The connection is closed without an answer."""


@dataclass
class State:
    """Everything that a reset forgets. `keys`: provider to its good keys; None: every request is let in, with a key or without."""

    models: Models = field(default_factory=Models)
    bill: Bill = field(default_factory=Bill)
    faults: Faults = field(default_factory=Faults)
    keys: dict[str, list[str] | None] = field(default_factory=lambda: {name: [key] for name, key in KEYS.items()})
    latency: float = 0.0
    echoes_key: bool = False
    """Whether refusals repeat the key that was sent, as some compatible servers do."""

    def embed(self, spoken: Spoken, key: str, body: Any) -> tuple[dict[str, Any], dict[str, str]]:
        """The answer's body and headers. Raises Refusal, or Hung."""
        self.bill.enter()
        try:
            return self._embed(spoken, key, body)
        except Refusal as refusal:
            if self.echoes_key and key:
                refusal.words += f" (key {key})"
            raise
        finally:
            self.bill.leave()

    def _embed(self, spoken: Spoken, key: str, body: Any) -> tuple[dict[str, Any], dict[str, str]]:
        if self.keys[spoken.name] is not None and key not in (self.keys[spoken.name] or ()):
            raise spoken.no_key(key)
        asked = spoken.parse(body if isinstance(body, dict) else {})
        model = self.models.find(spoken.name, asked.model)
        counts = asked.counts or [model.tokens(text) for text in asked.texts] if model else []
        arrival, standing = self.bill.arrive(spoken.name, asked.model, key, len(asked.texts), sum(counts))
        try:
            answer = self._answer(spoken, model, asked, standing, sum(counts))
        except Refusal as refusal:
            arrival.status = refusal.status
            refusal.headers = {**spoken.headers(standing), **refusal.headers}
            raise
        arrival.status = 200
        return answer, spoken.headers(standing)

    def _answer(self, spoken: Spoken, model: Served | None, asked: Asked, standing: Standing, tokens: int) -> dict[str, Any]:
        faults = self.faults.striking(spoken.name, asked.model, asked.texts)
        for fault in faults:
            _refuse(fault, spoken, asked)
        if model is None:
            known = [name for provider, name in self.models.served if provider == spoken.name]
            raise spoken.no_model(asked.model, known)
        if standing.wait:
            raise spoken.rate_limited(model, standing, tokens)
        texts, billed, dimensions = checked(spoken, model, asked)
        if self.latency:
            time.sleep(self.latency)
        vectors = self._vectors(model, texts, dimensions, asked.input_type, faults)
        self.bill.charge(spoken.name, asked.model, asked.texts, billed, asked.input_type)
        if any(fault.kind == "lost" for fault in faults):
            raise Hung
        return spoken.answer(asked, _spoiled(Reply(vectors, list(range(len(texts))), sum(billed)), faults))

    def _vectors(self, model: Served, texts: list[str], dimensions: int, input_type: str | None, faults: list[Fault]) -> Vectors:
        if any(fault.kind == "changed" for fault in faults):
            model = Served(**{**model.__dict__, "salt": f"{model.salt} changed"})
        return model.vectors(texts, dimensions, input_type)


def _refuse(fault: Fault, spoken: Spoken, asked: Asked) -> None:
    """What a fault does before anything is embedded."""
    if fault.kind == "stuck":
        fault.released.wait()
    elif fault.kind == "slow":
        time.sleep(fault.seconds)
    elif fault.kind == "reset":
        raise Hung
    elif fault.kind == "quota":
        raise spoken.no_money()
    elif fault.kind == "poison":
        raise spoken.refused_content(next(n for n, text in enumerate(asked.texts) if fault.holds in text))
    elif fault.kind == "refuse":
        refusal = spoken.told(fault.status, fault.words, fault.code)
        if fault.retry_after is not None:
            refusal.headers["retry-after"] = f"{fault.retry_after:g}"
        raise refusal


def _spoiled(reply: Reply, faults: list[Fault]) -> Reply:
    vectors, indexes = reply.vectors, reply.indexes
    for kind in (fault.kind for fault in faults):
        if kind == "too_few":
            vectors, indexes = vectors[:-1], indexes[:-1]
        elif kind == "too_many":
            vectors, indexes = np.concatenate([vectors, vectors[:1]]), [*indexes, len(indexes)]
        elif kind == "wrong_dimension":
            vectors = vectors[:, :-1]
        elif kind in ("nan", "infinite", "zeros"):
            vectors = vectors.copy()
            vectors[-1, 0 if kind != "zeros" else slice(None)] = {"nan": np.nan, "infinite": np.inf, "zeros": 0.0}[kind]
        elif kind == "reordered":
            vectors, indexes = vectors[::-1], indexes[::-1]
        elif kind == "same_index":
            indexes = [0] * len(indexes)
        elif kind == "not_json":
            raise Refusal(200, "<html>a proxy's page</html>")
    return Reply(vectors, indexes, reply.tokens)


class Handler(BaseHTTPRequestHandler):
    """One connection. Requests of the endpoints go to the state, `/_control` to `Controls`."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    # Headers and body leave in one packet.
    wbufsize = -1
    server: Server

    def do_POST(self) -> None:
        path, body = urlsplit(self.path).path, self._read()
        if path.startswith("/_control/"):
            self._send(200, self.server.control(path.removeprefix("/_control/"), json.loads(body or b"{}")))
            return
        spoken = ENDPOINTS.get(path)
        if spoken is None:
            self._send(404, {"message": f"no such path: {path}"})
            return
        try:
            answer, headers = self.server.state.embed(spoken, self._key(), _parsed(body))
            self._send(200, answer, headers)
        except Refusal as refusal:
            sent: Any = refusal.words if refusal.status == 200 else spoken.body(refusal)
            self._send(refusal.status, sent, refusal.headers)
        except Hung:
            self.close_connection = True

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path.startswith("/_control/"):
            self._send(200, self.server.control(path.removeprefix("/_control/"), {}))
        else:
            self._send(404, {"message": f"no such path: {path}"})

    def _key(self) -> str:
        return (self.headers.get("authorization") or "").removeprefix("Bearer ").strip()

    def _read(self) -> bytes:
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def _send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        sent = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "text/html" if isinstance(body, str) else "application/json")
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

    def control(self, what: str, wanted: dict[str, Any]) -> Any:
        """Carry out one wish of a test. Answers are JSON."""
        state = self.state
        if what == "reset":
            state.faults.clear()
            self.state = State()
        elif what == "bill":
            return state.bill.told()
        elif what == "summary":
            return state.bill.summary()
        elif what == "faults":
            return state.faults.told()
        elif what == "fail":
            return state.faults.add(wanted)
        elif what == "release":
            state.faults.release(wanted["number"])
        elif what == "clear":
            state.faults.clear()
        elif what == "serve":
            state.models.serve(**wanted)
        elif what == "limit":
            account = wanted.pop("account")
            state.bill.limits[account] = Limit(**wanted)
        elif what == "keys":
            state.keys[wanted["provider"]] = wanted["keys"]
        elif what == "set":
            state.latency = wanted.get("latency", state.latency)
            state.echoes_key = wanted.get("echoes_key", state.echoes_key)
        else:
            raise ValueError(what)
        return {}

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
