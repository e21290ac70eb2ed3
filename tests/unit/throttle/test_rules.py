"""May I write now? The pure decision: unknown means no, the order is fixed, and the reason is always there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from embed_pipeline.catalog.control import Control
from embed_pipeline.spec import ThrottleSpec
from embed_pipeline.stores.protocol import StorePressure
from embed_pipeline.throttle.pressure import Behind, Reading, Slot, Standby
from embed_pipeline.throttle.probing import Probed
from embed_pipeline.throttle.rules import Decision, Signals, decide

MB = 2**20
RUNNING = Control("running", "", "anna")
ALL = ThrottleSpec(
    standbys=["a", "b"],
    slots=["s"],
    max_wal_bytes_per_second=10 * MB,
    wait_for_autovacuum=True,
    max_active_backends=20,
    max_search_ms=50,
)


def standby(name: str = "a", lag: float | None = 0.0, seconds: float | None = None, reply: float | None = 0.1) -> Standby:
    return Standby(name, "streaming", lag, seconds, reply)


def slot(retained: float | None = 0.0, status: str | None = "reserved", *, active: bool = True) -> Slot:
    return Slot("s", active, status, retained)


def behind(seconds: float) -> Behind:
    return Behind("docs", "v1", seconds)


CALM = Reading(100.0, (standby("a"), standby("b")), (slot(),), (0.0, 0.0), 0.0, (), 0)


def given_that(rules: ThrottleSpec = ALL, previous: Decision | None = None, **changed: Any) -> Decision:
    """The decision when all is calm except for what is given: fields of the reading, or of the signals."""
    of_signals = {name: changed.pop(name) for name in list(changed) if name in Signals.__dataclass_fields__}
    signals = Signals(**({"control": RUNNING, "reading": replace(CALM, **changed), "reading_age": 0.1} | of_signals))
    return decide(signals, rules, previous)


@pytest.mark.parametrize(
    ("control", "answer", "reason"),
    [
        (RUNNING, "go", ""),
        (Control("paused", "lunch", "anna"), "wait", "paused by anna: lunch"),
        (Control("paused", "", "anna"), "wait", "paused by anna"),
        (Control("aborted", "wrong model", "ben"), "stop", "aborted by ben: wrong model"),
        (None, "wait", "the control row could not be read"),
    ],
)
def test_what_a_person_says(control: Control | None, answer: str, reason: str) -> None:
    for rules in (ThrottleSpec(), ALL):
        found = given_that(rules, control=control)
        assert (found.answer, found.reason) == (answer, reason)


def test_nothing_is_watched_that_is_not_declared() -> None:
    nothing = ThrottleSpec(max_queue_age_seconds=None)
    assert not nothing.watches_server
    assert decide(Signals(RUNNING), nothing) == Decision("go")
    assert given_that(nothing, behind=behind(10**6)).answer == "go"
    assert given_that().answer == "go"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"reading": None, "reading_age": None}, "unknown: the server has not been read yet"),
        ({"reading_age": 5.1}, "unknown: the last reading of the server is 5 s old"),
        ({"unknown": ("no right",)}, "unknown: no right"),
        ({"standbys": (standby(lag=None), standby("b"))}, "unknown: standby 'a' (streaming) shows no position"),
        ({"standbys": (standby(), standby("b", reply=20.1))}, "unknown: standby 'b' has been silent for 20 s"),
        ({"standbys": (standby(), standby("b", reply=None))}, "unknown: standby 'b' has never answered"),
        ({"slots": (slot(None),)}, "unknown: slot 's' shows no position"),
        ({"wal_rate": None}, "unknown: the WAL rate takes two readings"),
        ({"active_backends": None}, "unknown: active backends were not counted"),
    ],
)
def test_unknown_means_no(changed: dict[str, Any], reason: str) -> None:
    found = given_that(**changed)
    assert (found.answer, found.signal, found.reason) == ("wait", "unknown", reason)


@pytest.mark.parametrize(
    ("changed", "signal", "reason"),
    [
        (
            {"standbys": (standby(lag=65 * MB), standby("b"))},
            "replication lag",
            "replication lag: standby 'a' is 65.0 MB behind (limit 64.0 MB)",
        ),
        (
            {"standbys": (standby(lag=1, seconds=1.5), standby("b"))},
            "replication lag",
            "replication lag: standby 'a' is 1.5 s behind (limit 1.0 s)",
        ),
        (
            {"standbys": (standby("b"),)},
            "standby missing",
            "standby missing: 'a' is declared in throttle.standbys and is not connected",
        ),
        ({"slots": (slot(2**31),)}, "slot", "slot 's' retains 2.0 GB of WAL (limit 1.0 GB)"),
        ({"wal_rate": 11.0 * MB}, "WAL rate", "WAL rate: the server writes 11.0 MB/s (limit 10.0 MB)"),
        ({"vacuumed": ("autovacuum of articles",)}, "autovacuum", "autovacuum: autovacuum of articles is running"),
        ({"active_backends": 21}, "active backends", "active backends: 21 sessions are at work (limit 20)"),
        (
            {"behind": behind(30.5)},
            "queue age",
            "queue age: v1, which serves, has changes that wait for 30.5 s (limit 30.0 s); run: embed-pipeline sync docs --watch",
        ),
        (
            {"write_seconds": 6.0, "write_age": 1.0},
            "write latency",
            "write latency: the last batch took 6.0 s to write (limit 5.0 s)",
        ),
        ({"probed": Probed(0.0512)}, "search latency", "search latency: a search of what serves takes 51 ms (limit 50 ms)"),
        ({"probed": Probed(problem="it is away")}, "search latency", "search latency: unknown: it is away"),
    ],
)
def test_each_signal_makes_it_wait(changed: dict[str, Any], signal: str, reason: str) -> None:
    found = given_that(**changed)
    assert (found.answer, found.signal, found.reason) == ("wait", signal, reason)


def test_no_bytes_are_no_lag_whatever_the_time_says() -> None:
    assert given_that(standbys=(standby(lag=0, seconds=3600), standby("b"))).answer == "go"


def test_the_worst_of_two_standbys_with_one_name_counts() -> None:
    assert given_that(standbys=(standby(), standby(lag=65 * MB), standby("b"))).signal == "replication lag"
    assert given_that(standbys=(standby(), standby("b"), standby("stranger", lag=None))).answer == "go"


# Every objection, in the order of precedence.
OBJECTIONS: list[tuple[str, dict[str, Any]]] = [
    ("control", {"control": Control("paused", "", "anna")}),
    ("unknown", {"unknown": ("no right",)}),
    ("replication lag", {"standbys": (standby("b", lag=65 * MB),)}),
    ("standby missing", {"standbys": (standby("b"),)}),
    ("slot", {"slots": (slot(2**31),)}),
    ("WAL rate", {"wal_rate": 11.0 * MB}),
    ("autovacuum", {"vacuumed": ("autovacuum of articles",)}),
    ("active backends", {"active_backends": 21}),
    ("queue age", {"behind": behind(31.0)}),
    ("write latency", {"write_seconds": 6.0, "write_age": 1.0}),
    ("search latency", {"probed": Probed(0.051)}),
]


@given(st.sets(st.integers(0, len(OBJECTIONS) - 1), min_size=1))
def test_the_first_reason_in_the_fixed_order_wins(chosen: set[int]) -> None:
    changed: dict[str, Any] = {}
    for number in sorted(chosen, reverse=True):
        changed |= OBJECTIONS[number][1]
    found = given_that(**changed)
    assert (found.answer, found.signal) == ("wait", OBJECTIONS[min(chosen)][0])
    aborted = given_that(**(changed | {"control": Control("aborted", "", "anna")}))
    assert (aborted.answer, aborted.signal) == ("stop", "control")


def test_a_search_is_not_held_to_half_of_its_limit() -> None:
    """What nobody disturbs may take more than that: it would wait for ever."""
    held = given_that(probed=Probed(0.051))
    assert given_that(previous=held, probed=Probed(0.05)).answer == "go"


def test_a_stop_for_a_slot_takes_two_readings() -> None:
    for bad in (slot(9 * 2**30, active=False), slot(0, "unreserved"), slot(None, "lost")):
        first = given_that(slots=(bad,))
        assert first.answer == "wait"
        assert first.reason.endswith("looking a second time before stopping")
        assert given_that(slots=(bad,), previous=first).answer == "wait", "the same reading is no second look"
        assert given_that(slots=(bad,), previous=first, taken=101.0, reading_age=6.0).answer == "wait", "nor is a stale one"
        second = given_that(slots=(bad,), previous=first, taken=101.0)
        assert (second.answer, second.signal) == ("stop", "slot")
        assert given_that(previous=first, taken=101.0).answer == "go", "it was over before the second look"


def test_a_stop_outranks_a_wait() -> None:
    """A dead standby keeps its slot: it must not wait behind its own missing row until the disk is full."""
    dead = {"standbys": (standby("b"),), "slots": (slot(9 * 2**30, active=False),)}
    first = given_that(**dead)
    assert (first.answer, first.signal) == ("wait", "standby missing")
    assert given_that(previous=first, taken=101.0, **dead).answer == "stop"


LIMITED: list[tuple[float, Any]] = [
    (64 * MB, lambda value: {"standbys": (standby(lag=value), standby("b"))}),
    (1.0, lambda value: {"standbys": (standby(lag=1, seconds=value), standby("b"))}),
    (2**30, lambda value: {"slots": (slot(value),)}),
    (10 * MB, lambda value: {"wal_rate": value}),
    (20, lambda value: {"active_backends": value}),
    (30.0, lambda value: {"behind": behind(value)}),
]


@given(st.sampled_from(LIMITED), st.floats(0.0, 3.0))
def test_it_goes_on_only_below_half_of_the_limit(limited: tuple[float, Any], share: float) -> None:
    limit, changed = limited
    value = limit * share
    assert given_that(**changed(value)).answer == ("wait" if value > limit else "go")
    held = given_that(**changed(limit * 1.01))
    assert held.answer == "wait"
    again = given_that(previous=held, **changed(value))
    assert again.answer == ("wait" if value > limit / 2 else "go")
    if again.answer == "wait":
        assert ", goes on below " in again.reason


def test_what_was_held_stays_held_while_it_cannot_be_seen_or_another_reason_is_first() -> None:
    between = {"standbys": (standby(lag=40 * MB), standby("b"))}
    held = given_that(standbys=(standby(lag=65 * MB), standby("b")))
    blind = given_that(previous=held, reading_age=9.0)
    assert blind.signal == "unknown"
    assert given_that(previous=blind, **between).signal == "replication lag"
    paused = given_that(previous=held, control=Control("paused", "", "anna"), **between)
    assert paused.signal == "control"
    assert given_that(previous=paused, **between).signal == "replication lag"
    assert given_that(previous=given_that(), **between).answer == "go"


@given(st.floats(0, 1000), st.floats(0, 1000))
def test_a_slow_write_is_answered_by_a_pause_of_its_own_length(took: float, age: float) -> None:
    expected = "wait" if took > 5.0 and age < min(took, 30.0) else "go"
    assert given_that(write_seconds=took, write_age=age).answer == expected


@pytest.mark.parametrize("answer", ["go", "wait", "stop"])
def test_what_the_store_says_of_itself(answer: Any) -> None:
    decision = given_that(store=StorePressure(answer, "" if answer == "go" else "the update queue holds 60 (limit 50)"))
    assert decision.answer == answer
    assert decision.reason == ("" if answer == "go" else "store: the update queue holds 60 (limit 50)")


def test_limits_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValidationError, match="it would stop before it waits"):
        ThrottleSpec(max_slot_bytes=2, stop_slot_bytes=1)
    with pytest.raises(ValidationError, match="must be longer than"):
        ThrottleSpec(check_seconds=5, stale_after_seconds=5)
