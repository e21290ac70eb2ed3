"""Results of shadow reads, by pair of versions and hour: sums and counts that all processes add to, and the queries that agree least."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import psycopg
from psycopg.types.json import Jsonb

from embed_pipeline.postgres.queries import Queries
from embed_pipeline.postgres.storable import storable

queries = Queries(__file__, "shadows.sql")

# So many queries of a role are kept for a pair of versions: those whose lists agree least.
KEPT_QUERIES = 50
MOST_CHARACTERS = 1_000
NUMBERS = ("searches", "compared", "failed", "dropped", "overlap", "agreement", "answered_empty", "shadow_empty")
SKETCHES = ("answered_ms", "shadow_ms", "answered_scores", "shadow_scores")


@dataclass(frozen=True)
class Disagreement:
    """A query whose two lists differ. `text` is None unless texts are kept: then its hash finds it in one's own log."""

    agreement: float
    overlap: float
    sha256: str
    text: str | None


@dataclass
class Tally:
    """Shadow reads of one pair of versions. `overlap`, `agreement`: summed over `compared`, the searches in which either found anything."""

    searches: int = 0
    compared: int = 0
    failed: int = 0
    dropped: int = 0
    overlap: float = 0.0
    agreement: float = 0.0
    answered_empty: int = 0
    shadow_empty: int = 0
    sketches: dict[str, Counter[int]] = field(default_factory=lambda: {name: Counter() for name in SKETCHES})
    least: list[Disagreement] = field(default_factory=list)
    last_failure: str = ""

    def keep(self, found: Disagreement) -> None:
        """One more query, of which it is kept if it is among those that agree least."""
        self.least = [each for each in self.least if each.sha256 != found.sha256]
        self.least = sorted([*self.least, found], key=lambda each: each.agreement)[:KEPT_QUERIES]


@dataclass(frozen=True)
class Hour:
    """Shadow reads of one pair of versions by all processes, in one hour or summed over several."""

    answered: str
    """The route that gave the answers."""
    shadow: str
    hour: datetime
    tally: Tally


def sha256(text: str) -> str:
    """Of a query, as it is asked."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def may_note(conn: psycopg.Connection) -> bool:
    """Whether this role may say what its shadow reads have found, here."""
    row = conn.execute(queries("may_note_shadow")).fetchone()
    return bool(row and row[0])


def note(conn: psycopg.Connection, index: str, answered: str, shadow: str, tally: Tally) -> None:
    """Add what this process has seen since it said so last. Writes nothing on a standby or in a read-only session."""
    numbers = {name: getattr(tally, name) for name in NUMBERS}
    least = [
        {
            "agreement": each.agreement,
            "overlap": each.overlap,
            "sha256": each.sha256,
            "text": None if each.text is None else storable(conn, each.text, MOST_CHARACTERS),
        }
        for each in tally.least
    ]
    values = {
        "index": index,
        "answered": answered,
        "shadow": shadow,
        "numbers": Jsonb(numbers | {"last_failure": storable(conn, tally.last_failure)}),
        "sketches": Jsonb({name: {str(number): n for number, n in each.items()} for name, each in tally.sketches.items()}),
        "queries": Jsonb(least),
    }
    conn.execute(queries("note_shadow"), values)


def hours(conn: psycopg.Connection, index: str, shadow: str, last_hours: int) -> list[Hour]:
    """Shadow reads by answering route and hour; of all roles together, the newest hour first."""
    found: dict[tuple[str, datetime], Tally] = {}
    for answered, hour, last_failure, sketches, *numbers in conn.execute(
        queries("shadow_hours"), {"index": index, "shadow": shadow, "hours": last_hours}
    ):
        _add(found.setdefault((answered, hour), Tally()), numbers, sketches, last_failure)
    return [Hour(answered, shadow, hour, tally) for (answered, hour), tally in found.items()]


def together(found: Sequence[Hour]) -> dict[str, Tally]:
    """By answering route, the hours added up."""
    sums: dict[str, Tally] = {}
    for each in found:
        of, tally = sums.setdefault(each.answered, Tally()), each.tally
        numbers = [getattr(tally, name) for name in NUMBERS]
        _add(of, numbers, {name: {str(n): c for n, c in counts.items()} for name, counts in tally.sketches.items()}, "")
        of.last_failure = of.last_failure or tally.last_failure
    return sums


def disagreements(conn: psycopg.Connection, index: str, answered: str, shadow: str, most: int) -> list[Disagreement]:
    """The queries that agree least."""
    values = {"index": index, "answered": answered, "shadow": shadow, "most": most}
    return [Disagreement(*row) for row in conn.execute(queries("shadow_queries"), values)]


def _add(of: Tally, numbers: Sequence[float], sketches: Mapping[str, Mapping[str, int]], last_failure: str) -> None:
    for name, value in zip(NUMBERS, numbers, strict=True):
        setattr(of, name, getattr(of, name) + value)
    for name in SKETCHES:
        of.sketches[name].update({int(number): count for number, count in sketches.get(name, {}).items()})
    of.last_failure = last_failure or of.last_failure
