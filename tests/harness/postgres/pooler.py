"""A pooler in front of a server: PgBouncer where it is installed, and a small stand-in for it everywhere.

The stand-in does what matters here as PgBouncer does it: it names another process than the one that serves, hears nothing of what is
asked for when a session begins, and in mode `transaction` gives the server of a client away whenever no transaction is open.
"""

from __future__ import annotations

import os
import queue
import select
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import psycopg
from psycopg import conninfo

Mode = Literal["transaction", "session"]

PGBOUNCER = shutil.which("pgbouncer")
STATUSES = (
    "server_version",
    "server_encoding",
    "client_encoding",
    "integer_datetimes",
    "standard_conforming_strings",
    "DateStyle",
)


class StandIn:
    """Multiplexes clients over `servers` sessions of the server at `url`, on a loopback port of its own. Without passwords and TLS."""

    def __init__(self, url: str, mode: Mode, servers: int, gives_back_after: float) -> None:
        self._mode = mode
        self._gives_back_after = gives_back_after
        self._idle: queue.LifoQueue[socket.socket] = queue.LifoQueue()
        self._behind = [psycopg.connect(url, autocommit=True) for _ in range(servers)]
        self._statuses = {name: self._behind[0].info.parameter_status(name) or "" for name in STATUSES}
        for conn in self._behind:
            server = socket.socket(fileno=os.dup(conn.fileno()))
            server.setblocking(True)
            self._idle.put(server)
        self._door = socket.create_server(("127.0.0.1", 0))
        self.url = conninfo.make_conninfo(url, host="127.0.0.1", port=self._door.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._door.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), client:
            self._greet(client)
            server: socket.socket | None = None
            waits_for = 0
            while True:
                if server is None:
                    kind, body = _message(client)
                    if kind == b"X":
                        return
                    server = self._idle.get()
                    waits_for = _send(server, kind, body)
                readable, _, _ = select.select([client, server], [], [])
                if client in readable:
                    try:
                        kind, body = _message(client)
                    except OSError:
                        kind, body = b"X", b""
                    if kind == b"X":
                        self._give_back(server, is_open=self._mode == "session" or waits_for > 0)
                        return
                    waits_for += _send(server, kind, body)
                if server in readable:
                    kind, body = _message(server)
                    waits_for -= kind == b"Z"
                    over = kind == b"Z" and body == b"I" and not waits_for and self._mode == "transaction"
                    # As PgBouncer does it, whose client may ask again at once; a pooler of many threads may be later.
                    if over and not self._gives_back_after:
                        self._idle.put(server)
                    _send(client, kind, body)
                    if over and self._gives_back_after:
                        time.sleep(self._gives_back_after)
                        self._idle.put(server)
                    if over:
                        server = None

    def _greet(self, client: socket.socket) -> None:
        while True:
            (length,) = struct.unpack("!i", _exactly(client, 4))
            (code,) = struct.unpack("!i", _exactly(client, length - 4)[:4])
            if code not in (80877103, 80877104):  # neither TLS nor GSS
                break
            client.sendall(b"N")
        _send(client, b"R", struct.pack("!i", 0))
        for name, value in self._statuses.items():
            _send(client, b"S", name.encode() + b"\0" + value.encode() + b"\0")
        _send(client, b"K", struct.pack("!ii", 1, 1))
        _send(client, b"Z", b"I")

    def _give_back(self, server: socket.socket, *, is_open: bool) -> None:
        for statement in (b"ROLLBACK\0", b"DISCARD ALL\0") if is_open else (b"ROLLBACK\0",):
            _send(server, b"Q", statement)
            while _message(server)[0] != b"Z":
                pass
        self._idle.put(server)

    def close(self) -> None:
        self._door.close()
        for conn in self._behind:
            conn.close()


def _exactly(one: socket.socket, size: int) -> bytes:
    parts = b""
    while len(parts) < size:
        part = one.recv(size - len(parts))
        if not part:
            raise OSError("the other side is gone")
        parts += part
    return parts


def _message(one: socket.socket) -> tuple[bytes, bytes]:
    head = _exactly(one, 5)
    return head[:1], _exactly(one, struct.unpack("!i", head[1:])[0] - 4)


def _send(one: socket.socket, kind: bytes, body: bytes) -> int:
    """Whether an answer follows that ends with ReadyForQuery, as a number."""
    one.sendall(kind + struct.pack("!i", len(body) + 4) + body)
    return int(kind in (b"Q", b"S"))


@contextmanager
def stand_in(url: str, mode: Mode, servers: int = 2, *, gives_back_after: float = 0) -> Iterator[str]:
    """The URL of a stand-in before the server at `url`, which gives a session back so many seconds after its client has the answer."""
    pooler = StandIn(url, mode, servers, gives_back_after)
    try:
        yield pooler.url
    finally:
        pooler.close()


@contextmanager
def pgbouncer(url: str, mode: Mode, servers: int = 2, *, ignore_options: bool = True) -> Iterator[str]:
    """The URL of a PgBouncer before the server at `url`, which is running when this returns."""
    assert PGBOUNCER is not None
    parts = conninfo.conninfo_to_dict(url)
    place = Path(tempfile.mkdtemp(prefix="embed-pipeline-pgbouncer-"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (place / "users.txt").write_text(f'"{parts["user"]}" "{parts["password"]}"\n')
    lines = [
        "[databases]",
        f"* = host={parts['host']} port={parts['port']}",
        "[pgbouncer]",
        "listen_addr = 127.0.0.1",
        f"listen_port = {port}",
        "auth_type = scram-sha-256",
        f"auth_file = {place}/users.txt",
        f"pool_mode = {mode}",
        f"default_pool_size = {servers}",
        "unix_socket_dir =",
        f"logfile = {place}/log",
        *(["ignore_startup_parameters = options,extra_float_digits"] if ignore_options else []),
    ]
    (place / "pgbouncer.ini").write_text("\n".join(lines))
    as_nobody = []
    if os.geteuid() == 0:
        as_nobody = ["-u", "nobody"]
        for path in (place, *place.iterdir()):
            shutil.chown(path, "nobody")
    process = subprocess.Popen(
        [PGBOUNCER, *as_nobody, str(place / "pgbouncer.ini")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 20
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            assert process.poll() is None, (place / "log").read_text()
            assert time.monotonic() < deadline, "PgBouncer does not answer"
            time.sleep(0.02)
        yield conninfo.make_conninfo(url, host="127.0.0.1", port=port)
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(place)
