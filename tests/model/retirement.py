"""One version that is being retired beside those who queue work for it. Nothing may be left pending for a version that is no more.

Row locks are modelled as PostgreSQL has them: FOR SHARE waits for FOR UPDATE and the other way round, and whoever has waited looks at the
row as it is then. A statement sees what was committed when it began.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.model.explore import Model, Rule, Rules, Setting, Steps, put

QUEUERS = ("distributor", "comparison")


class State(NamedTuple):
    live: bool = True
    queuers: tuple[str, ...] = ("idle", "idle")
    """idle, seen (its snapshot has the version live), locked (upserted and not committed), done"""
    retire: str = "idle"
    """idle, asked, locked, retired (uncommitted), done"""
    pending: bool = False
    swept: bool = False
    """Whether the retire's look at pending saw a row, which it deletes."""


RULES = {
    "share_lock": Rule(
        "A distributor locks the version rows it found live FOR SHARE, and drops those that are retired by then.", "retire"
    ),
    "comparison_share_lock": Rule("So does everybody else who queues: a comparison with its differences.", "retire"),
    "update_lock": Rule("Retire locks the version row FOR UPDATE, so it waits for those who are about to queue.", "retire"),
    "look_after_lock": Rule("Retire looks for what is pending in a statement after the one that got the lock.", "retire"),
    "one_transaction": Rule("Retire deletes what is pending and ends the version in one transaction.", "retire"),
}
LOCKS = dict(zip(QUEUERS, ("share_lock", "comparison_share_lock"), strict=True))


def steps(s: State, rules: Rules) -> Steps[State]:
    for n, (who, phase) in enumerate(zip(QUEUERS, s.queuers, strict=True)):
        yield from queueing(s, rules, n, who, phase)
    yield from retiring(s, rules)


def queueing(s: State, rules: Rules, n: int, who: str, phase: str) -> Steps[State]:
    def to(value: str) -> tuple[str, ...]:
        return put(s.queuers, n, value)

    if phase == "idle":
        yield (
            f"the {who} begins and sees the version {'live' if s.live else 'retired'}",
            s._replace(queuers=to("seen" if s.live else "done")),
        )
    elif phase == "seen":
        if LOCKS[who] not in rules:
            yield f"the {who} queues", s._replace(queuers=to("locked"))
        elif s.retire not in ("locked", "retired") or "update_lock" not in rules:
            gets = s.live
            yield (
                f"the {who} {'locks the version and queues' if gets else 'finds it retired'}",
                s._replace(queuers=to("locked" if gets else "done")),
            )
    elif phase == "locked":
        yield f"the {who} commits", s._replace(queuers=to("done"), pending=True)


def retiring(s: State, rules: Rules) -> Steps[State]:
    shared = any(phase == "locked" and LOCKS[who] in rules for who, phase in zip(QUEUERS, s.queuers, strict=True))
    if s.retire == "idle":
        early = "look_after_lock" not in rules
        yield "retire begins", s._replace(retire="asked", swept=early and s.pending)
    elif s.retire == "asked" and (not shared or "update_lock" not in rules):
        yield "retire locks the version", s._replace(retire="locked")
    elif s.retire == "locked" and "one_transaction" not in rules:
        yield "retire deletes what is pending and commits", s._replace(retire="unlocked", pending=False)
    elif s.retire == "locked":
        swept = s.swept if "look_after_lock" not in rules else s.pending
        yield "retire deletes what is pending", s._replace(retire="retired", swept=swept)
    elif s.retire == "unlocked":
        yield "the version is no more", s._replace(retire="done", live=False)
    elif s.retire == "retired":
        yield "retire commits", s._replace(retire="done", live=False, swept=False, pending=s.pending and not s.swept)


def judge(s: State, rules: Rules) -> str | None:
    if s.retire == "done" and s.pending:
        return "something is pending for a version that is retired"
    return None


SETTINGS = {"retire": Setting((State(), State(pending=True)))}

MODEL = Model("retirement", RULES, SETTINGS, steps, judge, {})
