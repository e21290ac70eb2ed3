"""Documents of several passages on pgvector, statement by statement: rows are locked, and a statement sees what was committed before it.

A worker replaces (or removes) the passages of a document while a backfill inserts those of an older text. Their transactions are lists of
statements. An upsert or an insert waits for whoever holds its key uncommitted; a DELETE sees only what was committed when it began.
Whether the writes are allowed at all is the ledger's business; here every committed state must be one text's passages, and nobody may
wait for ever. An outside hand may damage what is stored, once; a comparison must then announce the document.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from tests.model.explore import Model, Rule, Rules, Setting, Steps, put

PASSAGES: Mapping[str, int] = {"old": 2, "new": 1, "long": 2, "gone": 0}
"""How many passages a text has."""


class Writer(NamedTuple):
    """A transaction for each of its documents' rows: `at` counts its statements, `won` says of which documents it holds chunk 0."""

    kind: str
    text: str
    docs: tuple[int, ...]
    at: int = 0
    won: tuple[int, ...] = ()
    rows: tuple[tuple[tuple[int, int], str | None], ...] = ()
    """Uncommitted: key -> text of the passage there, None where it was removed."""


class State(NamedTuple):
    rows: tuple[tuple[tuple[int, int], str], ...]
    writers: tuple[Writer, ...]
    damage: bool = False
    damaged: bool = False
    compared: str = ""


RULES = {
    "chunk_0_first": Rule("Every writer takes chunk 0 before it touches the other chunks.", "two documents"),
    "winner_takes_all": Rule("Only who inserted chunk 0 inserts the others.", "two documents"),
    "remove_above_later": Rule(
        "A replace removes the chunks above its last one in a statement after the one that took chunk 0.", "two documents"
    ),
    "one_order": Rule("All writers go through documents in one order.", "two documents"),
    "comparison_counts": Rule("A comparison counts a document's chunks.", "damage"),
    "comparison_hashes_each": Rule("A comparison looks at the hash of each chunk, not only of the first.", "damage"),
}


def statements(writer: Writer, rules: Rules) -> list[tuple[str, int]]:
    """(what, document) in order."""
    if writer.kind == "backfill":
        parts = ["first", "others"] if "chunk_0_first" in rules else ["others", "first"]
        docs = writer.docs
    elif writer.text == "gone":
        parts, docs = ["delete"], writer.docs
    else:
        parts = ["first", "others", "above"] if "remove_above_later" in rules else ["above", "first", "others"]
        docs = writer.docs if "one_order" in rules else tuple(reversed(writer.docs))
    return [(part, doc) for doc in docs for part in parts]


def steps(s: State, rules: Rules) -> Steps[State]:
    for n, writer in enumerate(s.writers):
        todo = statements(writer, rules)
        if writer.at == len(todo):
            yield f"{writer.kind} commits", committed(s, n, writer)
        elif writer.at < len(todo):
            yield from statement(s, rules, n, writer, *todo[writer.at])
    yield from outside(s)
    if s.damaged and not s.compared:
        yield "a comparison", s._replace(compared="differs" if differs(s, rules) else "equal")


def statement(s: State, rules: Rules, n: int, writer: Writer, part: str, doc: int) -> Steps[State]:
    count = PASSAGES[writer.text]
    if part == "first":
        keys = [(doc, 0)]
    elif part == "others":
        keys = [(doc, chunk) for chunk in range(1, count)]
    else:
        keys = [(doc, chunk) for chunk in range(0 if part == "delete" else count, 2) if seen(s, writer, (doc, chunk)) is not None]
    if any(holder(s, n, key) for key in keys):
        return
    rows, won = dict(writer.rows), writer.won
    for key in keys:
        if part in ("above", "delete"):
            rows[key] = None
        elif writer.kind == "worker":
            rows[key] = writer.text
        elif may_insert(s, writer, part, doc, key, rules):
            rows[key] = writer.text
            won = (*won, doc) if part == "first" else won
    after = writer._replace(at=writer.at + 1, won=won, rows=tuple(sorted(rows.items())))
    yield f"{writer.kind}: {part} of document {doc}", s._replace(writers=put(s.writers, n, after))


def may_insert(s: State, writer: Writer, part: str, doc: int, key: tuple[int, int], rules: Rules) -> bool:
    """ON CONFLICT DO NOTHING, of which the loser hears."""
    if part == "others" and "winner_takes_all" in rules and "chunk_0_first" in rules and doc not in writer.won:
        return False
    return seen(s, writer, key) is None


def seen(s: State, writer: Writer, key: tuple[int, int]) -> str | None:
    own = dict(writer.rows)
    return own[key] if key in own else dict(s.rows).get(key)


def holder(s: State, n: int, key: tuple[int, int]) -> bool:
    return any(key in dict(other.rows) for m, other in enumerate(s.writers) if m != n)


def committed(s: State, n: int, writer: Writer) -> State:
    rows = dict(s.rows)
    for key, text in writer.rows:
        if text is None:
            rows.pop(key, None)
        else:
            rows[key] = text
    done = writer._replace(at=99, rows=(), won=())
    return s._replace(rows=tuple(sorted(rows.items())), writers=put(s.writers, n, done))


def outside(s: State) -> Steps[State]:
    rows = dict(s.rows)
    if s.damage and (0, 1) in rows:
        yield (
            "a hand deletes chunk 1",
            s._replace(damage=False, damaged=True, rows=tuple(row for row in s.rows if row[0] != (0, 1))),
        )
        yield (
            "a hand puts another text's passage there",
            s._replace(damage=False, damaged=True, rows=tuple(sorted({**rows, (0, 1): "long"}.items()))),
        )


def differs(s: State, rules: Rules) -> bool:
    """Against the document, whose text is `old` where anything is damaged."""
    hashes = [text for _, text in s.rows]
    looked = hashes if "comparison_hashes_each" in rules else hashes[:1]
    return (len(hashes) != PASSAGES["old"] and "comparison_counts" in rules) or any(text != "old" for text in looked)


def judge(s: State, rules: Rules) -> str | None:
    if s.compared == "equal":
        return "passages are damaged, and the comparison finds nothing"
    for doc in {key[0] for key, _ in s.rows} if not s.damaged else set():
        texts = [text for key, text in s.rows if key[0] == doc]
        if len(set(texts)) > 1 or len(texts) != PASSAGES[texts[0]]:
            return f"passages of document {doc} are not those of one text: {', '.join(texts)}"
    open_ = [writer for writer in s.writers if writer.at < 99]
    if len(open_) > 1 and not any(True for _ in steps(s, rules)):
        return "deadlock: each writer waits for a row that the other one holds"
    return None


def _pair(worker: str, docs: tuple[int, ...] = (0,), stored: str | None = None) -> State:
    rows = tuple(((0, chunk), stored) for chunk in range(PASSAGES[stored])) if stored else ()
    return State(rows, (Writer("worker", worker, docs), Writer("backfill", "old", docs)))


SETTINGS = {
    "replace": Setting((_pair("new"), _pair("long"), _pair("gone"), _pair("new", stored="long"), _pair("gone", stored="long"))),
    "two documents": Setting((_pair("new", (0, 1)),)),
    "damage": Setting((State((((0, 0), "old"), ((0, 1), "old")), (), damage=True),)),
    "two documents, long": Setting((_pair("long", (0, 1)), _pair("gone", (0, 1)), _pair("new", (0, 1), "long")), large=True),
}

MODEL = Model("passages", RULES, SETTINGS, steps, judge, {})
