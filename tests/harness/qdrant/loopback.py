"""A Qdrant server for tests: a process of its own on 127.0.0.1, over local mode, that can be told to fail.

It is driven by the real `QdrantClient(url=...)` from as many processes as a test needs. `Control` speaks to a running one
by its url, from any process; `Loopback` starts, kills and restarts it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

from qdrant_client import QdrantClient

from tests.harness.forkserver import CONTEXT, preload

# No condition a test waits for takes this long, on however busy a machine.
DEADLINE_SECONDS = 60

preload("tests.harness.qdrant.server")


class Control:
    """The control endpoint of a running server. Faults and the log live in its memory: a kill ends them."""

    def __init__(self, url: str) -> None:
        self.url = url

    def _ask(self, method: str, path: str, wanted: dict[str, Any] | None = None) -> Any:
        body = None if wanted is None else json.dumps(wanted).encode()
        with urlopen(Request(f"{self.url}/_control/{path}", body, method=method), timeout=DEADLINE_SECONDS) as answer:
            return json.loads(answer.read())

    def fail(self, kind: str, **rule: Any) -> int:
        """Add a rule (see `faults.Fault` for kinds and fields) and return its number."""
        return int(self._ask("POST", "faults", {"kind": kind, **rule}))

    def clear(self) -> None:
        """Take away all rules and conditions, and the strict mode of new collections; whoever is held goes on."""
        self._ask("DELETE", "faults")

    def release(self, number: int) -> None:
        self._ask("POST", "release", {"number": number})

    def struck(self, number: int) -> int:
        """How often the rule has struck."""
        return int(next(rule["struck"] for rule in self._ask("GET", "faults") if rule["number"] == number))

    def wait_struck(self, number: int, times: int = 1) -> None:
        """Return when the rule has struck that often: a held request stands still by then."""
        waited(lambda: self.struck(number) >= times, f"fault {number} has not struck {times} times")

    def conditions(self, collection: str = "*", **wanted: Any) -> None:
        """What collections say of themselves (see `faults.Conditions`); a name wins over "*", an alias is its own name."""
        self._ask("POST", "conditions", {"collection": collection, **wanted})

    def strict(self, minute: float = 60.0, **config: Any) -> None:
        """Strict mode of every collection made from now on, where it declares none (`strict.CLOUD`: as in Qdrant Cloud); none: off.

        `minute`: seconds in which the rate limits give as much as they say for a minute.
        """
        self._ask("POST", "strict", {"minute": minute, **config})

    def rates(self, collection: str) -> dict[str, dict[str, float]]:
        """Tokens `spent` on reads and writes of a collection, and `refusals` of its rate limits."""
        return dict(self._ask("GET", f"rates?{quote(collection)}"))

    def requests(self, since: int = 0) -> list[dict[str, Any]]:
        """The log, oldest first: the requests numbered above `since`."""
        return list(self._ask("GET", f"requests?{since}"))


class Loopback(Control):
    """The process. With a folder it keeps its data over kill and restart; without one it forgets everything."""

    def __init__(self, folder: Path | None = None, api_key: str | None = None, version: str = "1.19.2") -> None:
        self.folder, self.api_key, self.version = folder, api_key, version
        self.port = 0
        self.process: BaseProcess | None = None
        self._line: Connection | None = None
        self._strict: dict[str, Any] | None = None
        super().__init__("")

    def start(self) -> Loopback:
        """Start it; it answers when this returns. After the first start the port stays the same."""
        # Imported by the process that serves alone: local mode with all that it needs.
        self._line, other = CONTEXT.Pipe()
        arguments = (other, self.port, self.folder, self.version, self.api_key)
        self.process = CONTEXT.Process(target=_serve, args=arguments, daemon=True)
        self.process.start()
        other.close()
        try:
            self.port = self._line.recv()
        except EOFError:
            self.process.join()
            raise AssertionError(f"the loopback server ended with {self.process.exitcode}; its error is above") from None
        self.url = f"http://127.0.0.1:{self.port}"
        if self._strict is not None:
            super().strict(**self._strict)
        return self

    def strict(self, minute: float = 60.0, **config: Any) -> None:
        """As `Control.strict`; kept over a restart."""
        self._strict = {"minute": minute, **config}
        super().strict(**self._strict)

    def clear(self) -> None:
        self._strict = None
        super().clear()

    def kill(self) -> None:
        """kill -9. It is gone when this returns."""
        assert self.process is not None
        self.process.kill()
        self._buried()

    def restart(self) -> None:
        self.kill()
        self.start()

    def stop(self) -> None:
        if self.process is not None and self.process.exitcode is None:
            self.kill()

    def _buried(self) -> None:
        assert self.process is not None
        assert self._line is not None
        self.process.join()
        self._line.close()

    def client(self, **options: Any) -> QdrantClient:
        """The real client, with the server's key. Options are the client's own."""
        return QdrantClient(url=self.url, **{"api_key": self.api_key, "check_compatibility": False, "timeout": 30, **options})

    def __enter__(self) -> Loopback:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def _serve(*arguments: Any) -> None:
    from tests.harness.qdrant.server import serve

    serve(*arguments)


def waited(condition: Callable[[], bool], otherwise: str) -> None:
    """Wait for a condition, with a deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.01)
