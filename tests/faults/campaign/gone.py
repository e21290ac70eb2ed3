"""Whether a search has ever answered with a document that was deleted, and the delete committed, before the search began.

Writers note which documents are gone when a transaction of theirs has ended, and which may be there from the moment when it began. Readers
note when a search began and ended. Where two writers were at one document at the same time, nothing is concluded.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg

# A version that is being filled may answer with what is gone, until its partitions are compared.
READY = """
SELECT version, extract(epoch FROM min(at))::double precision FROM embed_pipeline.audit_events
WHERE index_name = 'docs' AND to_state = 'ready' GROUP BY version
"""
# A COMMIT whose answer is lost may be carried out a little later.
LOST_SECONDS = 5.0


@dataclass(frozen=True)
class Span:
    """When a transaction began, and when its end was known."""

    begin: float
    end: float


@dataclass
class Absences:
    """What is known of when each document was not there."""

    born: dict[str, list[Span]] = field(default_factory=lambda: defaultdict(list))
    gone: dict[str, list[Span]] = field(default_factory=lambda: defaultdict(list))
    truncated: list[tuple[Span, frozenset[str]]] = field(default_factory=list)

    def note(self, record: Mapping[str, Any]) -> None:
        """One record of a writer's."""
        failed = "error" in record
        span = Span(record["start"], record["start"] + record["seconds"] + (LOST_SECONDS if failed else 0.0))
        born = frozenset(record.get("born", ()))
        for key in born:
            self.born[key].append(span)
        if failed:
            return
        for key in set(record.get("gone", ())) - born:
            self.gone[key].append(span)
        if record.get("truncated"):
            self.truncated.append((span, born))

    def was_absent(self, key: str, begin: float, end: float) -> bool:
        """Whether the document was gone before `begin`, and cannot have come back before `end`."""
        gone = [*self.gone[key], *(span for span, born in self.truncated if key not in born)]
        return any(
            span.end < begin and not any(born.end > span.begin and born.begin < end for born in self.born[key]) for span in gone
        )


def wrong_answers(
    conn: psycopg.Connection, writing: Iterable[Mapping[str, Any]], reading: Iterable[Mapping[str, Any]]
) -> list[str]:
    """Answers with documents that were gone."""
    absences = Absences()
    for record in writing:
        absences.note(record)
    ready = dict(conn.execute(READY).fetchall())
    found: Counter[str] = Counter()
    for record in reading:
        if "hits" not in record or record["at"] <= ready.get(record["version"], float("inf")):
            continue
        end = record["start"] + record["seconds"]
        for key, _ in record["hits"]:
            if absences.was_absent(key, record["start"], end):
                found[f"{record['version']} answered with a document that was deleted before the search began"] += 1
    return [f"{problem} ({count} times)" for problem, count in found.items()]
