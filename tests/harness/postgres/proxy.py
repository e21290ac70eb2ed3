"""A TCP proxy before PostgreSQL that loses answers: the one fault that no signal to a process can make.

It understands just enough of the protocol to see a COMMIT go by, or another statement. What happens to it is armed before, for the first
transaction in which a given text was sent:

    swallow   the COMMIT reaches the server, its answer does not reach the client, and the connection breaks
    lose      the COMMIT does not reach the server, and the connection breaks on both sides
    delay     the connection to the client breaks at once; the COMMIT reaches the server only after `release`
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

Fate = Literal["swallow", "lose", "delay"]

BEGIN, COMMIT = b"BEGIN\0", b"COMMIT\0"


class Proxy:
    """Listens on a loopback port and forwards to the server in `url`; `.url` is the way through it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 5432)
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.url = urlunsplit(parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{port}"))
        self._armed: tuple[Fate, bytes, int, bytes] | None = None
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._clients: list[socket.socket] = []
        self._deaf = threading.Event()
        self.struck = threading.Event()
        self._released = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def arm(self, fate: Fate, in_transaction_with: bytes, nth: int = 1, *, statement: bytes = COMMIT) -> None:
        """The `nth` COMMIT from now of a transaction in which this text was sent meets this fate; all others pass.

        `statement`: how another statement begins that meets it instead.
        """
        self._armed = (fate, in_transaction_with, nth, statement)

    def release(self) -> None:
        """Let a delayed COMMIT go on to the server."""
        self._released.set()

    def lead_to(self, port: int) -> None:
        """From now on to another server of this machine, as an address after a failover: whoever is connected has to come again."""
        self._target = (self._target[0], port)
        for each in [*self._sockets]:
            _shut(each)

    def hang_up(self) -> None:
        """Break every connection for the client only: the server's sessions stay, with all they hold, as after a cut cable."""
        self._deaf.set()
        # Forgotten first: the thread of a client that is known breaks its server's side too.
        clients, self._clients = self._clients, []
        for client in clients:
            _shut(client)

    def close(self) -> None:
        self._deaf.clear()
        self._listener.close()
        self._released.set()
        for each in self._sockets:
            _shut(each)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            for each in (client, server):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets += [client, server]
            self._clients.append(client)
            threading.Thread(target=self._to_server, args=(client, server), daemon=True).start()
            threading.Thread(target=_pump, args=(server, client), daemon=True).start()

    def _to_server(self, client: socket.socket, server: socket.socket) -> None:
        sent = b""
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                sent += data
                fate = self._fate(sent, data)
                if fate is not None:
                    self._strike(fate, client, server, data)
                    return
                # What was sent since BEGIN: a transaction is known by what it said.
                sent = b"" if COMMIT in data else sent[max(sent.rfind(BEGIN), 0) :]
                server.sendall(data)
        if client in self._clients or not self._deaf.is_set():
            _shut(server)
        _shut(client)

    def _fate(self, sent: bytes, data: bytes) -> Fate | None:
        with self._lock:
            if self._armed is None or self._armed[1] not in sent or self._armed[3] not in data:
                return None
            fate, text, nth, statement = self._armed
            self._armed = None if nth == 1 else (fate, text, nth - 1, statement)
            return fate if nth == 1 else None

    def _strike(self, fate: Fate, client: socket.socket, server: socket.socket, data: bytes) -> None:
        if fate == "swallow":
            # The client's side goes first, so that not one byte of the answer can pass.
            _shut(client)
            server.sendall(data)
            server.shutdown(socket.SHUT_WR)
            # The server closes when it has done what it was asked: the commit has happened by then.
            with contextlib.suppress(OSError):
                while server.recv(65536):
                    pass
            self.struck.set()
        elif fate == "lose":
            _shut(server)
            _shut(client)
            self.struck.set()
        else:
            _shut(client)
            self.struck.set()
            self._released.wait(30)
            server.sendall(data)
            server.shutdown(socket.SHUT_WR)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    _shut(target)


def _shut(one: socket.socket) -> None:
    # shutdown also wakes a thread that waits in recv; close alone does not.
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError):
        one.close()
