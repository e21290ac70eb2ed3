"""Rows of a file of documents: Parquet, CSV or JSONL, read as a stream, each row checked and turned into what is stored.

Nothing is repaired or skipped: a row that is no document is refused with its file and its row or line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn
from uuid import UUID

from embed_pipeline.errors import LoadError
from embed_pipeline.extras import needed_for
from embed_pipeline.foreign_words import is_text

# Rows in memory at once. A CSV row must fit into one block; the reader held about seventy blocks at most, whatever the file's size.
BATCH_ROWS = 1_000
CSV_BLOCK_BYTES = 2 * 2**20

NAMED = ("id", "title", "text")

Origin = Path | str
"""Where rows come from: a file, or what a table in memory is called."""
# What pyarrow raises for a value that Python has no form for: pa.ArrowInvalid is a ValueError, an unknown time zone a KeyError.
_NO_VALUE = (ValueError, OverflowError, KeyError, NotImplementedError)


@dataclass(frozen=True)
class Row:
    """One document. `position` counts lines of JSONL and data rows of the others, from 1; `metadata` is JSON text."""

    position: int
    id: str
    title: str | None
    text: str | None
    metadata: str

    @property
    def is_blank(self) -> bool:
        """Whether there is nothing to embed: the document will be a dead letter."""
        return not ((self.title or "").strip() or (self.text or "").strip())


def read_rows(file: Path) -> Iterator[Row]:
    """The documents in `file`, by its extension: .parquet, .csv, .jsonl. LoadError names the file and the row.

    `id` may be any scalar and is kept as text; `title` is optional; every other column goes into `metadata`. All values of
    a CSV are text. In JSON there is no NaN and no infinity: they become null.
    """
    readers = {".parquet": _parquet, ".csv": _csv, ".jsonl": _jsonl}
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise LoadError(f"{file} has no extension that can be loaded.", next_step="Give a .parquet, .csv or .jsonl file.")
    if not file.is_file():
        raise LoadError(f"There is no file {file}.", next_step="Correct the path.")
    return reader(file)


def rows_of(table: Any, called: str) -> Iterator[Row]:
    """The documents in a DataFrame of pandas, a table of Arrow, or whatever hands over Arrow's stream (polars, DuckDB), by the same rules. An
    index of pandas is no column."""
    with needed_for("To load a table"):
        import pyarrow as pa

    try:
        if type(table).__module__.partition(".")[0] == "pandas":
            table = pa.Table.from_pandas(table, preserve_index=False)
        found = table if isinstance(table, pa.Table) else pa.table(table)
    except (pa.ArrowException, TypeError, ValueError) as problem:
        said = str(problem).strip().partition("\n")[0].rstrip(".")
        raise LoadError(
            f"{called} is no table of documents ({type(table).__name__}: {said}); nothing was loaded.",
            next_step="Return a DataFrame of pandas or a table of Arrow with the columns id, text and, if there is one, title.",
        ) from problem
    _require_columns(called, found.schema.names)
    return _rows_of(called, found.to_batches())


def unit(file: Origin) -> str:
    """The unit of a position in this file."""
    return "line" if str(file).lower().endswith(".jsonl") else "row"


def _parquet(file: Path) -> Iterator[Row]:
    with needed_for("To load Parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file, pre_buffer=False) as opened:
            _require_columns(file, opened.schema_arrow.names)
            yield from _rows_of(file, opened.iter_batches(batch_size=BATCH_ROWS, use_threads=False))
    except (pa.ArrowException, OSError) as problem:
        raise _unreadable(file, "Parquet", problem) from problem


def _csv(file: Path) -> Iterator[Row]:
    with needed_for("To load CSV"):
        import pyarrow as pa
        from pyarrow import csv

    def reader(column_types: dict[str, Any]) -> Any:
        return csv.open_csv(
            file,
            # One thread: a parse error then tells its row.
            read_options=csv.ReadOptions(block_size=CSV_BLOCK_BYTES, use_threads=False),
            parse_options=csv.ParseOptions(newlines_in_values=True),
            convert_options=csv.ConvertOptions(column_types=column_types),
        )

    try:
        with reader({}) as first_look:
            names = first_look.schema.names
        _require_columns(file, names)
        # A guessed type would turn the document 007 into 7, and fail in the middle of the file where the guess ends.
        with reader(dict.fromkeys(names, pa.string())) as opened:
            yield from _rows_of(file, opened)
    except (pa.ArrowException, OSError) as problem:
        if "straddling" in str(problem):
            raise LoadError(
                f"{file} has a row of more than {CSV_BLOCK_BYTES // 2**20} MiB, too long for a CSV; nothing was loaded.",
                next_step="Write the file as .jsonl or .parquet.",
            ) from problem
        raise _unreadable(file, "CSV", problem) from problem


def _rows_of(file: Origin, batches: Iterable[Any]) -> Iterator[Row]:
    position = 0
    for large in batches:
        for start in range(0, large.num_rows, BATCH_ROWS):
            batch = large.slice(start, BATCH_ROWS)
            names = batch.schema.names
            columns = [_values(file, position + 1, name, column) for name, column in zip(names, batch.columns, strict=True)]
            for values in zip(*columns, strict=True):
                position += 1
                yield _row(file, position, dict(zip(names, values, strict=True)))


def _values(file: Origin, first: int, name: str, column: Any) -> list[Any]:
    """A column's values as Python has them; `first` is the position of its first row."""
    try:
        return _in_microseconds(column).to_pylist()  # type: ignore[no-any-return]
    except _NO_VALUE:
        pass
    found: list[Any] = []
    for number in range(len(column)):
        one = column.take([number])  # A slice of lists is cast with the values of all rows.
        try:
            found += _in_microseconds(one).to_pylist()
        except _NO_VALUE as problem:
            said = str(problem).partition("\n")[0].rstrip(".")
            if "lose data" in said:
                what, next_step = f"has a {name} finer than a microsecond", "Round it in the file, or write it as text."
            else:
                what, next_step = f"has a {name} that cannot be read ({said})", "Correct it, or write it as text."
            _refuse(file, first + number, what, next_step)
    return found


