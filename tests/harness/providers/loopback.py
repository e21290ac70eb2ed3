"""The loopback provider as tests use it: `Provider` speaks to a running one from any process, `provider` is the fixture.

The process runs once for each test session and forgets everything between tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from tests.harness.providers.bill import MINUTE
from tests.harness.providers.keys import KEYS, VARIABLES

ROOT = Path(__file__).parents[3]
# No condition a test waits for takes this long, on however busy a machine.
DEADLINE_SECONDS = 60
PATHS = {"openai": "/openai/v1", "cohere": "/cohere", "voyage": "/voyage/v1"}
# Servers that speak OpenAI's protocol with an accent (compatible_spoken.py).
PATHS |= {"vllm": "/vllm/v1", "tei": "/tei/v1", "ollama": "/ollama/v1", "gemini": "/gemini/v1beta/openai"}
PATHS |= {"llamacpp": "/llamacpp/v1", "azure": "/azure/openai"}


class Provider:
    """The control of a running server, by its url."""

    def __init__(self, url: str) -> None:
        self.url = url

    def base_url(self, provider: str) -> str:
        """What a version declares as `base_url`, and the SDK is given; of a provider, or of vllm, tei, ollama, gemini, llamacpp, azure."""
        return self.url + PATHS[provider]

    def _ask(self, what: str, **wanted: Any) -> Any:
        request = Request(f"{self.url}/_control/{what}", json.dumps(wanted).encode(), method="POST")
        with urlopen(request, timeout=DEADLINE_SECONDS) as answer:
            return json.loads(answer.read())

    def reset(self) -> None:
        """Forget bill, faults, limits, models and keys of tests; whoever is held goes on."""
        self._ask("reset")

    def serve(self, provider: str, name: str, **fields: Any) -> None:
        """Add a model, or change one: native, dimensions, max_tokens, request_texts, request_tokens, space, salt (served.Served)."""
        self._ask("serve", provider=provider, name=name, **fields)

    def limit(self, account: str, **fields: Any) -> None:
        """Limit a provider, or `provider/key`: requests_per_minute, tokens_per_minute, headers, retry_after (bill.Limit)."""
        self._ask("limit", account=account, **fields)

    def keys(self, provider: str, keys: list[str] | None) -> None:
        """The good keys; None lets in whoever comes, as a server of one's own does."""
        self._ask("keys", provider=provider, keys=keys)

    def set(self, **fields: Any) -> None:
        """latency: seconds of every answer. echoes_key: whether refusals repeat the key. batches_held: whether batch jobs stand still."""
        self._ask("settings", **fields)

    def fail(self, kind: str, **rule: Any) -> int:
        """Add a rule (kinds and fields: faults.Fault) and return its number."""
        return int(self._ask("fail", kind=kind, **rule))

    def clear(self) -> None:
        """Take all rules away; whoever is held goes on."""
        self._ask("clear")

    def lift(self, number: int) -> None:
        """Take one rule away."""
        self._ask("lift", number=number)

    def release(self, number: int) -> None:
        """Let go whom a `stuck` rule holds."""
        self._ask("release", number=number)

    def struck(self, number: int) -> int:
        """How often a rule has struck."""
        return int(next(rule["struck"] for rule in self._ask("faults") if rule["number"] == number))

    def wait_struck(self, number: int, times: int = 1) -> None:
        """Return when the rule has struck that often: a stuck request stands still by then."""
        waited(lambda: self.struck(number) >= times, f"rule {number} has not struck {times} times")

    def jobs(self, provider: str) -> list[tuple[str, str, int]]:
        """Every batch job: its id, how it ended (empty: it runs), and its number of requests."""
        return [(job, end, lines) for job, end, lines in self._ask("jobs", provider=provider)]

    def summary(self) -> dict[str, int]:
        """Counts: arrivals, billed (texts), tokens, in_flight, most_in_flight."""
        return dict(self._ask("summary"))

    def billed(self, model: str = "", **fields: Any) -> list[dict[str, Any]]:
        """What was paid for, oldest first (bill.Billed), of one model or all, with these fields."""
        wanted = fields | ({"model": model} if model else {})
        return [entry for entry in self._ask("bill")["billed"] if all(entry[name] == value for name, value in wanted.items())]

    def paid(self, model: str, **fields: Any) -> Counter[str]:
        """sha256 of each text (as sent, prefix included) that was paid for, and how often."""
        return Counter(entry["hash"] for entry in self.billed(model, **fields))

    def arrivals(self, model: str = "") -> list[dict[str, Any]]:
        """Every request of an embedding endpoint with a good key, oldest first (bill.Arrival)."""
        return [entry for entry in self._ask("bill")["arrivals"] if model in ("", entry["model"])]

    def most_in_a_minute(self, provider: str) -> tuple[int, int]:
        """Most requests and most tokens that arrived within any 60 s, whatever became of them."""
        return most_in_a_minute([entry for entry in self.arrivals() if entry["provider"] == provider])


def most_in_a_minute(arrivals: list[dict[str, Any]]) -> tuple[int, int]:
    """The same of a list of arrivals, oldest first."""
    most_requests = most_tokens = tokens = first = 0
    for last, arrival in enumerate(arrivals):
        tokens += arrival["tokens"]
        while arrivals[first]["at"] <= arrival["at"] - MINUTE:
            tokens -= arrivals[first]["tokens"]
            first += 1
        most_requests, most_tokens = max(most_requests, last - first + 1), max(most_tokens, tokens)
    return most_requests, most_tokens


class Process(Provider):
    """The server process."""

    def __init__(self) -> None:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "tests.harness.providers.server"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=ROOT)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the loopback provider ended with {self.process.wait()}; its error is above"
        super().__init__(f"http://127.0.0.1:{int(line)}")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def waited(condition: Callable[[], bool], otherwise: str) -> None:
    """Wait for a condition, with a deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.01)


@pytest.fixture(scope="session")
def provider_process() -> Iterator[Process]:
    """The server of this test session (one for each worker of xdist)."""
    process = Process()
    yield process
    process.stop()


@pytest.fixture
def provider(provider_process: Process, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    """A provider that knows nothing of other tests; its keys are in the variables that the SDKs read."""
    for name, variable in VARIABLES.items():
        monkeypatch.setenv(variable, KEYS[name])
    provider_process.reset()
    yield provider_process
    provider_process.clear()
