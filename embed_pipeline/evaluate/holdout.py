"""Held-out sets: queries with graded judgements, read from Parquet, CSV, JSONL or a BEIR folder.

Whatever the file looks like, the result is the same: text per query, grade per (query, document), and a hash of that
content. The hash does not depend on the order of rows or on the file format, so evidence stays valid when a set is only
rewritten.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn
from uuid import UUID

from embed_pipeline.errors import HoldoutError
from embed_pipeline.extras import needed_for

# The metric library allocates one slot for each possible grade: a grade of 100,000,000 took 0.8 GB when tried.
MAX_GRADE = 1000

_TABLE_COLUMNS = ("query_id", "query", "doc_id", "grade")
# Set in what was made and not judged by anybody: a verdict on it says so.
PROVISIONAL = "provisional"
_QRELS_HEADER = ["query-id", "corpus-id", "score"]
_QRELS_FORM = "Write the tab-separated columns query-id, corpus-id, score, with these names in the first line."
_AS_IN_TABLE = "Write it as the documents table does."


@dataclass(frozen=True)
class Holdout:
    """`queries`: id -> text. `judgements`: query id -> document id -> grade (0: judged irrelevant, >= 1: relevant).

    Both have the same query ids, in sorted order, and every query has a relevant document. `columns`: column -> query id -> value, of the
    columns that were asked for; a query without a value is not in it. `provisional`: a query or more was made and not judged by anybody.
    `sha256` (hex) is over all of this.
    """

    queries: dict[str, str]
    judgements: dict[str, dict[str, int]]
    sha256: str
    path: Path | None = field(default=None, compare=False)
    columns: dict[str, dict[str, str]] = field(default_factory=dict)
    provisional: bool = False

    def document_ids(self) -> set[str]:
        """Every judged document, relevant or not."""
        return {doc_id for judged in self.judgements.values() for doc_id in judged}


def load_holdout(path: Path, columns: Sequence[str] = ()) -> Holdout:
    """Read the held-out set at `path`: a .parquet, .csv or .jsonl file, or a BEIR folder.

    Tables have one row per judgement: `query`, `doc_id`, and optionally `query_id` (default: the text is the id) and
    `grade` (default 1). A JSONL line may also be one query: `{"query_id", "query", "judgements": {doc_id: grade}}`.
    A BEIR folder holds `queries.jsonl` and `qrels.tsv` or `qrels/test.tsv`; its queries without any judgement belong to
    another split and are left out.

    `columns`: further columns of the queries that are wanted; one value for each query. In a BEIR folder they are keys in `queries.jsonl`, or
    in its `metadata`.

    Raises HoldoutError for anything that cannot be used as it stands; nothing is repaired or skipped.
    """
    if path.is_dir():
        return _load_beir(path, columns)
    if not path.is_file():
        raise HoldoutError(f"There is no held-out set at {path}.", next_step="Correct holdout.path in defs.yaml.")
    collector = Collector(path, columns)
    for where, row in rows_of(path, columns):
        collector.add(where, row)
    return collector.finish()


def rows_of(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Where each row of a file is, and what it says: `query`, `doc_id`, what else a held-out set knows, and `columns` where they are there."""
    loaders = {".parquet": _parquet_rows, ".csv": _csv_rows}
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        yield from _json_lines(Collector(path))
    elif suffix in loaders:
        for number, row in enumerate(loaders[suffix](path, columns), start=1):
            yield f"row {number}", row
    else:
        raise HoldoutError(
            f"{path} is no format of a held-out set that can be read.",
            next_step="Give a .parquet, .csv or .jsonl file, or a BEIR folder.",
        )


