"""The throttle's decision: a pure function from signals to go, wait or stop, with its reason. An unknown signal means wait.

Two severities: wait, and stop. A stop outranks every wait; among equals the first in the order of RULES is the reason. A signal that
objected is held to half of its limit until it no longer objects, so that a backfill does not stutter around a limit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from embed_pipeline.catalog.control import Control
from embed_pipeline.spec import ThrottleSpec
from embed_pipeline.stores.protocol import StorePressure
from embed_pipeline.throttle.pressure import Reading, Slot, Standby
from embed_pipeline.throttle.probing import Probed

Answer = Literal["go", "wait", "stop"]

# A slow write is answered by a pause of its own length; a write that hung for minutes must not cost minutes more.
LONGEST_REST = 30.0
# pg_replication_slots: with any other status the next checkpoint may remove, or has removed, what the consumer still needs.
SAFE_WAL = ("reserved", "extended")


@dataclass(frozen=True)
class Signals:
    """The signals as they were read at one moment. A signal that could not be read is None; ages and durations in seconds."""

    control: Control | None
    reading: Reading | None = None
    reading_age: float | None = None
    write_seconds: float | None = None
    write_age: float | None = None
    store: StorePressure = field(default_factory=StorePressure)
    """The vector store's own report of its load."""
    probed: Probed = field(default_factory=Probed)
    """How long searches of the version that serves take."""


@dataclass(frozen=True)
class Decision:
    """The answer and its first reason. `held` names every signal that objects: each must fall below half of its limit.

    `suspects`: the reading (by its `taken`) that would have stopped the backfill, which was only made to wait for a second one.
    """

    answer: Answer
    reason: str = ""
    signal: str = ""
    held: frozenset[str] = frozenset()
    suspects: float | None = None


@dataclass(frozen=True)
class Objection:
    signal: str
    reason: str
    stop: bool = False
    suspects: float | None = None


Rule = Callable[[Signals, ThrottleSpec, Decision], Iterator[Objection]]


def decide(signals: Signals, rules: ThrottleSpec, previous: Decision | None = None) -> Decision:
    """May I write now? Pure. `previous` is the decision before, from which come hysteresis and the second look."""
    before = previous or Decision("go")
    objections = [objection for rule in RULES for objection in rule(signals, rules, before)]
    held = frozenset(objection.signal for objection in objections)
    if UNKNOWN in held:
        # What cannot be seen now has not been seen to fall.
        held |= before.held - {CONTROL, UNKNOWN}
    first = min(objections, key=lambda objection: not objection.stop, default=None)
    if first is None:
        return Decision("go")
    suspects = next((each.suspects for each in objections if each.suspects is not None), None)
    return Decision("stop" if first.stop else "wait", first.reason, first.signal, held, suspects)


CONTROL = "control"
UNKNOWN = "unknown"
LAG = "replication lag"
MISSING = "standby missing"
SLOT = "slot"
WAL = "WAL rate"
VACUUM = "autovacuum"
BACKENDS = "active backends"
QUEUE = "queue age"
WRITE = "write latency"
SEARCH = "search latency"
STORE = "store"


def _control(signals: Signals, rules: ThrottleSpec, before: Decision) -> Iterator[Objection]:
    if signals.control is None:
        yield Objection(CONTROL, "the control row could not be read")
        return
    who = f" by {signals.control.changed_by}" + (f": {signals.control.reason}" if signals.control.reason else "")
    if signals.control.state == "aborted":
        yield Objection(CONTROL, f"aborted{who}", stop=True)
    if signals.control.state == "paused":
        yield Objection(CONTROL, f"paused{who}")


