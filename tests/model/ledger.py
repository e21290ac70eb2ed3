"""One document and one version on pgvector: from the application's commit to what a search answers.

Numbers (seq, epoch, claim) are only ever compared for equality, so a state holds none: `Worker.current` says whether the seq that was
claimed is still the pending row's, `Run.current` whether the epoch that was taken is still the partition's, and a claim is the worker
that drew it, who forgets it before it draws another one. So a state space is finite, and small.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.model.explore import Rule, Rules, Setting

GONE, POISON = 0, 9
"""A document that is not there, and a text that can have no vector."""

CHANGE, REMOVAL, TRUNCATE = "c", "r", "t"
"""Inbox rows, and the same letters for what an application may do; RELOAD takes the rows away and brings them back in one transaction."""
RELOAD = "l"


class Pending(NamedTuple):
    removed: bool = False
    claim: int | None = None


class Distributor(NamedTuple):
    """Transactions in progress: `row` None as long as only the versions are read."""

    row: str | None
    live: bool
    announces: bool | None = None


class Worker(NamedTuple):
    phase: str
    current: bool
    text: int = GONE


class Run(NamedTuple):
    """A fill: open, read, open ... closed, compared, queued. `dirty`: the document's row has changed since this run opened."""

    phase: str = "idle"
    current: bool = False
    dirty: bool = False
    text: int = GONE
    differs: bool = False
    saw: int = 0


class Search(NamedTuple):
    """`ever`, `always`: whether the document was there at one moment, at every moment since the search began."""

    phase: str
    ever: bool
    always: bool
    hit: bool = False
    check: bool = False
    blind: bool = False
    answer: str = ""


class State(NamedTuple):
    texts: tuple[int, ...]
    changes: str
    doc: int
    edits: int
    failures: int
    distributors: tuple[Distributor | None, ...]
    workers: tuple[Worker | None, ...]
    runs: tuple[Run, ...]
    mortal: bool = True
    """Whether processes die; those that freeze, and go on when nobody expects it, are everywhere."""
    live: bool = True
    serving: bool = False
    filled: bool = False
    closed: bool = False
    refills: int = 0
    inbox: tuple[str, ...] = ()
    pending: Pending | None = None
    doubts: int = 0
    store: int = GONE
    tag: int = 0
    """1 + the run whose insert wrote the stored row, while that run goes on; else 0."""
    letter: int = GONE
    openings: int = -1
    """How often a partition may still be opened; as often as anybody likes: -1."""
    searches: int = 0
    search: Search | None = None


RULES = {
    "rows_then_versions": Rule(
        "A distributor reads the live versions in the snapshot in which it takes its rows, or later.", "register"
    ),
    "truncate_announces_pending": Rule(
        "A TRUNCATE announces what is pending too: its vector may be on its way.", "reject while it serves"
    ),
    "truncate_announces_letters": Rule(
        "A TRUNCATE announces documents that have a dead letter and nothing else.", "reject while it serves"
    ),
    "truncate_row_stays": Rule(
        "The row of a TRUNCATE stays in the inbox until its last slice is announced.", "reject while it serves"
    ),
    "removal_accumulates": Rule(
        "removed := old OR new: distributors may commit in another order than the application did.", "two workers"
    ),
    "removal_outlives_overtaken": Rule(
        "A text written under an overtaken claim leaves `removed` as it is: the newer change may be a removal.", "two workers"
    ),
    "removal_outlives_removal": Rule("So does an overtaken claim that found the document gone and removed its vectors.", None),
    "claim_then_read": Rule("A claim is taken before the text is read.", "two workers"),
    "acknowledge_by_seq": Rule("A pending row goes only if its seq is the one that was claimed.", "two workers"),
    "write_under_claim": Rule(
        "A worker writes in the transaction that locks its pending row and finds its claim there.", "two workers"
    ),
    "settle_under_claim": Rule("A change is settled without a write only under the worker's own claim.", "two workers"),
    "insert_under_epoch": Rule("A backfill's insert finds its partition's epoch unchanged, under a lock.", "two fills"),
    "opening_takes_epoch": Rule("Opening a partition takes a new epoch, as closing it does.", "two fills"),
    "closed_to_inserts": Rule("Nothing is inserted into a closed partition.", None),
    "insert_only": Rule("A backfill inserts where nothing is stored, and nowhere else.", None),
    "compare_before_mark": Rule(
        "A partition is marked after a comparison with the documents whose differences are queued.", "doubt while filled"
    ),
    "mark_by_epoch": Rule("The mark is a compare-and-set on the epoch that the comparison took.", "two fills"),
    "filled_stays_closed": Rule(
        "A filled partition is never opened again: it is compared, and its differences are queued.", "reject in doubt"
    ),
    "skip_own_epoch": Rule("A second hash is saved only where this very run has written the stored row.", "doubt while filled"),
    "skip_unchanged_rows": Rule(
        "A second hash is saved only where the document's row is as old as the run's snapshot.", "doubt while filled"
    ),
    "rejection_removes": Rule("A text that can have no vector takes the old vector away.", "reject while it serves"),
    "letters_beside_nothing": Rule("To a comparison a letter settles a document only where nothing is stored.", "reject"),
    "letters_by_hash": Rule("To a comparison a letter settles only the text that it is about.", "reject in doubt"),
    "write_forgets_letter": Rule(
        "Whoever writes or removes a document's vectors takes its letter away.", "reject while it serves"
    ),
    "hide_by_inbox": Rule("A search checks its hits while an inbox row announces removals.", "serve again"),
    "hide_by_pending": Rule("A search checks hits whose pending row announces a removal.", "serve again"),
    "hide_in_one_snapshot": Rule("What is announced is read in the snapshot of the vectors, not later.", "search"),
    "look_in_own_snapshot": Rule("The look at the documents has a snapshot of its own: TRUNCATE blinds older ones.", "search"),
    "failure_is_doubt": Rule("A capture that fails leaves a doubt.", "doubt"),
    "doubt_checks_hits": Rule("A search checks every hit while a doubt is open.", "doubt"),
    "clear_what_was_seen": Rule("A comparison clears the doubts that its own snapshot saw, and no others.", "doubt"),
    "doubt_announces_pending": Rule(
        "A comparison that sees a doubt announces what is pending anew: a worker may have read before the change that nobody announced.",
        "doubt while filled",
    ),
    "queue_before_clear": Rule("Doubts are cleared after the differences are queued.", "doubt"),
}


