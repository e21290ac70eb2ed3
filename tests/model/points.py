"""One document and one version on Qdrant: no transaction holds PostgreSQL and the store together, and no frozen writer can be fenced.

Every write of a point is a compare-and-set on what was read of it. A worker holds whether its point is still as it was read (`read`), the
store draws a new number at every write. The store answers no question about the past: what a process learned, it learned in a certain
order. A search looks all its hits up by key, so that the judge asks only whether what is stored and what is announced agree.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.model.explore import Limit, Model, Rule, Rules, Setting, Steps, put

ABSENT, GONE, POISON = 0, 0, 9
TOMBSTONE, EMPTY = -1, -2
FREE = -1
"""A pending row that nobody has claimed."""


class Worker(NamedTuple):
    """claimed, embedded, read, checked (the claim), written; `read`: absent, same, changed."""

    phase: str
    current: bool = True
    text: int = GONE
    read: str = ""
    equal: bool = False


class State(NamedTuple):
    texts: tuple[int, ...]
    changes: str
    doc: int
    edits: int
    point: int
    workers: tuple[Worker | None, ...]
    inserts: tuple[tuple[str, int, bool] | None, ...]
    """A backfill's batch: (phase, text, whether the partition's epoch is still its own)."""
    filled: bool
    listing: bool = False
    """Whether a backfill lists its batch in the ledger before it inserts, and a TRUNCATE announces what is listed."""
    inbox: tuple[str, ...] = ()
    expanding: tuple[bool | None, bool | None] | None = None
    """A TRUNCATE in a distributor's hands: whether the document was pending, whether its point was there."""
    pending: int | None = None
    comparison: tuple[str, int] | None = None


RULES = {
    "compare_and_set": Rule("A point is written only if it is as it was read.", "serve"),
    "point_then_claim": Rule("A point is read before the claim is checked.", "serve"),
    "claim_checked": Rule("A worker finds its claim still there before it writes.", "serve"),
    "acknowledge_by_seq": Rule("A pending row goes only if its seq is the one that was claimed.", "serve"),
    "acknowledge_under_claim": Rule("A pending row goes only if the claim is the worker's own.", None),
    "settling_writes": Rule("An acknowledgement that changes nothing still writes a new seq.", "serve"),
    "tombstones": Rule("A removal leaves a tombstone, even where nothing was stored.", "fill"),
    "rejection_leaves_a_point": Rule(
        "A text that can have no vector leaves an empty point, even where nothing was stored.", "reject"
    ),
    "insert_only": Rule(
        "A backfill inserts where no point is, and nowhere else: tombstones and empty points are points.", "fill"
    ),
    "pending_before_points": Rule("A TRUNCATE looks at pending before it looks at points.", "truncate"),
    "comparison_queues": Rule("A partition counts as filled after a comparison whose differences are queued.", "fill"),
    "epoch_checked": Rule("A backfill looks at its partition's epoch before it inserts.", None),
}


def steps(s: State, rules: Rules) -> Steps[State]:
    yield from application(s)
    yield from distribution(s, rules)
    if s.pending is not None and s.pending != FREE:
        yield "a claim is judged dead", s._replace(pending=FREE)
    for n, worker in enumerate(s.workers):
        yield from work(s, rules, n, worker)
    for n, insert in enumerate(s.inserts):
        yield from backfill(s, rules, n, insert)
    yield from completion(s, rules)


def application(s: State) -> Steps[State]:
    if not s.edits:
        return
    for text in s.texts if "c" in s.changes else ():
        if text != s.doc:
            yield f"application: writes text {text}", changed(s, text, "c")
    for row, name in (("r", "DELETE"), ("t", "TRUNCATE")):
        if row in s.changes and s.doc != GONE:
            yield f"application: {name}", changed(s, GONE, row)


def changed(s: State, doc: int, row: str) -> State:
    return s._replace(doc=doc, edits=s.edits - 1, inbox=tuple(sorted((*s.inbox, row))))


def announce(s: State) -> State:
    workers = tuple(each and each._replace(current=False) for each in s.workers)
    return s._replace(pending=FREE if s.pending is None else s.pending, workers=workers)


