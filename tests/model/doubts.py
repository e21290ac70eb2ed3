"""A change that capture missed, and two versions: when may the doubt be cleared?

v1 serves and is filled. v2 may be registered at any time, is filled from the documents and compared at its end. Whatever a comparison
finds is queued, and counts as announced from then on. How one version's comparison and its workers go about a doubt is the ledger's model.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.model.explore import Model, Rule, Rules, Setting, Steps, put

NAMES = ("v1", "v2")


class Version(NamedTuple):
    live: bool = False
    filled: bool = False
    stored: int | None = None
    """The document's change that is stored."""
    compared: tuple[bool, bool] | None = None
    """A comparison in progress: (the stored text differed, its snapshot saw the doubt)."""
    announced: bool = False


class State(NamedTuple):
    moment: int = 0
    versions: tuple[Version, ...] = (Version(live=True, filled=True, stored=0), Version())
    reading: int | None = None
    """What a backfill of v2 has read and not inserted."""
    doubt: bool = False
    seen_by: frozenset[int] = frozenset()


RULES = {
    "every_version": Rule("A doubt is cleared when every live version was compared, not when the first one was.", "doubt"),
    "unfilled_count": Rule("A version that is being filled counts: a comparison of it may be older than the doubt.", "doubt"),
    "snapshot_saw_it": Rule("A comparison counts only if its snapshot saw the doubt.", "doubt"),
}


def steps(s: State, rules: Rules) -> Steps[State]:
    if not s.moment:
        yield "application: a change that capture misses; a doubt is open", s._replace(moment=1, doubt=True)
    v2 = s.versions[1]
    if not v2.live:
        yield "v2 is registered", s._replace(versions=put(s.versions, 1, Version(live=True)))
    elif not v2.filled and v2.compared is None and v2.stored is None:
        if s.reading is None:
            yield "v2: a backfill reads", s._replace(reading=s.moment)
        else:
            yield "v2: it inserts", s._replace(reading=None, versions=put(s.versions, 1, v2._replace(stored=s.reading)))
    for n, version in enumerate(s.versions):
        if version.live and version.stored is not None:
            yield from comparing(s, rules, n, version)
    counted = [n for n, version in enumerate(s.versions) if version.live and (version.filled or "unfilled_count" in rules)]
    due = s.seen_by.issuperset(counted) if "every_version" in rules else bool(s.seen_by)
    if s.doubt and due:
        yield "the doubt is cleared", s._replace(doubt=False)


def comparing(s: State, rules: Rules, n: int, version: Version) -> Steps[State]:
    if version.compared is None:
        look = (version.stored != s.moment, s.doubt)
        yield (
            f"{NAMES[n]}: a comparison takes its snapshot",
            s._replace(versions=put(s.versions, n, version._replace(compared=look))),
        )
        return
    differs, saw = version.compared
    counts = s.doubt and (saw or "snapshot_saw_it" not in rules)
    after = version._replace(compared=None, filled=True, announced=version.announced or differs)
    yield (
        f"{NAMES[n]}: its differences are queued",
        s._replace(versions=put(s.versions, n, after), seen_by=s.seen_by | {n} if counts else s.seen_by),
    )


def judge(s: State, rules: Rules) -> str | None:
    for name, version in zip(NAMES, s.versions, strict=True):
        if version.filled and version.stored != s.moment and not version.announced and not s.doubt:
            return f"{name} has not the document's text, and no doubt is open"
    return None


SETTINGS = {"doubt": Setting((State(),))}

MODEL = Model("doubts", RULES, SETTINGS, steps, judge, {})