class Collector:
    """Gathers checked judgements and refuses what contradicts an earlier one. `path`: what a refusal names."""

    def __init__(self, path: Path, columns: Sequence[str] = ()) -> None:
        self.path = path
        self.queries: dict[str, str] = {}
        self.judgements: dict[str, dict[str, int]] = {}
        self.columns: dict[str, dict[str, str]] = {column: {} for column in columns}
        self.provisional = False
        self._met: set[str] = set()

    def add(self, where: str, row: Mapping[str, Any]) -> None:
        """One row of a table, or one line of JSONL (which may carry a whole query's judgements)."""
        for name in ("query",) if "judgements" in row else ("query", "doc_id"):
            if name not in row:
                self.refuse(where, f"has no {name!r}", "Add it.")
        text = self.text(where, row["query"])
        query_id = self.identifier(where, "query_id", row["query_id"]) if "query_id" in row else text
        self.add_query(where, query_id, text)
        self.add_columns(where, query_id, row)
        if "judgements" not in row:
            self.add_judgement(where, query_id, row["doc_id"], row.get("grade", 1))
            return
        if not isinstance(row["judgements"], dict):
            self.refuse(where, "has judgements that are no object", 'Write them as {"doc_id": grade}.')
        for doc_id, grade in row["judgements"].items():
            self.add_judgement(where, query_id, doc_id, grade)

    def add_query(self, where: str, query_id: str, text: str) -> None:
        if self.queries.setdefault(query_id, text) != text:
            self.refuse(where, f"gives query {query_id!r} another text than before", "Keep one text for each query_id.")
        self.judgements.setdefault(query_id, {})

    def add_columns(self, where: str, query_id: str, row: Mapping[str, Any]) -> None:
        """What the columns that are wanted say of a query: one thing."""
        self.provisional |= row.get(PROVISIONAL) is True or str(row.get(PROVISIONAL)).strip().lower() == "true"
        for column, values in self.columns.items():
            if column not in row:
                continue
            self._met.add(column)
            value = row[column]
            if not isinstance(value, str | int | float | None):
                self.refuse(where, f"has a {column} that is no text or number: {value!r}", "Write one value.")
            shown = str(value).lower() if isinstance(value, bool) else str(value)
            text = "" if value is None else self._storable(where, column, shown).strip()
            if values.setdefault(query_id, text) != text:
                self.refuse(
                    where, f"gives query {query_id!r} another {column} than before", f"Keep one {column} for each query_id."
                )

    def add_judgement(self, where: str, query_id: str, doc_id: object, grade: object) -> None:
        document, value = self.identifier(where, "doc_id", doc_id), self.grade(where, grade)
        first = self.judgements[query_id].setdefault(document, value)
        if first != value:
            self.refuse(
                where,
                f"grades document {document!r} for query {query_id!r} {value}, and an earlier one says {first}",
                "Keep one grade for each query and document.",
            )

    def finish(self) -> Holdout:
        if not self.queries:
            raise HoldoutError(f"{self.path} holds no judgement.", next_step="Add queries with relevant documents.")
        hopeless = [query for query, judged in self.judgements.items() if not any(judged.values())]
        if hopeless:
            raise HoldoutError(
                f"{count_of(len(hopeless), 'query', 'queries')} in {self.path} {'has' if len(hopeless) == 1 else 'have'} "
                f"no relevant document (grade 1 or more): {some_of(hopeless)}.",
                next_step="Judge a relevant document for each, or remove them: every version would score 0 on them.",
            )
        unmet = [column for column in self.columns if column not in self._met]
        if unmet:
            raise HoldoutError(
                f"{self.path} has no column {unmet[0]!r}, which gate.slices names.",
                next_step="Add it to the held-out set, or remove it from gate.slices in defs.yaml.",
            )
        queries = dict(sorted(self.queries.items()))
        judgements = {query: dict(sorted(self.judgements[query].items())) for query in queries}
        columns = {
            column: {query: values[query] for query in queries if values.get(query)} for column, values in self.columns.items()
        }
        digest = _content_hash(queries, judgements, columns, self.provisional)
        return Holdout(queries, judgements, digest, self.path, columns, self.provisional)

    def refuse(self, where: str, what: str, next_step: str) -> NoReturn:
        raise HoldoutError(f"{self.path}, {where}: {what}.", next_step=next_step)

    def text(self, where: str, value: object) -> str:
        if not isinstance(value, str) or not value.strip():
            self.refuse(where, "has a blank query", "Give the query a text, or remove it.")
        return self._storable(where, "query", value)

    def identifier(self, where: str, name: str, value: object) -> str:
        if isinstance(value, UUID) or (isinstance(value, int) and not isinstance(value, bool)):
            return str(value)
        if not isinstance(value, str):
            # A float is refused too: 1.0 would never equal the document's key 1.
            self.refuse(where, f"has a {name} that is no text or whole number: {value!r}", _AS_IN_TABLE)
        if not value.strip():
            self.refuse(where, f"has a blank {name}", _AS_IN_TABLE)
        return self._storable(where, name, value)

    def _storable(self, where: str, name: str, value: str) -> str:
        if "\x00" in value or any("\ud800" <= character <= "\udfff" for character in value):
            what = f"has a {name} with a character that PostgreSQL cannot hold"
            self.refuse(where, what, "Remove it (NUL, or half a surrogate pair).")
        return value

    def grade(self, where: str, value: object) -> int:
        grade = _whole(value)
        if grade is None or not 0 <= grade <= MAX_GRADE:
            self.refuse(where, f"has the grade {value!r}", f"Use a whole number from 0 (irrelevant) to {MAX_GRADE}.")
        return grade


