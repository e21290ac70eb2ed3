"""The loopback server: `serve` is what its process runs. It sends its port, and ends with the process at the other end."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
import time
import traceback
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic_core import to_json

from tests.harness.qdrant.engine import Engine
from tests.harness.qdrant.faults import Asked, Fault, Faults
from tests.harness.qdrant.routes import Call, found
from tests.harness.qdrant.strict import Refused

TITLE = "qdrant - vector search engine"
HEALTH = {"/healthz": "healthz check passed", "/livez": "livez check passed", "/readyz": "all shards are ready"}
RESET = struct.pack("ii", 1, 0)


class Cut(Exception):
    """The connection is to be dropped without an answer."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, port: int, folder: Path | None, version: str, api_key: str | None) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.engine, self.faults = Engine(folder), Faults()
        self.version, self.api_key = version, api_key

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of the server's."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def answer(self) -> None:
        """Any method, any path."""
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        try:
            if url.path.startswith("/_control/"):
                self.send(200, to_json(self.control(url.path.removeprefix("/_control/"), url.query, body)))
            else:
                self.served(url.path, url.query, body)
        except Cut:
            self.close_connection = True
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self.connection.close()
            # The base class flushes this behind us.
            self.wfile = open(os.devnull, "wb")  # noqa: SIM115

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = answer

    def served(self, path: str, query: str, body: bytes) -> None:
        began, text = time.perf_counter(), body.decode(errors="replace")
        asked = self.server.faults.noted(self.command, path, query, text)
        fault = self.server.faults.striking(self.command, path, text)
        asked.fault = None if fault is None else fault.kind
        try:
            self.struck(fault, done=False)
            status, answer, headers = self.outcome(path, query, body)
            self.struck(fault, done=True)
        except Refused as refused:
            status, answer = refused.status, error(refused.message)
            headers = {} if fault is None or fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
        self.told(asked, status, began)
        self.send(status, answer, headers)

    @staticmethod
    def told(asked: Asked, status: int, began: float) -> None:
        asked.status, asked.seconds = status, time.perf_counter() - began

    @staticmethod
    def struck(fault: Fault | None, done: bool) -> None:
        """What a fault does before the operation (`done` is false) and behind it."""
        if fault is None:
            return
        if fault.kind == ("lost" if done else "cut"):
            raise Cut
        if fault.after != done:
            return
        if fault.kind == "late":
            time.sleep(fault.seconds)
        if fault.kind == "hold":
            fault.released.wait()
        if fault.kind == "error":
            raise Refused(fault.status, fault.word)

    def outcome(self, path: str, query: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        if path in HEALTH:
            return 200, HEALTH[path].encode(), {}
        if path == "/":
            return 200, to_json({"title": TITLE, "version": self.server.version, "commit": "0" * 40}), {}
        if (denied := self.denied()) is not None:
            return 401, denied.encode(), {}
        began, match = time.perf_counter(), found(self.command, path)
        if match is None:
            return 404, b"", {}
        function, parts = match
        name, part = unquote(parts.get("name") or ""), unquote(parts.get("part") or "")
        wait = parse_qs(query).get("wait") == ["true"]
        timeout = parse_qs(query).get("timeout")
        try:
            if timeout is not None and path.startswith(f"/collections/{name}/points"):
                self.server.engine.check_timeout(name, int(timeout[0]))
            result = function(Call(self.server.engine, self.server.faults, name, part, wait, body))
        except Refused as refused:
            headers = {} if refused.retry_after is None else {"Retry-After": str(refused.retry_after)}
            return refused.status, error(refused.message), headers
        except Exception as surprise:  # answered as the server does: a broken request must not end the server
            traceback.print_exc()
            return 500, error(f"Service internal error: {surprise!r}"), {}
        return 200, to_json({"result": result, "status": "ok", "time": time.perf_counter() - began}), {}

    def denied(self) -> str | None:
        if self.server.api_key is None:
            return None
        bearer = self.headers.get("authorization", "").removeprefix("Bearer ")
        given = self.headers.get("api-key") or bearer
        if not given:
            return "Must provide an API key or an Authorization bearer token"
        return None if given == self.server.api_key else "Invalid API key or JWT"

    def control(self, path: str, query: str, body: bytes) -> Any:
        faults, wanted = self.server.faults, json.loads(body or b"{}")
        match self.command, path:
            case "POST", "faults":
                return faults.add(wanted)
            case "GET", "faults":
                return faults.told()
            case "DELETE", "faults":
                self.server.engine.minute, self.server.engine.strict_mode = 60.0, {}
                return faults.clear()
            case "POST", "release":
                return faults.release(wanted["number"])
            case "POST", "conditions":
                return faults.set_conditions(wanted.pop("collection"), wanted)
            case "GET", "requests":
                return faults.requests(int(query or 0))
            case "POST", "strict":
                self.server.engine.minute = wanted.pop("minute")
                self.server.engine.strict_mode = wanted
                return None
            case "GET", "rates":
                return self.server.engine.rates_of(unquote(query))
        raise ValueError(f"unknown control request {self.command} {path}")

    def send(self, status: int, answer: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        kind = "application/json" if answer[:1] in (b"{", b"[") else "text/plain; charset=utf-8"
        for key, value in {"Content-Type": kind, "Content-Length": str(len(answer)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        """The log is `faults.log`."""


def error(message: str) -> bytes:
    return to_json({"status": {"error": message}, "time": 0.0})


def serve(parent: Connection, port: int, folder: Path | None, version: str, api_key: str | None) -> None:
    server = Server(port, folder, version, api_key)
    parent.send(server.server_port)
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    server.serve_forever()


def end_with(parent: Connection) -> None:
    with suppress(EOFError, OSError):
        parent.recv()
    os._exit(0)
