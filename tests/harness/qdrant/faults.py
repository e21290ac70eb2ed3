"""What the loopback server does wrong on purpose, what it says about itself, and what it has been asked."""

from __future__ import annotations

import itertools
import random
import re
import threading
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Kind = Literal["error", "late", "lost", "cut", "hold"]

# status.error of an injected answer, as a server words it.
WORDS = {
    404: "Not found: No point with id 0 found",
    409: "Wrong input: Collection `injected` already exists!",
    429: "Rate limiting exceeded: Write rate limit exceeded, retry later",
    500: "Service internal error: injected",
    503: "Service unavailable: injected",
}


@dataclass
class Fault:
    """One rule. The first rule that fits a request strikes it.

    error: answer `status` (with `retry_after` seconds as header), before the operation, or behind it when `after`.
    late: wait `seconds`, before the operation or, when `after`, between the operation and its answer.
    lost: do the operation, then drop the connection without an answer.
    cut: drop the connection without doing the operation.
    hold: stand still until it is released, before the operation or behind it when `after`.

    `method`, `path` and `body` are regular expressions that must be found; `skip` lets that many fitting requests pass
    first, `times` ends the rule (None: never), `share` strikes that part of them, drawn from `seed`.
    """

    kind: Kind
    method: str = ""
    path: str = ""
    body: str = ""
    status: int = 500
    message: str = ""
    retry_after: int | None = None
    seconds: float = 0.0
    after: bool = False
    skip: int = 0
    times: int | None = 1
    share: float = 1.0
    seed: int = 0
    number: int = 0
    struck: int = 0
    dice: random.Random = field(default_factory=random.Random, repr=False)
    released: threading.Event = field(default_factory=threading.Event, repr=False)

    def __post_init__(self) -> None:
        self.dice.seed(self.seed)

    @property
    def word(self) -> str:
        return self.message or WORDS.get(self.status, "injected")

    def strikes(self, method: str, path: str, body: str) -> bool:
        if self.times is not None and self.struck >= self.times:
            return False
        if not (re.search(self.method, method) and re.search(self.path, path) and re.search(self.body, body)):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        if self.dice.random() >= self.share:
            return False
        self.struck += 1
        return True

    def told(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key not in ("dice", "released")}


@dataclass
class Conditions:
    """What a collection says about itself, over what is true. None leaves the true answer."""

    status: str | None = None
    optimizer_error: str | None = None
    update_queue: int | None = None
    deferred_points: int | None = None
    queued_points: int | None = None
    queued_optimizations: int | None = None
    queued_segments: int | None = None

    def over_info(self, info: dict[str, Any]) -> dict[str, Any]:
        queue = {"length": self.update_queue, "deferred_points": self.deferred_points}
        changes = {
            "status": self.status,
            "optimizer_status": None if self.optimizer_error is None else {"error": self.optimizer_error},
            "update_queue": {**info["update_queue"], **{key: value for key, value in queue.items() if value is not None}},
        }
        return {**info, **{key: value for key, value in changes.items() if value is not None}}

    def over_optimizations(self, answer: dict[str, Any]) -> dict[str, Any]:
        queued = ("queued_points", "queued_optimizations", "queued_segments")
        summary = {key: value for key in queued if (value := getattr(self, key)) is not None}
        return {**answer, "summary": {**answer["summary"], **summary}}


@dataclass
class Asked:
    """One request in the log. `body` is its first thousand characters; headers, and so keys, are not kept."""

    number: int
    method: str
    path: str
    query: str
    size: int
    body: str
    status: int | None = None
    fault: str | None = None
    seconds: float | None = None


class Faults:
    """The rules, conditions and log of one server; all methods may be called from any thread."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.rules: list[Fault] = []
        self.conditions: dict[str, Conditions] = {}
        self.log: deque[Asked] = deque(maxlen=20_000)
        self.numbers = itertools.count(1)

    def add(self, wanted: dict[str, Any]) -> int:
        with self.lock:
            rule = Fault(**wanted, number=next(self.numbers))
            self.rules.append(rule)
            return rule.number

    def clear(self) -> None:
        """Take every rule and condition away, and let go whoever is held."""
        with self.lock:
            for rule in self.rules:
                rule.released.set()
            self.rules.clear()
            self.conditions.clear()

    def release(self, number: int) -> None:
        with self.lock:
            for rule in self.rules:
                if rule.number == number:
                    rule.released.set()

    def striking(self, method: str, path: str, body: str) -> Fault | None:
        with self.lock:
            return next((rule for rule in self.rules if rule.strikes(method, path, body)), None)

    def set_conditions(self, collection: str, wanted: dict[str, Any]) -> None:
        with self.lock:
            known = self.conditions.get(collection, Conditions())
            self.conditions[collection] = Conditions(**{**asdict(known), **wanted})

    def conditions_of(self, collection: str) -> Conditions:
        with self.lock:
            return self.conditions.get(collection) or self.conditions.get("*") or Conditions()

    def noted(self, method: str, path: str, query: str, body: str) -> Asked:
        with self.lock:
            asked = Asked(next(self.numbers), method, path, query, len(body), body[:1000])
            self.log.append(asked)
            return asked

    def requests(self, since: int) -> list[dict[str, Any]]:
        with self.lock:
            return [asdict(asked) for asked in self.log if asked.number > since]

    def told(self) -> list[dict[str, Any]]:
        with self.lock:
            return [rule.told() for rule in self.rules]
