"""One document and two versions: v1 serves, v2 takes over by a mark. What v1 served when the cutover began, v2 must serve after the flip.

`moment` counts the document's changes; a version's moment is that of the text which was last written or settled for it. Distribution gives
both versions their pending rows in one transaction. seq, since and mark are numbers here, because they are compared by size.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.model.explore import Model, Rule, Rules, Setting, Steps, put

V1, V2 = 0, 1


class Pending(NamedTuple):
    seq: int
    since: int
    claim: int | None = None


class Claim(NamedTuple):
    """One worker for each version at a time; the ledger's model has those who lose their claims and go on."""

    seq: int
    moment: int | None = None


class Row(NamedTuple):
    moment: int
    before: bool = False
    """Whether it was there when the cutover began."""


class State(NamedTuple):
    moment: int
    edits: int
    distributors: tuple[tuple[Row, int | None] | None, ...]
    inbox: tuple[Row, ...] = ()
    last_seq: int = 0
    pending: tuple[Pending | None, ...] = (None, None)
    workers: tuple[Claim | None, ...] = (None, None)
    served: tuple[int, ...] = (0, 0)
    cutover: str = "not begun"
    promised: int = 0
    mark: int = 0


RULES = {
    "mark_after_inbox": Rule(
        "The mark is taken after the inbox rows that were there when the cutover began have been distributed.", "one distributor"
    ),
    "drain_by_since": Rule(
        "A drain waits for the first change that is not acknowledged, since_seq, not for the last one.", "hot document"
    ),
    "since_is_kept": Rule("An upsert leaves the since_seq of a row that is there.", "hot document"),
    "since_past_the_claim": Rule(
        "An overtaken write sets since_seq just past the seq it claimed, not to the row's newest.", "hot document"
    ),
    "drain_before_flip": Rule("A cutover waits until nothing is pending for v2 since before the mark.", "hot document"),
    "claim_then_read": Rule("A claim is taken before the text is read.", "hot document"),
}


def steps(s: State, rules: Rules) -> Steps[State]:
    if s.edits:
        row = Row(s.moment + 1)
        yield f"application: change {s.moment + 1}", s._replace(moment=s.moment + 1, edits=s.edits - 1, inbox=(*s.inbox, row))
    for n, held in enumerate(s.distributors):
        yield from distribution(s, rules, n, held)
    for v in (V1, V2):
        yield from work(s, rules, v)
    yield from cutover(s, rules)


def distribution(s: State, rules: Rules, n: int, held: tuple[Row, int | None] | None) -> Steps[State]:
    """Rows are taken in any order; the seqs are drawn before the upsert commits."""
    if held is None:
        for row in s.inbox:
            left = tuple(each for each in s.inbox if each != row)
            yield (
                f"distributor {n} takes change {row.moment}",
                s._replace(inbox=left, distributors=put(s.distributors, n, (row, None))),
            )
    elif held[1] is None:
        taken = put(s.distributors, n, (held[0], s.last_seq + 1))
        yield (
            f"distributor {n} draws seqs {s.last_seq + 1} and {s.last_seq + 2}",
            s._replace(last_seq=s.last_seq + 2, distributors=taken),
        )
    else:
        pending = tuple(upserted(old, held[1] + v, rules) for v, old in enumerate(s.pending))
        yield f"distributor {n} commits", s._replace(pending=pending, distributors=put(s.distributors, n, None))


def upserted(old: Pending | None, seq: int, rules: Rules) -> Pending:
    if old is None:
        return Pending(seq, seq)
    return old._replace(seq=seq, since=old.since if "since_is_kept" in rules else seq)


def work(s: State, rules: Rules, v: int) -> Steps[State]:
    def holding(claim: Claim | None, pending: Pending | None, **others: object) -> State:
        return s._replace(workers=put(s.workers, v, claim), pending=put(s.pending, v, pending), **others)  # type: ignore[arg-type]

    row, held, name = s.pending[v], s.workers[v], f"v{v + 1}"
    if held is not None:
        yield f"{name}: the worker dies and its claim is freed", holding(None, None if row is None else row._replace(claim=None))
    if held is None and row is not None:
        early = "claim_then_read" not in rules
        if row.claim is None:
            yield f"{name}: a worker claims seq {row.seq}", holding(Claim(row.seq), row._replace(claim=row.seq))
            if early:
                yield f"{name}: a worker reads change {s.moment} and has not claimed", holding(Claim(0, s.moment), row)
    elif held is not None and held.seq == 0:
        if row is not None and row.claim is None:
            yield f"{name}: it claims seq {row.seq}", holding(Claim(row.seq, held.moment), row._replace(claim=row.seq))
    elif held is not None and held.moment is None:
        yield f"{name}: it reads change {s.moment}", holding(held._replace(moment=s.moment), row)
    elif held is not None and held.moment is not None:
        served = put(s.served, v, held.moment)
        left = None if row is None or row.seq == held.seq else overtaken(row, held.seq, rules)
        yield f"{name}: it writes change {held.moment}", holding(None, left, served=served)


def overtaken(row: Pending, claimed: int, rules: Rules) -> Pending:
    return Pending(row.seq, claimed + 1 if "since_past_the_claim" in rules else row.seq)


def cutover(s: State, rules: Rules) -> Steps[State]:
    if s.cutover == "not begun":
        rows = tuple(row._replace(before=True) for row in s.inbox)
        held = tuple(each and (each[0]._replace(before=True), each[1]) for each in s.distributors)
        yield (
            f"the cutover begins; v1 serves change {s.served[V1]}",
            s._replace(cutover="begun", promised=s.served[V1], inbox=rows, distributors=held),
        )
    elif s.cutover == "begun":
        waits = any(row.before for row in s.inbox) or any(each is not None and each[0].before for each in s.distributors)
        if not waits or "mark_after_inbox" not in rules:
            yield f"the mark is taken: {s.last_seq}", s._replace(cutover="marked", mark=s.last_seq)
    elif s.cutover == "marked":
        row = s.pending[V2]
        due = row is not None and (row.since if "drain_by_since" in rules else row.seq) <= s.mark
        if not due or "drain_before_flip" not in rules:
            yield "the flip", s._replace(cutover="flipped")


def judge(s: State, rules: Rules) -> str | None:
    if s.cutover == "flipped" and s.served[V2] < s.promised:
        return f"v2 serves change {s.served[V2]}, v1 served change {s.promised} when the cutover began"
    return None


# v2 is about to write change 1; change 2 is distributed, and v1 has written it.
_HOT = State(2, 1, (None,), (), 4, (None, Pending(4, 2, claim=2)), (None, Claim(2, 1)), (2, 0))

SETTINGS = {
    "one distributor": Setting((State(0, 2, (None,)),)),
    "hot document": Setting((_HOT,)),
    "three changes": Setting((State(0, 3, (None,)),), large=True),
    "two distributors": Setting((State(0, 3, (None, None)),), large=True),
}

MODEL = Model("two_versions", RULES, SETTINGS, steps, judge, {})
