"""Held-out sets out of search logs: what counts as used, the period, queries that say the same, and that a data frame gives the same."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from embed_pipeline.errors import HoldoutError
from embed_pipeline.evaluate.from_log import BIAS, from_log
from embed_pipeline.evaluate.holdout import load_holdout
from embed_pipeline.evaluate.made import MadeSet

ROWS: list[dict[str, Any]] = [
    {"query": "Open a file", "doc_id": "1", "at": "2026-01-01T10:00:00", "used": True},
    {"query": "open  a file?", "doc_id": "2", "at": "2026-01-02T10:00:00+02:00", "used": False},
    {"query": "open a FILE", "doc_id": "2", "at": "2026-02-01T00:00:00", "used": "true"},
    {"query": "open a file", "doc_id": "3", "at": "2026-01-03", "used": False},
    {"query": "sort a list", "doc_id": "4", "at": "2026-02-02", "used": True},
    {"query": "nobody cared", "doc_id": "5", "at": "2026-01-05", "used": 0},
]


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "log.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def made(folder: Path, rows: list[dict[str, Any]], **period: datetime) -> MadeSet:
    return from_log(write(folder, rows), **period)


def test_queries_that_say_the_same_are_one_and_a_use_wins(tmp_path: Path) -> None:
    found = made(tmp_path, ROWS)
    assert found.queries == {"Open a file": {"1": 1, "2": 1, "3": 0}, "sort a list": {"4": 1}}
    assert found.notes == (
        "2 queries with 3 documents that were used.",
        "1 query without a used document was left out.",
        BIAS,
    )
    assert not found.provisional


def test_a_period(tmp_path: Path) -> None:
    found = made(tmp_path, ROWS, until=datetime(2026, 2, 1, tzinfo=UTC))
    assert found.queries == {"Open a file": {"1": 1, "2": 0, "3": 0}}
    assert "2 rows outside the period were left out." in found.notes
    assert made(tmp_path, ROWS, since=datetime(2026, 2, 1)).queries == {"open a FILE": {"2": 1}, "sort a list": {"4": 1}}
    # 10:00 at +02:00 is 08:00 UTC.
    assert (
        "2"
        not in made(
            tmp_path, ROWS[:2], since=datetime(2026, 1, 1, tzinfo=UTC), until=datetime(2026, 1, 2, 8, tzinfo=UTC)
        ).queries["Open a file"]
    )


def test_without_used_each_row_is_a_use(tmp_path: Path) -> None:
    found = made(tmp_path, [{"query": "a b", "doc_id": 7}, {"query": "a b", "doc_id": 8}])
    assert found.queries == {"a b": {"7": 1, "8": 1}}


@pytest.mark.parametrize(("row", "period", "said"), [
    ({"doc_id": "1"}, {}, "line 1: has no 'query'"),
    ({"query": "a"}, {}, "line 1: has no 'doc_id'"),
    ({"query": " ", "doc_id": "1"}, {}, "line 1: has a blank query"),
    ({"query": "a", "doc_id": 1.5}, {}, "line 1: has a doc_id that is no text or whole number"),
    ({"query": "a", "doc_id": "1", "used": "perhaps"}, {}, "line 1: has 'perhaps' as used"),
    ({"query": "a", "doc_id": "1"}, {"until": datetime(2026, 1, 1, tzinfo=UTC)}, "line 1: has no moment as at: None"),
    ({"query": "a", "doc_id": "1", "at": "later"}, {"until": datetime(2026, 1, 1, tzinfo=UTC)}, "has no moment as at: 'later'"),
    ({"query": "a", "doc_id": "1", "used": False}, {}, "No query of the log has a document that was used"),
])  # fmt: skip
def test_refusals(tmp_path: Path, row: dict[str, Any], period: dict[str, datetime], said: str) -> None:
    with pytest.raises(HoldoutError, match=said):
        made(tmp_path, [row], **period)


def test_files_and_a_data_frame_give_the_same(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame([row | {"used": str(row["used"]).lower() in ("true", "1")} for row in ROWS])
    frame["at"] = [datetime.fromisoformat(at).replace(tzinfo=UTC) for at in frame["at"]]
    frame.to_csv(tmp_path / "log.csv", index=False)
    frame.to_parquet(tmp_path / "log.parquet")
    period = {"until": datetime(2026, 2, 2, tzinfo=UTC)}
    wanted = made(tmp_path, ROWS, **period)
    assert len(wanted.queries) == 1
    for log in (frame, tmp_path / "log.csv", tmp_path / "log.parquet"):
        assert from_log(log, **period) == wanted
    frame.loc[0, "at"] = pd.NaT
    with pytest.raises(HoldoutError, match="row 1: has no moment as at"):
        from_log(frame, **period)


def test_what_is_written_is_a_held_out_set_and_nothing_is_overwritten(tmp_path: Path) -> None:
    found = made(tmp_path, ROWS)
    path = tmp_path / "holdout.jsonl"
    found.write(path)
    held = load_holdout(path)
    assert {held.queries[each]: judged for each, judged in held.judgements.items()} == found.queries
    assert not held.provisional
    with pytest.raises(HoldoutError, match=r"is there already, and a held-out set is not overwritten\."):
        found.write(path)
    with pytest.raises(HoldoutError, match=r"is no \.jsonl file"):
        found.write(tmp_path / "holdout.csv")
    with pytest.raises(HoldoutError, match="cannot be written"):
        found.write(tmp_path / "none" / "holdout.jsonl")
