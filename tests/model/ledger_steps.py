"""What may happen next in the ledger: each step is one commit, or one look whose result is used later."""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.explore import Model, Rules, Steps, put
from tests.model.ledger import (
    CHANGE,
    GONE,
    POISON,
    RELOAD,
    REMOVAL,
    RULES,
    SETTINGS,
    TRUNCATE,
    Distributor,
    Pending,
    Run,
    Search,
    State,
    Worker,
    judge,
    removal_announced,
)


def steps(s: State, rules: Rules) -> Steps[State]:
    yield from application(s, rules)
    for n, distributor in enumerate(s.distributors):
        yield from distribution(s, rules, n, distributor)
    yield from claims(s)
    for n, worker in enumerate(s.workers):
        yield from work(s, rules, n, worker)
    for n, run in enumerate(s.runs):
        yield from filling(s, rules, n, run)
        yield from completion(s, rules, n, run)
    if s.filled and not s.serving:
        yield "cutover", s._replace(serving=True)
    yield from searching(s, rules)


# The application


def application(s: State, rules: Rules) -> Steps[State]:
    if not s.live:
        yield "the version is registered", s._replace(live=True)
    if not s.edits:
        return
    for name, doc, announced in transactions(s):
        after = changed(s, doc, reloaded=name.startswith("TRUNCATE"))
        yield f"application: {name}", after._replace(inbox=tuple(sorted((*s.inbox, *announced))))
        if s.failures:
            doubt = 1 << (s.failures - 1) if "failure_is_doubt" in rules else 0
            yield (
                f"application: {name}, which capture fails to announce",
                after._replace(failures=s.failures - 1, doubts=s.doubts | doubt),
            )


def transactions(s: State) -> Iterator[tuple[str, int, str]]:
    if CHANGE in s.changes:
        for text in s.texts:
            if text != s.doc:
                yield f"{'UPDATE' if s.doc else 'INSERT'}, text {text}", text, CHANGE
    if s.doc == GONE:
        return
    if REMOVAL in s.changes:
        yield "DELETE", GONE, REMOVAL
    if TRUNCATE in s.changes:
        yield "TRUNCATE", GONE, TRUNCATE
    if RELOAD in s.changes:
        yield "TRUNCATE and load in one transaction", s.doc, TRUNCATE + CHANGE


def changed(s: State, doc: int, *, reloaded: bool) -> State:
    search = s.search
    if search is not None:
        search = search._replace(
            ever=search.ever or doc != GONE,
            always=search.always and doc != GONE,
            blind=search.blind or (reloaded and search.phase != "begun"),
        )
    runs = tuple(run if run.phase == "idle" else run._replace(dirty=True) for run in s.runs)
    return s._replace(doc=doc, edits=s.edits - 1, runs=runs, search=search)


# Distribution


def announce(s: State, removed: bool, rules: Rules) -> State:
    """The upsert: a new seq, so that whoever holds a claim is overtaken; the claim of a row that is there stays."""
    old = s.pending
    kept = old is not None and old.removed and "removal_accumulates" in rules
    return s._replace(
        pending=Pending(removed or kept, None if old is None else old.claim),
        workers=tuple(None if each is None else each._replace(current=False) for each in s.workers),
    )


def distribution(s: State, rules: Rules, n: int, held: Distributor | None) -> Steps[State]:
    def holding(value: Distributor | None, **others: object) -> State:
        return s._replace(distributors=put(s.distributors, n, value), **others)  # type: ignore[arg-type]

    who = f"distributor {n}"
    if held is None and "rows_then_versions" not in rules:
        yield f"{who} reads versions", holding(Distributor(None, s.live))
    elif held is None or held.row is None:
        for row in sorted(set(s.inbox)):
            left = list(s.inbox)
            left.remove(row)
            live = s.live if held is None else held.live
            yield f"{who} takes row {row}", holding(Distributor(row, live), inbox=tuple(left))
    else:
        yield from distributing(s, rules, n, held)


def distributing(s: State, rules: Rules, n: int, held: Distributor) -> Steps[State]:
    def holding(value: Distributor | None, **others: object) -> State:
        return s._replace(distributors=put(s.distributors, n, value), **others)  # type: ignore[arg-type]

    who = f"distributor {n}"
    lost = held.row == TRUNCATE and "truncate_row_stays" not in rules
    if s.mortal and held.row is not None:
        yield f"{who} dies", holding(None, inbox=s.inbox if lost else tuple(sorted((*s.inbox, held.row))))
    if held.row == TRUNCATE and held.announces is None:
        yield f"{who} looks what TRUNCATE took", holding(held._replace(announces=expanded(s, rules)))
    else:
        after = holding(None)
        due = held.live and (held.row != TRUNCATE or bool(held.announces))
        yield f"{who} commits", announce(after, held.row != CHANGE, rules) if due else after