def _unknown(signals: Signals, rules: ThrottleSpec, before: Decision) -> Iterator[Objection]:
    if not rules.watches_server:
        return
    reading = signals.reading
    if reading is None or signals.reading_age is None:
        yield Objection(UNKNOWN, "unknown: the server has not been read yet")
        return
    if signals.reading_age > rules.stale_after_seconds:
        yield Objection(UNKNOWN, f"unknown: the last reading of the server is {signals.reading_age:.0f} s old")
    for problem in reading.unknown:
        yield Objection(UNKNOWN, f"unknown: {problem}")
    for standby in _declared(reading, rules):
        if standby.lag_bytes is None:
            yield Objection(UNKNOWN, f"unknown: standby {standby.name!r} ({standby.state or 'state unknown'}) shows no position")
        elif standby.reply_age is None or standby.reply_age > rules.max_reply_age_seconds:
            silent = "has never answered" if standby.reply_age is None else f"has been silent for {standby.reply_age:.0f} s"
            yield Objection(UNKNOWN, f"unknown: standby {standby.name!r} {silent}")
    for slot in reading.slots:
        if slot.retained_bytes is None and slot.wal_status in SAFE_WAL:
            yield Objection(UNKNOWN, f"unknown: slot {slot.name!r} shows no position")
    if rules.max_wal_bytes_per_second is not None and reading.wal_rate is None:
        yield Objection(UNKNOWN, "unknown: the WAL rate takes two readings")
    if rules.max_active_backends is not None and reading.active_backends is None:
        yield Objection(UNKNOWN, "unknown: active backends were not counted")


def _lag(signals: Signals, rules: ThrottleSpec, before: Decision) -> Iterator[Objection]:
    for standby in _declared(signals.reading, rules):
        # With nothing left to replay the time is that of the past, however high it is.
        if not standby.lag_bytes:
            continue
        name = f"{LAG}: standby {standby.name!r} is"
        if standby.lag_bytes > _limit(LAG, rules.max_lag_bytes, before):
            yield Objection(LAG, f"{name} {_size(standby.lag_bytes)} behind ({_limits(LAG, rules.max_lag_bytes, before, _size)})")
        elif standby.lag_seconds is not None and standby.lag_seconds > _limit(LAG, rules.max_lag_seconds, before):
            limits = _limits(LAG, rules.max_lag_seconds, before, _time)
            yield Objection(LAG, f"{name} {_time(standby.lag_seconds)} behind ({limits})")


def _missing(signals: Signals, rules: ThrottleSpec, before: Decision) -> Iterator[Objection]:
    if signals.reading is None:
        return
    there = {standby.name for standby in signals.reading.standbys}
    for name in rules.standbys:
        if name not in there:
            yield Objection(MISSING, f"{MISSING}: {name!r} is declared in throttle.standbys and is not connected")


def _slots(signals: Signals, rules: ThrottleSpec, before: Decision) -> Iterator[Objection]:
    if signals.reading is None:
        return
    for slot in signals.reading.slots:
        why = _why_stop(slot, rules)
        if why is not None and not _is_stale(signals, rules):
            again = before.suspects is not None and before.suspects != signals.reading.taken
            yield Objection(
                SLOT,
                f"{SLOT} {slot.name!r} {why}" + ("" if again else "; looking a second time before stopping"),
                stop=again,
                suspects=signals.reading.taken,
            )
        elif slot.retained_bytes is not None and slot.retained_bytes > _limit(SLOT, rules.max_slot_bytes, before):
            limits = _limits(SLOT, rules.max_slot_bytes, before, _size)
            yield Objection(SLOT, f"{SLOT} {slot.name!r} {_consumer(slot)}retains {_size(slot.retained_bytes)} of WAL ({limits})")


def _why_stop(slot: Slot, rules: ThrottleSpec) -> str | None:
    if slot.wal_status not in SAFE_WAL and slot.wal_status is not None:
        return f"{_consumer(slot)}is {slot.wal_status}: its consumer's WAL is being removed"
    if slot.retained_bytes is not None and slot.retained_bytes > rules.stop_slot_bytes:
        return f"{_consumer(slot)}retains {_size(slot.retained_bytes)} of WAL, more than stop_slot_bytes {_size(rules.stop_slot_bytes)}"
    return None


def _consumer(slot: Slot) -> str:
    return "" if slot.active else "(nobody reads it) "


