"""What the loopback provider does wrong when told to: rules that strike requests, and what each kind of them does."""

from __future__ import annotations

import dataclasses
import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# refuse: answer `status` with `words`, nothing billed. quota: the provider's own form of "no money left".
# poison: the request is refused for what a text says. stuck: stand still until released. slow: `seconds` later.
# reset: the connection is closed, nothing billed. lost: billed, then the connection is closed.
# batch_failed, batch_expired, batch_cancelled: how a batch job ends; the last two keep its first half.
# not_taken: refused with `status` where the request has the field `field` (encoding_format: where it asks for base64).
# The others answer 200 with something wrong, and bill it: in the row of the text that holds `holds`, else in the last one, or in all of it.
# changed: the vectors are another model's. error_body: nothing billed; `status` stands in the body of the error.
KINDS = (
    "refuse", "quota", "poison", "stuck", "slow", "reset", "lost",
    "not_taken", "error_body",
    "too_few", "too_many", "wrong_dimension", "nan", "infinite", "zeros", "null", "empty", "short", "reordered", "same_index",
    "not_json", "changed",
    "batch_failed", "batch_expired", "batch_cancelled",
)  # fmt: skip


@dataclass
class Fault:
    """A rule. It strikes a request of `provider` and `model` (both optional) with a text that holds `holds` (optional).

    `at`: the endpoint: `embeddings` (lines of batch jobs included), `files` (datasets too), `batches`, or `*` for all.

    `skip`: so many of them pass first. `times`: so many are struck, then no more. `rate`: the share that is struck, drawn with `seed`.
    """

    kind: str
    number: int = 0
    provider: str = ""
    model: str = ""
    holds: str = ""
    at: str = "embeddings"
    skip: int = 0
    times: int | None = None
    rate: float = 1.0
    seed: int = 0
    status: int = 500
    words: str = ""
    code: str | None = None
    field: str = ""
    retry_after: float | None = None
    seconds: float = 0.0
    struck: int = 0
    seen: int = 0
    released: threading.Event = dataclasses.field(default_factory=threading.Event)
    _random: random.Random = dataclasses.field(default_factory=random.Random)

    def __post_init__(self) -> None:
        assert self.kind in KINDS, f"there is no kind of fault {self.kind!r}: {KINDS}"
        self._random.seed(self.seed)

    def strikes(self, at: str, provider: str, model: str, texts: Sequence[str]) -> bool:
        ends_jobs = self.kind.startswith("batch_")
        if ends_jobs != (at == "ends") or (not ends_jobs and self.at not in ("*", at)):
            return False
        if (self.provider and self.provider != provider) or (self.model and self.model != model):
            return False
        if self.holds and not any(self.holds in text for text in texts):
            return False
        self.seen += 1
        if self.seen <= self.skip or (self.times is not None and self.struck >= self.times):
            return False
        if self.rate < 1.0 and self._random.random() >= self.rate:
            return False
        self.struck += 1
        return True

    def told(self) -> dict[str, Any]:
        return {"number": self.number, "kind": self.kind, "struck": self.struck, "seen": self.seen}


class Faults:
    """The rules in force. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[Fault] = []
        self._last = 0

    def add(self, rule: dict[str, Any]) -> int:
        with self._lock:
            self._last += 1
            self._rules.append(Fault(**rule, number=self._last))
            return self._last

    def striking(self, at: str, provider: str, model: str, texts: Sequence[str]) -> list[Fault]:
        """The rules that strike this request of the endpoint `at`, oldest first; of a job that ends, `at` is `ends`."""
        with self._lock:
            return [rule for rule in self._rules if rule.strikes(at, provider, model, texts)]

    def release(self, number: int) -> None:
        """Let go whom the rule holds; it holds nobody any more."""
        for rule in self._rules:
            if rule.number == number:
                rule.released.set()

    def lift(self, number: int) -> None:
        """Take one rule away; whom it holds goes on."""
        self.release(number)
        with self._lock:
            self._rules = [rule for rule in self._rules if rule.number != number]

    def clear(self) -> None:
        with self._lock:
            rules, self._rules = self._rules, []
        for rule in rules:
            rule.released.set()

    def told(self) -> list[dict[str, Any]]:
        with self._lock:
            return [rule.told() for rule in self._rules]
