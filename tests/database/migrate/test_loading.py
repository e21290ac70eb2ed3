"""Files become documents: all of a file or nothing, only what changed, and a sentence with the row for what is no document."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from embed_pipeline.documents.rows import read_rows
from embed_pipeline.errors import LoadError
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate.loading import LoadReport, load, open_to_load
from embed_pipeline.migrate.opening import open_index
from embed_pipeline.spec import IndexSpec

ROWS = [{"id": f"{n:03}", "title": f"title {n}", "text": f"text {n}", "lang": "en"} for n in range(5)]


def declared(url: str, **overrides: Any) -> IndexSpec:
    version = {"provider": "tests.harness.fakes:HashEmbedder", "model_name": "m", "dimensions": 8}
    declaration = {"name": "docs", "database_url": url, "partitions": 2, "versions": {"v1": version}}
    return IndexSpec.model_validate(declaration | overrides)


@pytest.fixture
def index(database_url: str) -> OpenIndex:
    return open_to_load(declared(database_url))


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., Path]:
    def write(rows: list[Any]) -> Path:
        path = tmp_path / "documents.jsonl"
        path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
        return path

    return write


def stored(conn: psycopg.Connection[Any]) -> dict[str, tuple[Any, ...]]:
    rows = conn.execute("SELECT id, title, text, metadata, xmin::text FROM docs ORDER BY id").fetchall()
    return {row[0]: row[1:] for row in rows}


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    return path


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    csv.write_csv(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_every_format_gives_the_same_documents(
    index: OpenIndex, conn: psycopg.Connection[Any], tmp_path: Path, jsonl: Callable[..., Path], kind: str
) -> None:
    file = {
        "parquet": lambda: write_parquet(tmp_path / "d.parquet", ROWS),
        "csv": lambda: write_csv(tmp_path / "d.csv", ROWS),
        "jsonl": lambda: jsonl(ROWS),
    }[kind]()
    assert load(index, file, full=False) == LoadReport(inserted=5, updated=0, unchanged=0, deleted=0)
    assert {doc_id: row[:3] for doc_id, row in stored(conn).items()} == {
        row["id"]: (row["title"], row["text"], {"lang": "en"}) for row in ROWS
    }


def test_only_what_changed_is_written(index: OpenIndex, conn: psycopg.Connection[Any], jsonl: Callable[..., Path]) -> None:
    load(index, jsonl(ROWS), full=False)
    before = stored(conn)
    changed = [*ROWS[:3], {**ROWS[3], "lang": "de"}, {"id": "new", "text": "n"}]
    assert load(index, jsonl(changed), full=False) == LoadReport(inserted=1, updated=1, unchanged=3, deleted=0)
    after = stored(conn)
    assert {doc_id for doc_id in before if before[doc_id] != after[doc_id]} == {"003"}
    assert after["new"][:3] == (None, "n", {})


def test_full_deletes_what_the_file_lacks(index: OpenIndex, conn: psycopg.Connection[Any], jsonl: Callable[..., Path]) -> None:
    load(index, jsonl(ROWS), full=False)
    assert load(index, jsonl(ROWS[:2]), full=True) == LoadReport(inserted=0, updated=0, unchanged=2, deleted=3)
    assert list(stored(conn)) == ["000", "001"]


def test_full_with_an_empty_file_deletes_nothing(
    index: OpenIndex, conn: psycopg.Connection[Any], jsonl: Callable[..., Path]
) -> None:
    assert load(index, jsonl([]), full=True).rows == 0  # an empty table may be loaded from an empty file
    load(index, jsonl(ROWS), full=False)
    with pytest.raises(LoadError, match="holds no document, and --full would delete every document"):
        load(index, jsonl([]), full=True)
    assert len(stored(conn)) == 5


def test_changes_reach_the_queue_of_a_registered_version(
    database_url: str, conn: psycopg.Connection[Any], jsonl: Callable[..., Path]
) -> None:
    index = open_index(declared(database_url))
    load(index, jsonl(ROWS), full=False)
    conn.execute("DELETE FROM embed_pipeline.inbox")
    load(index, jsonl([*ROWS[:3], {**ROWS[3], "text": "another"}]), full=True)
    told = conn.execute("SELECT doc_ids, removed FROM embed_pipeline.inbox ORDER BY 1").fetchall()
    assert told == [(["003"], False), (["004"], True)]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{not json", "line 6, is no JSON object"),
        ("[1]", "line 6, is no JSON object"),
        ('{"id": 1, "id": 2, "text": "x"}', "the key 'id' stands twice"),
        ({"text": "x"}, "line 6, has no 'id'"),
        ({"id": "x"}, "line 6, has no 'text'"),
        ({"id": None, "text": "x"}, "line 6, has no id"),
        ({"id": " ", "text": "x"}, "line 6, has a blank id"),
        ({"id": [1], "text": "x"}, "line 6, has an id that is no scalar"),
        ({"id": "x", "text": 5}, "line 6, has a text that is no text"),
        ({"id": "x", "text": "a\x00b"}, "line 6, has a text with a character that PostgreSQL cannot hold"),
        ({"id": "x", "text": "a", "more": {"deep": ["\ud800"]}}, "line 6, has a more with a character"),
    ],
)
def test_a_bad_row_is_named(jsonl: Callable[..., Path], bad: Any, message: str) -> None:
    with pytest.raises(LoadError) as refused:
        list(read_rows(jsonl([*ROWS, bad])))
    assert message in str(refused.value)
    assert "nothing was loaded" in str(refused.value)
    assert "documents.jsonl" in str(refused.value)


def test_a_bad_row_loads_nothing(index: OpenIndex, conn: psycopg.Connection[Any], jsonl: Callable[..., Path]) -> None:
    incompressible = "".join(map(chr, range(300, 5000)))
    for bad, message in [
        ("{not json", "line 6"),
        ({"id": "001", "text": "x"}, "has the id '001' twice, in lines 2 and 6; nothing was loaded"),
        ({"id": incompressible, "text": "x"}, "PostgreSQL refused the documents"),
    ]:
        with pytest.raises(LoadError) as refused:
            load(index, jsonl([*ROWS, bad]), full=True)
        assert message in str(refused.value)
        assert stored(conn) == {}


def test_scalars_become_text_and_the_rest_metadata(index: OpenIndex, conn: psycopg.Connection[Any], tmp_path: Path) -> None:
    rows = [
        {"id": 7, "text": "seven", "day": date(2024, 2, 29), "price": Decimal("1.50"), "weight": float("nan"), "tags": ["a"]},
        {"id": 8, "text": None, "day": None, "price": None, "weight": 0.5, "tags": []},
    ]
    report = load(index, write_parquet(tmp_path / "d.parquet", rows), full=False)
    assert (report.inserted, report.blank) == (2, 1)
    found = stored(conn)
    assert found["7"][2] == {"day": "2024-02-29", "price": "1.50", "weight": None, "tags": ["a"]}
    assert found["8"][1] is None


def test_csv_values_stay_as_written(index: OpenIndex, conn: psycopg.Connection[Any], tmp_path: Path) -> None:
    file = tmp_path / "d.csv"
    file.write_bytes('\ufeffid,text,code\n007,"two\nlines",042\n008,,NULL\n'.encode())
    assert load(index, file, full=False).blank == 1
    found = stored(conn)
    assert found["007"][1:3] == ("two\nlines", {"code": "042"})
    assert found["008"][1:3] == ("", {"code": "NULL"})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.txt", b"", "has no extension that can be loaded"),
        ("missing.csv", None, "There is no file"),
        ("d.csv", b"", "cannot be read as CSV"),
        ("d.csv", b"id,title\n1,x\n", "has no column 'text'; it has id, title"),
        ("d.csv", b"id,text,text\n1,x,y\n", "has the column 'text' more than once"),
        ("d.csv", b"id,text\n1,x\n2,y,z\n", "cannot be read as CSV"),
        ("d.csv", b"id,text\n1,\xff\xfe\n", "cannot be read as CSV"),
        ("d.csv", b"id,text\n1,x\n2," + b"long " * 2**20 + b"\n3,y\n", "has a row of more than 2 MiB"),
        ("d.parquet", b"PAR1 no", "cannot be read as Parquet"),
        ("d.jsonl", b'{"id": 1, "text": "\xff"}\n', "cannot be read as UTF-8"),
    ],
)
def test_an_unreadable_file_is_one_sentence(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(LoadError, match=message) as refused:
        list(read_rows(file))
    assert str(file) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_index_with_its_own_table_is_not_loaded(database_url: str, conn: psycopg.Connection[Any]) -> None:
    conn.execute("CREATE TABLE articles (id text PRIMARY KEY, text text)")
    spec = declared(database_url, documents={"table": "articles", "key": "id", "text": "text"})
    with pytest.raises(LoadError, match=r"live in your own table articles\. Write there"):
        open_to_load(spec)


def test_a_table_that_something_else_made_is_named(
    index: OpenIndex, conn: psycopg.Connection[Any], jsonl: Callable[..., Path]
) -> None:
    conn.execute("ALTER TABLE docs DROP COLUMN metadata")
    with pytest.raises(LoadError, match=r'public\.docs: column "metadata" of relation "docs" does not exist'):
        load(index, jsonl(ROWS), full=False)


def test_opening_to_load_registers_nothing(bare_database_url: str) -> None:
    open_to_load(declared(bare_database_url))
    with psycopg.connect(bare_database_url) as conn:
        assert conn.execute("SELECT to_regnamespace('embed_pipeline') IS NULL").fetchone() == (True,)