def _whole(value: object) -> int | None:
    """`value` as a whole number, if it is one; it comes as int, as float from a column with gaps, as text from CSV."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str):
        digits = value.strip()
        return int(digits) if digits.isascii() and digits.isdecimal() and len(digits) < 10 else None
    return value if isinstance(value, int) else None


def _parquet_rows(path: Path, wanted: Sequence[str]) -> Iterator[dict[str, Any]]:
    with needed_for("A held-out set in Parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            columns = _wanted_columns(path, file.schema_arrow.names, wanted)
            table = file.read(columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, "Parquet", error) from error
    yield from _rows(table)


def _csv_rows(path: Path, wanted: Sequence[str]) -> Iterator[dict[str, Any]]:
    with needed_for("A held-out set in CSV"):
        import pyarrow as pa
        from pyarrow import csv

    try:
        table = csv.read_csv(
            path,
            parse_options=csv.ParseOptions(newlines_in_values=True),
            # All text: a guessed number type would turn the document 007 into 7.
            convert_options=csv.ConvertOptions(column_types=dict.fromkeys([*_TABLE_COLUMNS, *wanted], pa.string())),
        )
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, "CSV", error) from error
    yield from _rows(table.select(_wanted_columns(path, table.column_names, wanted)))


def _wanted_columns(path: Path, names: Sequence[str], further: Sequence[str]) -> list[str]:
    missing = [name for name in ("query", "doc_id") if name not in names]
    if missing:
        raise HoldoutError(
            f"{path} has no column {' or '.join(map(repr, missing))}; it has {', '.join(names) or 'none'}.",
            next_step="Name the columns query, doc_id and, if you have them, query_id and grade.",
        )
    wanted = [name for name in dict.fromkeys([*_TABLE_COLUMNS, PROVISIONAL, *further]) if name in names]
    twice = [name for name in wanted if names.count(name) > 1]
    if twice:
        raise HoldoutError(f"{path} has the column {twice[0]!r} more than once.", next_step="Keep one of them.")
    return wanted


def _rows(table: Any) -> Iterator[dict[str, Any]]:
    names = table.column_names
    for batch in table.to_batches():
        for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            yield dict(zip(names, values, strict=True))


def _json_lines(collector: Collector) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in _lines(collector.path, "JSONL"):
        where = f"line {number}"
        try:
            row = json.loads(line, object_pairs_hook=_object_without_repeats)
        except (ValueError, RecursionError) as error:
            collector.refuse(where, f"is no JSON object ({error})", "Write one JSON object on each line.")
        if not isinstance(row, dict):
            collector.refuse(where, "is no JSON object", "Write one JSON object on each line.")
        yield where, row


def _object_without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """json.loads keeps the last of two equal keys without a word; two grades of one document must not pass that way."""
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key!r} stands twice")
        result[key] = value
    return result


def _load_beir(folder: Path, columns: Sequence[str]) -> Holdout:
    queries_path = folder / "queries.jsonl"
    qrels_paths = [path for path in (folder / "qrels.tsv", folder / "qrels" / "test.tsv") if path.is_file()]
    if not queries_path.is_file() or not qrels_paths:
        lacking = "queries.jsonl" if not queries_path.is_file() else "qrels.tsv or qrels/test.tsv"
        raise HoldoutError(f"The folder {folder} holds no {lacking}.", next_step="Add it, or give a file instead.")
    if len(qrels_paths) > 1:
        raise HoldoutError(
            f"The folder {folder} holds both qrels.tsv and qrels/test.tsv.", next_step="Keep the one that is meant."
        )
    texts, rows = _beir_queries(queries_path)
    collector = Collector(qrels_paths[0], columns)
    for where, (query, doc_id, grade) in _qrels_rows(collector):
        query_id = collector.identifier(where, "query-id", query)
        if query_id not in texts:
            collector.refuse(where, f"judges query {query_id!r}, which queries.jsonl lacks", "Add its text there.")
        collector.add_query(where, query_id, texts[query_id])
        collector.add_columns(where, query_id, rows[query_id])
        collector.add_judgement(where, query_id, doc_id, grade)
    return collector.finish()


def _beir_queries(path: Path) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """The text of each query, and whatever else its line says."""
    collector, rows = Collector(path), dict[str, dict[str, Any]]()
    for where, row in _json_lines(collector):
        key = "_id" if "_id" in row else "id"
        for name in (key, "text"):
            if name not in row:
                collector.refuse(where, f"has no {'_id' if name == 'id' else name!r}", "Add it.")
        query_id = collector.identifier(where, key, row[key])
        collector.add_query(where, query_id, collector.text(where, row["text"]))
        metadata = row.get("metadata")
        rows[query_id] = (metadata if isinstance(metadata, dict) else {}) | row
    return collector.queries, rows


def _qrels_rows(collector: Collector) -> Iterator[tuple[str, list[str]]]:
    header_seen = False
    for number, line in _lines(collector.path, "TSV"):
        where, cells = f"line {number}", line.split("\t")
        if not header_seen:
            header_seen = True
            if cells != _QRELS_HEADER:
                collector.refuse(where, "is not the header of a BEIR qrels file", _QRELS_FORM)
        elif len(cells) != len(_QRELS_HEADER):
            collector.refuse(where, f"has {len(cells)} tab-separated fields, not {len(_QRELS_HEADER)}", _QRELS_FORM)
        else:
            yield where, cells


def _lines(path: Path, kind: str) -> Iterator[tuple[int, str]]:
    """Numbered lines that are not blank. utf-8-sig: a spreadsheet's byte order mark is no part of the first field."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except (UnicodeDecodeError, OSError) as error:
        raise _unreadable(path, kind, error) from error


def _unreadable(path: Path, kind: str, error: Exception) -> HoldoutError:
    reason = str(error).strip().partition("\n")[0]
    return HoldoutError(f"{path} cannot be read as {kind} ({reason}).", next_step="Write it again, in UTF-8.")


def _content_hash(
    queries: Mapping[str, str],
    judgements: Mapping[str, Mapping[str, int]],
    columns: Mapping[str, Mapping[str, str]],
    provisional: bool,
) -> str:
    content: list[Any] = [[query_id, text, list(judgements[query_id].items())] for query_id, text in queries.items()]
    content += [[column, list(values.items())] for column, values in sorted(columns.items())]
    if provisional:
        content.append(PROVISIONAL)
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()


def some_of(names: Iterable[str], limit: int = 3) -> str:
    """Up to `limit` names, shortened so that a query text used as id does not fill the screen."""
    ordered = sorted(names)
    shown = ", ".join(repr(name if len(name) <= 60 else f"{name[:57]}...") for name in ordered[:limit])
    return shown if len(ordered) <= limit else f"{shown} and {len(ordered) - limit} more"


def count_of(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun."""
    return f"{number} {one if number == 1 else many or one + 's'}"
