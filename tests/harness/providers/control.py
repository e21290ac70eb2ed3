"""What a test can wish of the running loopback provider, by the name of the wish; loopback.Provider has a method for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.harness.providers.bill import Limit
from tests.harness.providers.state import State


def fail(state: State, **rule: Any) -> int:
    return state.faults.add(rule)


def release(state: State, number: int) -> None:
    state.faults.release(number)


def lift(state: State, number: int) -> None:
    state.faults.lift(number)


def clear(state: State) -> None:
    state.faults.clear()


def faults(state: State) -> list[dict[str, Any]]:
    return state.faults.told()


def bill(state: State) -> dict[str, Any]:
    return state.bill.told()


def summary(state: State) -> dict[str, int]:
    return state.bill.summary()


def serve(state: State, **model: Any) -> None:
    state.models.serve(**model)


def limit(state: State, account: str, **limits: Any) -> None:
    state.bill.limits[account] = Limit(**limits)


def keys(state: State, provider: str, keys: list[str] | None) -> None:
    state.keys[provider] = keys


def settings(
    state: State, latency: float | None = None, echoes_key: bool | None = None, batches_held: bool | None = None
) -> None:
    if latency is not None:
        state.latency = latency
    if echoes_key is not None:
        state.echoes_key = echoes_key
    if batches_held is not None:
        for held in state.jobs.values():
            held.held = batches_held


def jobs(state: State, provider: str) -> list[tuple[str, str, int]]:
    return [(job.id, job.end, len(job.lines)) for job in state.jobs[provider].jobs.values()]


WISHES: dict[str, Callable[..., Any]] = {
    wish.__name__: wish for wish in (fail, release, lift, clear, faults, bill, summary, serve, limit, keys, settings, jobs)
}