def distribution(s: State, rules: Rules) -> Steps[State]:
    for row in sorted(set(s.inbox)):
        left = list(s.inbox)
        left.remove(row)
        if row != "t":
            yield f"row {row} is distributed", announce(s._replace(inbox=tuple(left)))
        elif s.expanding is None:
            yield "a distributor takes the TRUNCATE", s._replace(inbox=tuple(left), expanding=(None, None))
    if s.expanding is None:
        return
    pending, there = s.expanding
    listed = s.listing and any(each is not None and each[0] != "read" for each in s.inserts)
    if pending is None and ("pending_before_points" in rules or there is not None):
        yield "it looks at pending", s._replace(expanding=(s.pending is not None or listed, there))
    elif there is None:
        yield "it looks at points", s._replace(expanding=(pending, s.point > 0 or s.point == EMPTY))
    else:
        due = s.doc == GONE and bool(pending or there)
        yield "it announces what it found", announce(s._replace(expanding=None)) if due else s._replace(expanding=None)


# Dual-write


def work(s: State, rules: Rules, n: int, worker: Worker | None) -> Steps[State]:
    def holding(value: Worker | None, **others: object) -> State:
        return s._replace(workers=put(s.workers, n, value), **others)  # type: ignore[arg-type]

    who = f"worker {n}"
    if worker is None:
        if s.pending == FREE:
            yield f"{who} claims", holding(Worker("claimed"), pending=n)
        return
    yield f"{who} dies", holding(None)
    mine = s.pending == n or "claim_checked" not in rules
    before, after = ("read", "checked") if "point_then_claim" in rules else ("checked", "read")
    if worker.phase == "claimed":
        yield f"{who} reads the document and embeds it", holding(worker._replace(phase="embedded", text=s.doc))
    elif worker.phase == after:
        yield from setting_point(s, rules, n, worker)
    elif worker.phase == "written":
        yield f"{who} acknowledges", acknowledged(holding(None), n, worker, rules)
    elif (worker.phase, before) in (("embedded", "read"), ("checked", "checked")):
        equal = s.point == target(worker.text) or (worker.text == GONE and s.point == ABSENT)
        yield (
            f"{who} reads the point",
            holding(worker._replace(phase="read", read="same" if s.point != ABSENT else "absent", equal=equal)),
        )
    elif mine:
        yield f"{who} finds its claim", holding(worker._replace(phase="checked"))


def target(text: int) -> int:
    return {GONE: TOMBSTONE, POISON: EMPTY}.get(text, text)


def setting_point(s: State, rules: Rules, n: int, worker: Worker) -> Steps[State]:
    done = s._replace(workers=put(s.workers, n, worker._replace(phase="written")))
    if needless(s, worker, rules):
        yield f"worker {n} has nothing to write", done
    elif worker.read == "same" or (worker.read == "absent" and s.point == ABSENT) or "compare_and_set" not in rules:
        content = ABSENT if worker.text == GONE and "tombstones" not in rules else target(worker.text)
        yield f"worker {n} writes {NAMES.get(content, f'text {content}')}", stamped(done, content)
    else:
        again = worker._replace(phase="claimed", text=GONE, read="", equal=False)
        yield f"worker {n} finds the point changed", s._replace(workers=put(s.workers, n, again))


NAMES = {ABSENT: "nothing", TOMBSTONE: "a tombstone", EMPTY: "an empty point"}


def needless(s: State, worker: Worker, rules: Rules) -> bool:
    if worker.read == "absent" and worker.text == GONE:
        return "tombstones" not in rules
    if worker.read == "absent" and worker.text == POISON:
        return "rejection_leaves_a_point" not in rules
    return worker.equal and "settling_writes" not in rules


def stamped(s: State, content: int) -> State:
    """Whatever is written draws a new number: who has read the point before finds it changed."""
    workers = tuple(each and each._replace(read="changed" if each.read == "same" else each.read) for each in s.workers)
    return s._replace(point=content, workers=workers)