def _wal(signals: Signals, rules: ThrottleSpec, before: Decision) -> Iterator[Objection]:
    most, rate = rules.max_wal_bytes_per_second, signals.reading.wal_rate if signals.reading else None
    if most is not None and rate is not None and rate > _limit(WAL, most, before):
        yield Objection(WAL, f"{WAL}: the server writes {_size(rate)}/s ({_limits(WAL, most, before, _size)})")


def _vacuum(signals: Signals, rules: ThrottleSpec, before: Decision) -> Iterator[Objection]:
    for vacuum in signals.reading.vacuumed if signals.reading else ():
        yield Objection(VACUUM, f"{VACUUM}: {vacuum} is running")


def _backends(signals: Signals, rules: ThrottleSpec, before: Decision) -> Iterator[Objection]:
    most, active = rules.max_active_backends, signals.reading.active_backends if signals.reading else None
    if most is not None and active is not None and active > _limit(BACKENDS, most, before):
        limits = _limits(BACKENDS, most, before, lambda value: f"{value:g}")
        yield Objection(BACKENDS, f"{BACKENDS}: {active} sessions are at work ({limits})")


def _queue(signals: Signals, rules: ThrottleSpec, before: Decision) -> Iterator[Objection]:
    most, behind = rules.max_queue_age_seconds, signals.reading.behind if signals.reading else None
    if most is not None and behind is not None and behind.seconds > _limit(QUEUE, most, before):
        limits = _limits(QUEUE, most, before, _time)
        yield Objection(
            QUEUE,
            f"{QUEUE}: {behind.version}, which serves, has changes that wait for {_time(behind.seconds)} ({limits}); "
            f"run: embed-pipeline sync {behind.index} --watch",
        )


def _write(signals: Signals, rules: ThrottleSpec, before: Decision) -> Iterator[Objection]:
    took, age = signals.write_seconds, signals.write_age
    if rules.max_write_seconds is None or took is None or age is None or took <= rules.max_write_seconds:
        return
    if age < min(took, LONGEST_REST):
        yield Objection(WRITE, f"{WRITE}: the last batch took {_time(took)} to write (limit {_time(rules.max_write_seconds)})")


def _store(signals: Signals, rules: ThrottleSpec, before: Decision) -> Iterator[Objection]:
    if signals.store.answer != "go":
        yield Objection(STORE, f"{STORE}: {signals.store.reason}", stop=signals.store.answer == "stop")


def _search(signals: Signals, rules: ThrottleSpec, before: Decision) -> Iterator[Objection]:
    """Never held to half of its limit: a search that nobody disturbs may take longer than that. Several probes are what keeps it from
    stuttering."""
    most, probed = rules.max_search_ms, signals.probed
    if most is None:
        return
    if probed.problem:
        yield Objection(SEARCH, f"{SEARCH}: unknown: {probed.problem}")
    elif probed.seconds is not None and probed.seconds * 1000 > most:
        yield Objection(SEARCH, f"{SEARCH}: a search of what serves takes {probed.seconds * 1000:.0f} ms (limit {most:g} ms)")


RULES: tuple[Rule, ...] = (_control, _unknown, _lag, _missing, _slots, _wal, _vacuum, _backends, _queue, _write, _search, _store)


def _declared(reading: Reading | None, rules: ThrottleSpec) -> Iterator[Standby]:
    for standby in reading.standbys if reading else ():
        if standby.name in rules.standbys:
            yield standby


def _is_stale(signals: Signals, rules: ThrottleSpec) -> bool:
    return signals.reading_age is None or signals.reading_age > rules.stale_after_seconds


def _limit(signal: str, declared: float, before: Decision) -> float:
    """Half of the limit for a signal that objects already."""
    return declared / 2 if signal in before.held else declared


def _limits(signal: str, declared: float, before: Decision, show: Callable[[float], str]) -> str:
    return f"limit {show(declared)}" + (f", goes on below {show(declared / 2)}" if signal in before.held else "")


def _size(count: float) -> str:
    for unit, length in (("GB", 2**30), ("MB", 2**20), ("kB", 2**10)):
        if count >= length:
            return f"{count / length:.1f} {unit}"
    return f"{count:.0f} B"


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s"