def expanded(s: State, rules: Rules) -> bool:
    pending = s.pending is not None and "truncate_announces_pending" in rules
    letter = s.letter != GONE and "truncate_announces_letters" in rules
    return s.doc == GONE and (s.store != GONE or pending or letter)


# Dual-write


def claims(s: State) -> Steps[State]:
    if s.pending is not None and s.pending.claim is not None:
        yield "a claim is judged dead", s._replace(pending=s.pending._replace(claim=None))


def work(s: State, rules: Rules, n: int, worker: Worker | None) -> Steps[State]:
    def holding(value: Worker | None, **others: object) -> State:
        return s._replace(workers=put(s.workers, n, value), **others)  # type: ignore[arg-type]

    who = f"worker {n}"
    if worker is not None and s.mortal:
        yield f"{who} dies", holding(None)
    free = s.live and s.pending is not None and s.pending.claim is None
    if worker is None:
        if free and "claim_then_read" in rules and s.pending is not None:
            yield f"{who} claims", holding(Worker("claimed", True), pending=s.pending._replace(claim=n))
        elif free:
            yield f"{who} reads", holding(Worker("early", True, s.doc))
        if s.pending is not None and s.store == s.doc and "settle_under_claim" not in rules:
            yield f"{who} sees without a claim that nothing is to do", holding(Worker("settles", True))
    elif worker.phase == "early" and free and s.pending is not None:
        yield f"{who} claims", holding(Worker("read", True, worker.text), pending=s.pending._replace(claim=n))
    elif worker.phase == "claimed":
        yield f"{who} reads", holding(Worker("read", worker.current, s.doc))
    elif worker.phase == "settles":
        yield f"{who} settles", holding(None, pending=None if worker.current else s.pending)
    elif worker.phase == "read":
        mine = s.pending is not None and s.pending.claim == n
        if mine or "write_under_claim" not in rules:
            yield (
                f"{who} writes",
                acknowledged(written(holding(None), worker.text, rules), worker, rules)
                if mine
                else written(holding(None), worker.text, rules),
            )


def written(s: State, text: int, rules: Rules) -> State:
    """What stands there already is left as it is: the change is settled."""
    letter = GONE if "write_forgets_letter" in rules else s.letter
    if text == POISON:
        kept = "rejection_removes" not in rules
        return s._replace(store=s.store if kept else GONE, tag=s.tag if kept else 0, letter=POISON)
    if text == s.store:
        return s._replace(letter=letter)
    return s._replace(store=text, tag=0, letter=letter)


def acknowledged(s: State, worker: Worker, rules: Rules) -> State:
    if s.pending is None or worker.current or "acknowledge_by_seq" not in rules:
        return s._replace(pending=None)
    keeps = "removal_outlives_removal" if worker.text == GONE else "removal_outlives_overtaken"
    removed = s.pending.removed and keeps in rules
    return s._replace(pending=Pending(removed, None))


# Backfill


def take_epoch(s: State, n: int, run: Run, *, really: bool = True) -> State:
    runs = s.runs if not really else tuple(each._replace(current=False) for each in s.runs)
    return s._replace(runs=put(runs, n, run))


def ended(s: State, n: int) -> State:
    return s._replace(runs=put(s.runs, n, Run()), tag=0 if s.tag == n + 1 else s.tag)


def filling(s: State, rules: Rules, n: int, run: Run) -> Steps[State]:
    who = f"fill {n}"
    if run.phase == "idle" and s.live and s.openings != 0 and (not s.filled or "filled_stays_closed" not in rules):
        fresh = take_epoch(s, n, Run("open", current=True), really="opening_takes_epoch" in rules)
        yield (
            f"{who} opens the partition",
            fresh._replace(closed=False, openings=s.openings - 1 if s.openings > 0 else s.openings),
        )
    elif run.phase != "idle" and s.mortal:
        yield f"{who} dies", ended(s, n)
    if run.phase == "open" and s.store == GONE and s.doc not in (GONE, s.letter):
        yield f"{who} reads", s._replace(runs=put(s.runs, n, run._replace(phase="read", text=s.doc)))
    if run.phase == "read":
        fenced = (not run.current and "insert_under_epoch" in rules) or (s.closed and "closed_to_inserts" in rules)
        if not fenced:
            yield (
                f"{who} inserts",
                inserted(s._replace(runs=put(s.runs, n, run._replace(phase="open", text=GONE))), n, run.text, rules),
            )