def removal_announced(s: State, rules: Rules) -> bool:
    """What a search can read: rows in a distributor's hands stay visible until it commits."""
    if s.doubts and "doubt_checks_hits" in rules:
        return True
    if s.pending is not None and s.pending.removed and "hide_by_pending" in rules:
        return True
    return "hide_by_inbox" in rules and any(row != CHANGE for row in rows(s, rules))


def rows(s: State, rules: Rules) -> list[str]:
    taken = [each.row for each in s.distributors if each is not None and each.row is not None]
    if "truncate_row_stays" not in rules:
        taken = [row for row in taken if row != TRUNCATE]
    return [*s.inbox, *taken]


def is_right(s: State) -> bool:
    """A letter belongs to the text that the document has now, and to nothing stored."""
    if s.doc == POISON:
        return s.store == GONE and s.letter == POISON
    return s.store == s.doc and s.letter == GONE


def judge(s: State, rules: Rules) -> str | None:
    if s.search is not None and s.search.answer:
        if s.search.answer == "shown" and not s.search.ever:
            return "an answer shows a document that was gone before the search began"
        if s.search.answer == "hidden" and s.search.always:
            return "an answer lacks a document that was there all the time"
    if s.serving and s.store != GONE and s.doc == GONE and not removal_announced(s, rules):
        return "a deleted document is stored where searches find it, and none of them checks"
    if s.filled and not is_right(s) and s.pending is None and not s.doubts and not rows(s, rules):
        if s.letter != GONE and s.letter != s.doc:
            return "a dead letter is about a text that the document does not have, and nothing says so"
        return "what is stored is not what the document says, and nothing says so"
    return None


def setting(
    edits: int,
    *,
    distributors: int = 1,
    workers: int = 1,
    runs: int = 0,
    texts: tuple[int, ...] = (1, 2),
    changes: str = CHANGE + REMOVAL,
    failures: int = 0,
    refills: int = 0,
    searches: int = 0,
    large: bool = False,
    registered: bool = True,
    mortal: bool = True,
) -> Setting:
    """With runs the version is empty and to be filled; without (or with refills only) it serves the document's first text."""
    serving = not runs or bool(refills)
    first = State(
        texts=texts,
        changes=changes,
        doc=texts[0],
        edits=edits,
        failures=failures,
        distributors=(None,) * distributors,
        workers=(None,) * workers,
        runs=(Run(),) * runs,
        mortal=mortal,
        live=registered,
        serving=serving,
        filled=serving,
        refills=refills,
        store=texts[0] if serving else GONE,
        searches=searches,
    )
    return Setting((first,), large)


EVERYTHING = CHANGE + REMOVAL + TRUNCATE + RELOAD

# Another fill may open the partition while a first one is about to insert, or about to compare.
_FIRST = setting(1, runs=2, changes=REMOVAL, mortal=False).first[0]._replace(openings=1)
_INSERTING = _FIRST._replace(runs=(Run("read", current=True, text=1), Run()))
_COMPARING = _FIRST._replace(runs=(Run("closed", current=True), Run()), closed=True)

SETTINGS = {
    "register": setting(1, runs=1, changes=CHANGE, registered=False),
    "serve": setting(3, changes=CHANGE + REMOVAL + TRUNCATE),
    "two workers": setting(2, workers=2),
    "two distributors": setting(3, distributors=2),
    "search": setting(2, changes=REMOVAL + RELOAD, searches=1),
    "fill": setting(2, runs=1, changes=CHANGE + TRUNCATE, mortal=False),
    "two fills": Setting((_INSERTING, _COMPARING)),
    "serve again": setting(2, runs=1, refills=1, changes=REMOVAL),
    "doubt": setting(1, runs=1, refills=1, failures=1),
    "doubt while filled": setting(1, runs=1, failures=1),
    "reject": setting(2, runs=1, texts=(1, POISON), changes=CHANGE, mortal=False),
    "reject in doubt": setting(2, runs=1, refills=1, texts=(1, POISON), changes=CHANGE, failures=1),
    "reject while it serves": setting(3, texts=(1, POISON), changes=CHANGE + TRUNCATE),
    "two fills, from the start": setting(1, runs=2, changes=CHANGE + REMOVAL + TRUNCATE, large=True),
    "fill, two workers": setting(2, runs=1, workers=2, changes=CHANGE + REMOVAL, large=True),
    "serve, two of each": setting(2, distributors=2, workers=2, changes=EVERYTHING, large=True),
    "search beside two workers": setting(2, workers=2, changes=EVERYTHING, searches=1, large=True),
    "doubts": setting(2, workers=2, runs=1, refills=1, failures=1, large=True),
    "reject while it is filled": setting(2, runs=2, texts=(1, POISON), changes=CHANGE, mortal=False, large=True),
}
