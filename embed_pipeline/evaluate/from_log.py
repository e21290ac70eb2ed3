"""A held-out set out of a search log: what people asked, and which documents they used. Pure but for reading the file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from embed_pipeline.errors import HoldoutError
from embed_pipeline.evaluate.examine import normalised
from embed_pipeline.evaluate.holdout import Collector, count_of, rows_of
from embed_pipeline.evaluate.made import MadeSet

COLUMNS = ("at", "used")
BIAS = (
    "What people click is what the version that served then showed them, and most of that its first hits: a document that only another version "
    "finds was clicked by nobody and counts as wrong. So this set favours the version that was searched; see `unjudged` of the verdict, and "
    "judge some of those hits by hand before you believe that a version is worse."
)
_TRUE, _FALSE = {"true", "t", "yes", "1"}, {"false", "f", "no", "0", ""}


def from_log(log: Path | Any, *, since: datetime | None = None, until: datetime | None = None) -> MadeSet:
    """The queries of a log with the documents that were used.

    `log`: a .parquet, .csv or .jsonl file, or a pandas data frame, with the columns `query` and `doc_id`, and optionally `used` (false: shown
    and not used; without it each row is a use) and `at` (when, ISO 8601; without a zone it is UTC). Rows before `since` and from `until` on
    are left out.
    Queries that say the same are one. HoldoutError for a row that cannot be read.
    """
    where_from = log if isinstance(log, Path) else Path("the data frame")
    if isinstance(log, Path) and not log.is_file():
        raise HoldoutError(f"There is no log at {log}.", next_step="Name a .parquet, .csv or .jsonl file.")
    checked, period = Collector(where_from), (_moment(since), _moment(until))
    texts: dict[str, str] = {}
    found: dict[str, dict[str, int]] = {}
    outside = 0
    for where, row in rows_of(log, COLUMNS) if isinstance(log, Path) else _rows(log):
        for name in ("query", "doc_id"):
            if name not in row:
                checked.refuse(where, f"has no {name!r}", "Add it.")
        query, doc_id = checked.text(where, row["query"]), checked.identifier(where, "doc_id", row["doc_id"])
        grade = int(_used(checked, where, row))
        if not _is_within(checked, where, row, period):
            outside += 1
            continue
        said = normalised(query)
        texts.setdefault(said, " ".join(query.split()))
        judged = found.setdefault(said, {})
        judged[doc_id] = max(judged.get(doc_id, 0), grade)
    return _made(texts, found, outside)


def _made(texts: Mapping[str, str], found: Mapping[str, Mapping[str, int]], outside: int) -> MadeSet:
    kept = {texts[said]: judged for said, judged in found.items() if any(judged.values())}
    if not kept:
        raise HoldoutError("No query of the log has a document that was used.", next_step="Give a longer period of it.")
    documents = {doc_id for judged in kept.values() for doc_id, grade in judged.items() if grade}
    notes = [f"{count_of(len(kept), 'query', 'queries')} with {count_of(len(documents), 'document')} that were used."]
    if outside:
        notes.append(f"{count_of(outside, 'row')} outside the period {_were(outside)} left out.")
    if unused := len(found) - len(kept):
        notes.append(f"{count_of(unused, 'query', 'queries')} without a used document {_were(unused)} left out.")
    return MadeSet(kept, (*notes, BIAS))


def _were(number: int) -> str:
    return "was" if number == 1 else "were"


def _rows(frame: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    records: Iterable[Mapping[str, Any]] = frame.to_dict("records")
    for number, row in enumerate(records, start=1):
        yield f"row {number}", row


def _used(checked: Collector, where: str, row: Mapping[str, Any]) -> bool:
    if "used" not in row:
        return True
    value = row["used"]
    plain = "" if value is None else str(value).strip().lower().removesuffix(".0")
    if plain not in _TRUE | _FALSE:
        checked.refuse(where, f"has {value!r} as used", "Write true or false.")
    return plain in _TRUE


def _is_within(checked: Collector, where: str, row: Mapping[str, Any], period: tuple[datetime | None, datetime | None]) -> bool:
    since, until = period
    if since is None and until is None:
        return True
    value, at = row.get("at"), None
    if isinstance(value, datetime):
        # What pandas has for no moment is a datetime that does not equal itself.
        at = value if value == value else None
    elif isinstance(value, str):
        try:
            at = datetime.fromisoformat(value.strip())
        except ValueError:
            at = None
    moment = _moment(at)
    if moment is None:
        checked.refuse(where, f"has no moment as at: {value!r}", "Write ISO 8601, or leave out --since and --until.")
    return (since is None or moment >= since) and (until is None or moment < until)


def _moment(at: datetime | None) -> datetime | None:
    return at.replace(tzinfo=UTC) if at is not None and at.tzinfo is None else at
