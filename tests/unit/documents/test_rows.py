"""Values of Parquet that Python or JSON has no form for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embed_pipeline.documents.rows import read_rows
from embed_pipeline.errors import LoadError

NOON = 1_577_880_000 * 10**9
"""2020-01-01 12:00 in nanoseconds."""
DAY_NOON = 43_200 * 10**9


def parquet(folder: Path, kind: pa.DataType, values: list[Any]) -> Path:
    table = pa.table({"id": list(range(len(values))), "text": ["a text"] * len(values), "at": pa.array(values, type=kind)})
    # pyarrow writes nanoseconds as they are from format 2.6 on.
    pq.write_table(table, folder / "d.parquet", version="2.6", use_dictionary=False)
    return folder / "d.parquet"


@pytest.mark.parametrize(
    ("kind", "value", "read"),
    [
        (pa.timestamp("ns"), NOON + 1_000, "2020-01-01T12:00:00.000001"),
        (pa.timestamp("ns", "UTC"), NOON, "2020-01-01T12:00:00+00:00"),
        (pa.timestamp("us"), NOON // 1_000 + 1, "2020-01-01T12:00:00.000001"),
        (pa.time64("ns"), DAY_NOON + 1_000, "12:00:00.000001"),
        (pa.duration("ns"), 1_000, "0:00:00.000001"),
        (pa.list_(pa.timestamp("ns")), [NOON, None], ["2020-01-01T12:00:00", None]),
        (pa.struct({"t": pa.timestamp("ns")}), {"t": NOON}, {"t": "2020-01-01T12:00:00"}),
    ],
)
def test_nanoseconds_are_read_to_the_microsecond(tmp_path: Path, kind: pa.DataType, value: Any, read: Any) -> None:
    rows = list(read_rows(parquet(tmp_path, kind, [None, value])))
    assert [json.loads(row.metadata)["at"] for row in rows] == [None, read]


@pytest.mark.parametrize(
    ("kind", "good", "bad", "said"),
    [
        (pa.timestamp("ns"), NOON, NOON + 1, "has a at finer than a microsecond"),
        (pa.timestamp("ns", "UTC"), NOON, NOON + 999, "finer than a microsecond"),
        (pa.time64("ns"), DAY_NOON, DAY_NOON + 1, "finer than a microsecond"),
        (pa.duration("ns"), 1_000, 1, "finer than a microsecond"),
        (pa.list_(pa.timestamp("ns")), [NOON], [NOON, NOON + 1], "finer than a microsecond"),
        (pa.timestamp("us"), 0, 10**18, "cannot be read (date value out of range)"),
        (pa.timestamp("s"), 0, 10**12, "cannot be read"),
        (pa.date32(), 0, 10**7, "cannot be read"),
    ],
)
def test_what_would_lose_digits_is_refused_by_row_and_column(
    tmp_path: Path, kind: pa.DataType, good: Any, bad: Any, said: str
) -> None:
    file = parquet(tmp_path, kind, [good] * 1_500 + [bad, good])
    with pytest.raises(LoadError) as refused:
        list(read_rows(file))
    assert f"{file}, row 1501, has a at " in str(refused.value)
    assert said in str(refused.value)
