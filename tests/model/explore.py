"""Breadth-first search over every state that a model can reach: the first fault is found by the shortest way to it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

S = TypeVar("S")
T = TypeVar("T")
Rules = frozenset[str]
Steps = Iterator[tuple[str, S]]

MOST_STATES = 5_000_000


@dataclass(frozen=True)
class Rule:
    """`missed_in`: the setting in which a fault shows with the fewest states once the rule is gone.

    None: a spare rule. With all others in place nothing happens without it, in any setting of its model.
    """

    sentence: str
    missed_in: str | None


@dataclass(frozen=True)
class Setting:
    """Where a search begins, and so how much may happen in it. Large ones are for the soak."""

    first: tuple[Any, ...]
    large: bool = False


@dataclass(frozen=True)
class Limit:
    """What the design does not protect from, with every rule in place: a setting of its own, in which the fault must show."""

    sentence: str
    first: tuple[Any, ...]


@dataclass(frozen=True)
class Model:
    name: str
    rules: Mapping[str, Rule]
    settings: Mapping[str, Setting]
    steps: Callable[[Any, Rules], Steps[Any]]
    judge: Callable[[Any, Rules], str | None]
    limits: Mapping[str, Limit]

    def without(self, rule: str) -> Rules:
        return frozenset(self.rules) - {rule}


@dataclass(frozen=True)
class Outcome:
    states: int
    fault: str | None
    way: tuple[str, ...]
    seconds: float


class TooManyStates(Exception):
    """Nothing is known about the states that were not reached."""


def explore(model: Model, first: Iterable[Any], rules: Rules | None = None, most: int = MOST_STATES) -> Outcome:
    began = time.perf_counter()
    kept = frozenset(model.rules) if rules is None else rules
    came: dict[Any, tuple[Any, str] | None] = dict.fromkeys(first)
    queue = deque(came)
    while queue:
        state = queue.popleft()
        fault = model.judge(state, kept)
        if fault:
            return Outcome(len(came), fault, _way(came, state), time.perf_counter() - began)
        for step, after in model.steps(state, kept):
            if after not in came:
                came[after] = (state, step)
                queue.append(after)
        if len(came) > most:
            raise TooManyStates(f"{model.name}: more than {most:,} states")
    return Outcome(len(came), None, (), time.perf_counter() - began)


def _way(came: Mapping[Any, tuple[Any, str] | None], state: Any) -> tuple[str, ...]:
    way = []
    while (before := came[state]) is not None:
        state, step = before
        way.append(step)
    return tuple(reversed(way))


def put(items: tuple[T, ...], n: int, value: T) -> tuple[T, ...]:
    return (*items[:n], value, *items[n + 1 :])