def inserted(s: State, n: int, text: int, rules: Rules) -> State:
    if s.store != GONE and "insert_only" in rules:
        return s
    if text == POISON:
        return s._replace(letter=s.letter or POISON)
    return s._replace(store=text, tag=n + 1)


def completion(s: State, rules: Rules, n: int, run: Run) -> Steps[State]:
    who = f"fill {n}"
    if run.phase == "open" and "compare_before_mark" not in rules:
        if is_complete(s):
            yield f"{who} finds nothing missing and marks it", marked(s, n)
    elif run.phase == "open":
        yield f"{who} closes the partition", closed(s, n, run)
    elif run.phase == "idle" and s.filled and s.refills:
        yield f"{who} closes it to fill it again", closed(s._replace(refills=s.refills - 1), n, run._replace(dirty=True))
    elif run.phase == "closed":
        yield f"{who} compares", compared(s, rules, n, run)
    elif run.phase == "compared":
        after = s._replace(runs=put(s.runs, n, run._replace(phase="queued")))
        yield f"{who} queues differences", announce(after, run.text == GONE, rules) if run.differs else after
    elif run.phase == "queued":
        cleared = s._replace(doubts=s.doubts & ~run.saw if "clear_what_was_seen" in rules else 0)
        if run.current or "mark_by_epoch" not in rules:
            yield f"{who} marks it filled", marked(cleared, n)
        else:
            yield f"{who} finds its epoch gone", ended(s, n)


def is_complete(s: State) -> bool:
    return s.store != GONE or s.doc in (GONE, s.letter)


def closed(s: State, n: int, run: Run) -> State:
    return take_epoch(s, n, run._replace(phase="closed", current=True))._replace(closed=True)


def marked(s: State, n: int) -> State:
    return ended(s, n)._replace(filled=True, closed=False)


def compared(s: State, rules: Rules, n: int, run: Run) -> State:
    """One snapshot of documents, vectors, letters, pending rows and doubts. `text` is the document's, for `removed`."""
    mine = s.tag == n + 1 or (s.store != GONE and "skip_own_epoch" not in rules)
    unhashed = mine and s.doc != GONE and (not run.dirty or "skip_unchanged_rows" not in rules)
    distrusted = s.doubts != 0 and s.pending is not None and "doubt_announces_pending" in rules
    differing = distrusted or (not unhashed and differs(s, rules))
    after = run._replace(phase="compared", text=s.doc, differs=differing, saw=s.doubts)
    cleared = s if "queue_before_clear" in rules else s._replace(doubts=0)
    return cleared._replace(runs=put(s.runs, n, after))


def differs(s: State, rules: Rules) -> bool:
    letter = s.letter if "letters_by_hash" in rules or s.letter == GONE else s.doc
    if letter != GONE and letter == s.doc:
        return s.store != GONE and "letters_beside_nothing" in rules
    return s.store != s.doc or letter != GONE or s.doc == POISON


# Search


def searching(s: State, rules: Rules) -> Steps[State]:
    search = s.search
    if search is None:
        if s.searches and s.serving:
            there = s.doc != GONE
            yield "a search begins", s._replace(searches=s.searches - 1, search=Search("begun", there, there))
    elif search.phase == "begun":
        check = removal_announced(s, rules)
        phase = "scanned" if "hide_in_one_snapshot" in rules else "unchecked"
        yield "the search scans vectors", s._replace(search=search._replace(phase=phase, hit=s.store != GONE, check=check))
    elif search.phase == "unchecked":
        yield (
            "the search reads what is announced",
            s._replace(search=search._replace(phase="scanned", check=removal_announced(s, rules))),
        )
    elif search.phase == "scanned":
        blind = search.blind and "look_in_own_snapshot" not in rules
        hidden = search.check and (s.doc == GONE or blind)
        answer = "absent" if not search.hit else "hidden" if hidden else "shown"
        yield (
            "the search looks at announced documents and answers",
            s._replace(search=search._replace(phase="done", answer=answer)),
        )


MODEL = Model("ledger", RULES, SETTINGS, steps, judge, {})