def _in_microseconds(column: Any) -> Any:
    """The column with microseconds for nanoseconds, at any depth. What would lose digits is an ArrowInvalid.

    pyarrow itself gives nanoseconds as pandas' types where pandas happens to be installed, and fails where it is not.
    """
    coarser = _coarser(column.type)
    return column if coarser == column.type else column.cast(coarser)


def _coarser(kind: Any) -> Any:
    import pyarrow as pa
    from pyarrow import types

    if types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)
    if types.is_duration(kind) and kind.unit == "ns":
        return pa.duration("us")
    if types.is_time64(kind) and kind.unit == "ns":
        return pa.time64("us")
    if types.is_struct(kind):
        return pa.struct([field.with_type(_coarser(field.type)) for field in kind])
    if types.is_map(kind):
        return pa.map_(_coarser(kind.key_type), _coarser(kind.item_type))
    if types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_coarser(kind.value_type)))
    if types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_coarser(kind.value_type)), kind.list_size)
    if types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_coarser(kind.value_type)))
    if types.is_dictionary(kind):
        return _coarser(kind.value_type)
    return kind


def _jsonl(file: Path) -> Iterator[Row]:
    position = 0
    try:
        # utf-8-sig: an editor's byte order mark is no part of the first line.
        with file.open(encoding="utf-8-sig") as lines:
            for position, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    value = json.loads(line, object_pairs_hook=_without_repeats)
                except (ValueError, RecursionError) as problem:
                    _refuse(file, position, f"is no JSON object ({problem})", "Write one JSON object on each line.")
                if not isinstance(value, dict):
                    _refuse(file, position, "is no JSON object", "Write one JSON object on each line.")
                yield _row(file, position, value)
    except UnicodeDecodeError as problem:
        raise _unreadable(file, f"UTF-8 after line {position}", problem) from problem
    except OSError as problem:
        raise _unreadable(file, "JSONL", problem) from problem


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        # Python would keep the last of two equal keys without a word.
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} stands twice")
    return found


def _require_columns(file: Origin, names: list[str]) -> None:
    missing = [name for name in ("id", "text") if name not in names]
    if missing:
        raise LoadError(
            f"{file} has no column {' and no column '.join(map(repr, missing))}; it has {', '.join(names) or 'none'}.",
            next_step="Name the columns id, text and, if there is one, title.",
        )
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise LoadError(f"{file} has the column {twice!r} more than once.", next_step="Keep one of them.")


def _row(file: Origin, position: int, values: dict[str, Any]) -> Row:
    for name in ("id", "text"):
        if name not in values:
            _refuse(file, position, f"has no {name!r}", "Add it.")
    document = _identifier(file, position, values["id"])
    title, text = (_text(file, position, name, values.get(name)) for name in ("title", "text"))
    rest = {name: _plain(file, position, name, value) for name, value in values.items() if name not in NAMED}
    return Row(position, document, title, text, json.dumps(rest, ensure_ascii=False))


def _identifier(file: Origin, position: int, value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        _refuse(file, position, "has no id (it is null)", "Give every document an id.")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (date, datetime, time)):
        return value.isoformat()
    if not isinstance(value, (str, int, float, Decimal, UUID)):
        _refuse(file, position, f"has an id that is no scalar ({type(value).__name__})", "Write it as a text or a number.")
    text = str(value)
    if not text.strip():
        _refuse(file, position, "has a blank id", "Give every document an id.")
    return _storable(file, position, "id", text)


def _text(file: Origin, position: int, name: str, value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        _refuse(file, position, f"has a {name} that is no text ({type(value).__name__})", "Write it as a text.")
    return _storable(file, position, name, value)


def _plain(file: Origin, position: int, name: str, value: Any) -> Any:
    """A value as JSON can hold it."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return _storable(file, position, name, value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (date, datetime, time)):
        return value.isoformat()
    if isinstance(value, (Decimal, UUID, timedelta)):
        return str(value)
    if isinstance(value, dict):
        return {_storable(file, position, name, str(key)): _plain(file, position, name, each) for key, each in value.items()}
    if not isinstance(value, (list, tuple)):
        what = f"has a {name} that JSON cannot hold ({type(value).__name__})"
        _refuse(file, position, what, "Leave the column out, or write it as text.")
    return [_plain(file, position, name, each) for each in value]


def _storable(file: Origin, position: int, name: str, value: str) -> str:
    if not is_text(value):
        what = f"has a {name} with a character that PostgreSQL cannot hold"
        _refuse(file, position, what, "Remove it (NUL, or half a surrogate pair).")
    return value


def _refuse(file: Origin, position: int, what: str, next_step: str) -> NoReturn:
    raise LoadError(f"{file}, {unit(file)} {position}, {what}; nothing was loaded.", next_step=next_step)


def _unreadable(file: Origin, kind: str, problem: Exception) -> LoadError:
    reason = str(problem).strip().partition("\n")[0].rstrip(".")
    return LoadError(f"{file} cannot be read as {kind} ({reason}); nothing was loaded.", next_step="Write it again, in UTF-8.")