def acknowledged(s: State, n: int, worker: Worker, rules: Rules) -> State:
    if s.pending is None or (s.pending != n and "acknowledge_under_claim" in rules):
        return s
    done = worker.current or "acknowledge_by_seq" not in rules
    return s._replace(pending=None if done else FREE if s.pending == n else s.pending)


# Backfill


def backfill(s: State, rules: Rules, n: int, insert: tuple[str, int, bool] | None) -> Steps[State]:
    if insert is None:
        if not s.filled and s.comparison is None and s.point == ABSENT and s.doc not in (GONE, POISON):
            yield f"backfill {n} reads the document and embeds it", s._replace(inserts=put(s.inserts, n, ("read", s.doc, True)))
        return
    phase, text, current = insert
    if phase == "read" and s.listing:
        yield (
            f"backfill {n} lists its batch and reads the document again",
            s._replace(inserts=put(s.inserts, n, ("listed", text, current) if s.doc == text else None)),
        )
    elif phase in ("read", "listed") and (current or "epoch_checked" not in rules):
        yield f"backfill {n} finds its epoch", s._replace(inserts=put(s.inserts, n, ("checked", text, current)))
    elif phase in ("read", "listed"):
        yield f"backfill {n} finds its epoch gone", s._replace(inserts=put(s.inserts, n, None))
    elif phase == "checked":
        done = s._replace(inserts=put(s.inserts, n, None))
        free = s.point == ABSENT or "insert_only" not in rules
        yield f"backfill {n} inserts text {text}", stamped(done, text) if free else done


def completion(s: State, rules: Rules) -> Steps[State]:
    """Points first, then the documents; each at a moment of its own."""
    if s.filled:
        return
    if s.comparison is None:
        inserts = tuple(each and (each[0], each[1], False) for each in s.inserts)
        yield "the partition is closed", s._replace(comparison=("closed", 0), inserts=inserts)
    elif s.comparison[0] == "closed":
        yield "the comparison reads the point", s._replace(comparison=("point", s.point))
    elif s.comparison[0] == "point":
        seen = s.comparison[1]
        equal = seen == target(s.doc) or (s.doc == GONE and seen == ABSENT)
        yield "the comparison reads the document", s._replace(comparison=("equal" if equal else "differs", 0))
    else:
        queue = s.comparison[0] == "differs" and "comparison_queues" in rules
        after = s._replace(comparison=None, filled=True)
        yield "differences are queued, the partition is filled", announce(after) if queue else after


def judge(s: State, rules: Rules) -> str | None:
    if not s.filled or s.inbox or s.expanding is not None or s.pending is not None:
        return None
    stored = max(s.point, GONE)
    wanted = GONE if s.doc == POISON else s.doc
    if stored == wanted:
        return None
    return f"stored is {stored or 'nothing'}, the document is {wanted or 'gone or has no vector'}, and nothing says so"


def first(
    edits: int, *, workers: int, inserts: int = 0, changes: str = "cr", texts: tuple[int, ...] = (1, 2), listing: bool = False
) -> State:
    filled = not inserts
    return State(texts, changes, 1, edits, 1 if filled else ABSENT, (None,) * workers, (None,) * inserts, filled, listing)


SETTINGS = {
    "serve": Setting((first(2, workers=2, changes="c"),)),
    "fill": Setting((first(1, workers=1, inserts=1),)),
    "truncate": Setting((first(2, workers=1, changes="ct")._replace(doc=GONE, point=ABSENT),)),
    "reject": Setting((first(1, workers=1, inserts=1, changes="c", texts=(1, POISON)),)),
    "truncate beside listed inserts": Setting((first(1, workers=1, inserts=1, changes="t", listing=True),)),
    "three changes": Setting((first(3, workers=2),), large=True),
    "fill, two workers": Setting((first(1, workers=2, inserts=1),), large=True),
}

LIMITS = {
    "truncate beside inserts": Limit(
        "A TRUNCATE names no documents. An insert that is on its way to Qdrant while it is worked off comes to rest as an orphan that "
        "nothing announces until the next full comparison; a search of ours, which looks all hits up, does not show it.",
        (first(1, workers=1, inserts=1, changes="t"),),
    ),
}

MODEL = Model("points", RULES, SETTINGS, steps, judge, LIMITS)
