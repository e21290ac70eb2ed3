"""Held-out sets: every format gives the same content; whatever cannot be judged is refused with its place."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embed_pipeline.errors import HoldoutError
from embed_pipeline.evaluate.holdout import load_holdout

ROWS = [
    ("q1", "how are vectors stored", "007", 2),
    ("q1", "how are vectors stored", "b", 0),
    ("q2", 'a "quoted", query\nof two lines', "b", 1),
]


def write_parquet(folder: Path, rows: list[tuple[str, str, str, int]]) -> Path:
    path = folder / "h.parquet"
    columns = list(zip(*rows, strict=True))
    pq.write_table(pa.table(dict(zip(("query_id", "query", "doc_id", "grade"), columns, strict=True))), path)
    return path


def write_csv(folder: Path, rows: list[tuple[str, str, str, int]]) -> Path:
    path = folder / "h.csv"
    lines = [
        "query_id,query,doc_id,grade",
        *(f'{q},"{t.replace(chr(34), 2 * chr(34))}",{d},{g}' for q, t, d, g in rows),
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return path


def write_jsonl(folder: Path, rows: list[tuple[str, str, str, int]]) -> Path:
    path = folder / "h.jsonl"
    lines = [json.dumps({"query_id": q, "query": t, "doc_id": d, "grade": g}) for q, t, d, g in rows]
    path.write_text("\n".join(lines))
    return path


def write_jsonl_by_query(folder: Path, rows: list[tuple[str, str, str, int]]) -> Path:
    path = folder / "by_query.jsonl"
    queries: dict[str, dict[str, object]] = {}
    for q, t, d, g in rows:
        entry = queries.setdefault(q, {"query_id": q, "query": t, "judgements": {}})
        entry["judgements"][d] = g  # type: ignore[index]
    path.write_text("\n\n".join(map(json.dumps, queries.values())) + "\n")
    return path


def write_beir(folder: Path, rows: list[tuple[str, str, str, int]]) -> Path:
    path = folder / "beir"
    (path / "qrels").mkdir(parents=True)
    texts = {"of-another-split": "never judged", **{q: t for q, t, _, _ in rows}}
    (path / "queries.jsonl").write_text("\n".join(json.dumps({"_id": q, "text": t}) for q, t in texts.items()))
    lines = ["query-id\tcorpus-id\tscore", *(f"{q}\t{d}\t{g}" for q, _, d, g in rows)]
    (path / "qrels" / "test.tsv").write_text("\r\n".join(lines) + "\r\n")
    return path


WRITERS: list[Callable[[Path, list[tuple[str, str, str, int]]], Path]] = [
    write_parquet,
    write_csv,
    write_jsonl,
    write_jsonl_by_query,
    write_beir,
]


@pytest.mark.parametrize("write", WRITERS)
def test_every_format_gives_the_same_content_and_hash(tmp_path: Path, write: Callable[..., Path]) -> None:
    holdout = load_holdout(write(tmp_path, ROWS))
    assert holdout.queries == {"q1": "how are vectors stored", "q2": 'a "quoted", query\nof two lines'}
    assert holdout.judgements == {"q1": {"007": 2, "b": 0}, "q2": {"b": 1}}
    assert holdout.document_ids() == {"007", "b"}
    assert holdout.sha256 == load_holdout(write_csv(tmp_path, ROWS)).sha256
    assert len(holdout.sha256) == 64


def test_the_hash_ignores_order_and_repeats_and_nothing_else(tmp_path: Path) -> None:
    def hashed(rows: list[tuple[str, str, str, int]]) -> str:
        return load_holdout(write_jsonl(tmp_path, rows)).sha256

    rows = [(f"q{n % 7}", f"text {n % 7}", f"d{n}", 1 + n % 3) for n in range(40)]
    shuffled = random.Random(0).sample(rows, len(rows))
    assert hashed(rows) == hashed(shuffled) == hashed([*rows, rows[0]])
    q, text, doc, grade = rows[0]
    changes = [(q, text, doc, grade + 1), (q, text, "other", grade), ("other", text, doc, grade)]
    renamed = [(q, "other text" if q == "q0" else text, doc, grade) for q, text, doc, grade in rows]
    hashes = [hashed([change, *rows[1:]]) for change in changes]
    assert len({hashed(rows), hashed(renamed), *hashes}) == 5


def test_large_csv_with_line_breaks_and_words_beyond_ascii(tmp_path: Path) -> None:
    """Above 1 MiB the CSV reader works in blocks, and a block may end inside a quoted text."""
    rows = [(f"q{n}", f"Größe {n}\n" * 60, f"d{n}", 1) for n in range(2000)]
    holdout = load_holdout(write_csv(tmp_path, rows))
    assert (tmp_path / "h.csv").stat().st_size > 1 << 20
    assert holdout.queries["q1999"] == "Größe 1999\n" * 60
    assert len(holdout.judgements) == 2000


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    path.write_text('{"query": "Größe", "doc_id": "d"}', encoding="utf-8-sig")
    assert load_holdout(path).judgements == {"Größe": {"d": 1}}


def test_query_id_and_grade_are_optional_and_keys_may_be_numbers(tmp_path: Path) -> None:
    path = tmp_path / "h.parquet"
    pq.write_table(pa.table({"query": ["one", "two"], "doc_id": [7, 8], "note": [None, None]}), path)
    assert load_holdout(path).judgements == {"one": {"7": 1}, "two": {"8": 1}}
    lines = tmp_path / "h.jsonl"
    lines.write_text('{"query": "one", "doc_id": 7}\n{"query": "two", "judgements": {"8": 1}}\n')
    assert load_holdout(lines) == load_holdout(path)


def refused(path: Path) -> str:
    with pytest.raises(HoldoutError) as caught:
        load_holdout(path)
    assert caught.value.next_step
    return str(caught.value)


JSONL_REFUSALS = [
    ('{"query": "a", "doc_id": "d"}\n{"query": "b"}', "line 2: has no 'doc_id'. Add it."),
    ('{"doc_id": "d"}', "line 1: has no 'query'. Add it."),
    ('{"query": " ", "doc_id": "d"}', "line 1: has a blank query. Give the query a text, or remove it."),
    ('{"query": null, "doc_id": "d"}', "line 1: has a blank query."),
    ('{"query": "a", "doc_id": ""}', "line 1: has a blank doc_id. Write it as the documents table does."),
    ('{"query": "a", "doc_id": 1.0}', "line 1: has a doc_id that is no text or whole number: 1.0."),
    ('{"query": "a", "doc_id": true}', "line 1: has a doc_id that is no text or whole number: True."),
    ('{"query": "a", "query_id": null, "doc_id": 1}', "line 1: has a query_id that is no text or whole number: None."),
    ('{"query": "a", "doc_id": "x\\u0000"}', "has a doc_id with a character that PostgreSQL cannot hold"),
    ('{"query": "a\\ud800", "doc_id": "x"}', "has a query with a character that PostgreSQL cannot hold"),
    ('{"query": "a", "doc_id": "d", "grade": -1}', "has the grade -1. Use a whole number from 0 (irrelevant) to 1000."),
    ('{"query": "a", "doc_id": "d", "grade": 0.5}', "line 1: has the grade 0.5."),
    ('{"query": "a", "doc_id": "d", "grade": NaN}', "line 1: has the grade nan."),
    ('{"query": "a", "doc_id": "d", "grade": true}', "line 1: has the grade True."),
    ('{"query": "a", "doc_id": "d", "grade": null}', "line 1: has the grade None."),
    ('{"query": "a", "doc_id": "d", "grade": 1001}', "line 1: has the grade 1001."),
    ('{"query": "a", "doc_id": "d"}\n\n{broken', "line 3: is no JSON object ("),
    ('["a"]', "line 1: is no JSON object."),
    (
        '{"query": "a", "judgements": ["d"]}',
        'line 1: has judgements that are no object. Write them as {"doc_id": grade}.',
    ),
    ('{"query": "a", "judgements": {"d": 1, "d": 0}}', "line 1: is no JSON object (the key 'd' stands twice)."),
    (
        '{"query": "a", "doc_id": "d"}\n{"query": "a", "doc_id": "d", "grade": 2}',
        "line 2: grades document 'd' for query 'a' 2, and an earlier one says 1. Keep one grade for each query",
    ),
    (
        '{"query": "a", "query_id": 1, "doc_id": "d"}\n{"query": "b", "query_id": 1, "doc_id": "d"}',
        "line 2: gives query '1' another text than before. Keep one text for each query_id.",
    ),
    ("", "h.jsonl holds no judgement. Add queries with relevant documents."),
    (
        '{"query": "bad", "judgements": {"d": 0}}\n{"query": "good", "judgements": {"d": 1}}',
        "1 query in {path} has no relevant document (grade 1 or more): 'bad'. Judge a relevant document",
    ),
    (
        "\n".join(f'{{"query": "q{n}", "judgements": {{}}}}' for n in range(5)),
        "5 queries in {path} have no relevant document (grade 1 or more): 'q0', 'q1', 'q2' and 2 more.",
    ),
]


@pytest.mark.parametrize(("content", "sentence"), JSONL_REFUSALS)
def test_jsonl_refusals(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "h.jsonl"
    path.write_text(content)
    message = refused(path)
    assert sentence.replace("{path}", str(path)) in message
    assert str(path) in message


CSV_REFUSALS = [
    ("query,document\na,b\n", "has no column 'doc_id'; it has query, document. Name the columns query, doc_id and"),
    ("text,id\na,b\n", "has no column 'query' or 'doc_id'; it has text, id."),
    ("query,doc_id,doc_id\na,b,c\n", "has the column 'doc_id' more than once. Keep one of them."),
    ("query,doc_id,grade\na,b,1\nc,d,\n", "row 2: has the grade ''."),
    ("query,doc_id,grade\na,b,high\n", "row 1: has the grade 'high'."),
    ("query,doc_id\n", "holds no judgement."),
    ("query,doc_id\na,b\nc\n", "cannot be read as CSV ("),
    ("", "cannot be read as CSV ("),
]


@pytest.mark.parametrize(("content", "sentence"), CSV_REFUSALS)
def test_csv_refusals(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "h.csv"
    path.write_text(content)
    assert sentence in refused(path)


def test_files_that_are_not_there_or_not_readable(tmp_path: Path) -> None:
    assert refused(tmp_path / "h.csv") == f"There is no held-out set at {tmp_path}/h.csv. Correct holdout.path in defs.yaml."
    other = tmp_path / "h.xlsx"
    other.write_bytes(b"PK")
    assert refused(other) == (
        f"{other} is no format of a held-out set that can be read. Give a .parquet, .csv or .jsonl file, or a BEIR folder."
    )
    parquet = tmp_path / "h.parquet"
    parquet.write_bytes(b"not parquet at all")
    assert "h.parquet cannot be read as Parquet (" in refused(parquet)
    latin = tmp_path / "h.jsonl"
    latin.write_bytes('{"query": "é", "doc_id": "d"}'.encode("latin-1"))
    assert "h.jsonl cannot be read as JSONL (" in refused(latin)


def beir(folder: Path, queries: str, qrels: str) -> Path:
    (folder / "queries.jsonl").write_text(queries)
    (folder / "qrels.tsv").write_text(qrels)
    return folder


HEADER = "query-id\tcorpus-id\tscore\n"
QUERY = '{"id": "q", "text": "words"}'
BEIR_REFUSALS = [
    (
        QUERY,
        "q\t0\td\t1\n",
        "qrels.tsv, line 1: is not the header of a BEIR qrels file. Write the tab-separated columns",
    ),
    (QUERY, HEADER + "q d 1\n", "qrels.tsv, line 2: has 1 tab-separated fields, not 3."),
    (QUERY, HEADER + "r\td\t1\n", "line 2: judges query 'r', which queries.jsonl lacks. Add its text there."),
    (QUERY, HEADER + "q\td\t-1\n", "line 2: has the grade '-1'."),
    (QUERY, HEADER + "q\td\t0\n", "1 query in {folder}/qrels.tsv has no relevant document (grade 1 or more): 'q'."),
    (QUERY, HEADER, "qrels.tsv holds no judgement."),
    ('{"text": "words"}', HEADER, "queries.jsonl, line 1: has no '_id'."),
    ('{"_id": "q"}', HEADER, "queries.jsonl, line 1: has no 'text'."),
    ('{"_id": "q", "text": ""}', HEADER, "queries.jsonl, line 1: has a blank query."),
    (QUERY + '\n{"_id": "q", "text": "others"}', HEADER, "line 2: gives query 'q' another text than before."),
]


@pytest.mark.parametrize(("queries", "qrels", "sentence"), BEIR_REFUSALS)
def test_beir_refusals(tmp_path: Path, queries: str, qrels: str, sentence: str) -> None:
    assert sentence.replace("{folder}", str(tmp_path)) in refused(beir(tmp_path, queries, qrels))


def test_beir_folder_needs_both_files_and_one_of_each(tmp_path: Path) -> None:
    assert "holds no queries.jsonl. Add it, or give a file instead." in refused(tmp_path)
    (tmp_path / "queries.jsonl").write_text(QUERY)
    assert "holds no qrels.tsv or qrels/test.tsv." in refused(tmp_path)
    beir(tmp_path, QUERY, HEADER + "q\td\t1\n")
    assert load_holdout(tmp_path).judgements == {"q": {"d": 1}}
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text(HEADER + "q\td\t1\n")
    assert "holds both qrels.tsv and qrels/test.tsv. Keep the one that is meant." in refused(tmp_path)


@pytest.mark.parametrize("write", WRITERS)
def test_further_columns_are_read_where_they_are_asked_for(tmp_path: Path, write: Callable[..., Path]) -> None:
    path = with_columns(write(tmp_path, ROWS), {"q1": "de", "q2": None})
    plain, sliced = load_holdout(path), load_holdout(path, ["lang"])
    assert (plain.columns, sliced.columns) == ({}, {"lang": {"q1": "de"}})
    assert plain.sha256 != sliced.sha256, "a verdict by slices stands on them"
    assert (plain.queries, plain.judgements) == (sliced.queries, sliced.judgements)
    with pytest.raises(HoldoutError, match="has no column 'tenant', which gate.slices names"):
        load_holdout(path, ["lang", "tenant"])


def with_columns(path: Path, lang: dict[str, str | None]) -> Path:
    """The same file with a language for each query."""
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        pq.write_table(table.append_column("lang", [[lang[each] for each in table["query_id"].to_pylist()]]), path)
    elif path.suffix == ".csv":
        rows = list(csv.DictReader(path.open(encoding="utf-8-sig")))
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, [*rows[0], "lang"])
            writer.writeheader()
            writer.writerows(row | {"lang": lang[row["query_id"]] or ""} for row in rows)
    elif path.is_dir():
        lines = [json.loads(line) for line in (path / "queries.jsonl").read_text().splitlines()]
        more = [line | {"metadata": {"lang": lang.get(line["_id"])}} for line in lines]
        (path / "queries.jsonl").write_text("\n".join(map(json.dumps, more)))
    else:
        lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
        path.write_text("\n".join(json.dumps(line | {"lang": lang[line["query_id"]]}) for line in lines))
    return path


def test_a_query_has_one_value_of_a_column(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    rows = [{"query": "a", "doc_id": "1", "lang": "de"}, {"query": "a", "doc_id": "2", "lang": "en"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert load_holdout(path).queries == {"a": "a"}, "where it is not asked for it is nobody's business"
    with pytest.raises(HoldoutError, match="line 2: gives query 'a' another lang than before"):
        load_holdout(path, ["lang"])
    path.write_text(json.dumps({"query": "a", "doc_id": "1", "lang": ["de"]}))
    with pytest.raises(HoldoutError, match="line 1: has a lang that is no text or number"):
        load_holdout(path, ["lang"])


@pytest.mark.parametrize("mark", [True, "true", " True "])
def test_a_set_is_provisional_when_a_query_is(tmp_path: Path, mark: object) -> None:
    path = tmp_path / "h.jsonl"
    rows: list[dict[str, object]] = [{"query": "a", "doc_id": "1"}, {"query": "b", "doc_id": "2"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    plain = load_holdout(path)
    path.write_text("\n".join(map(json.dumps, [rows[0], rows[1] | {"provisional": mark}])))
    marked = load_holdout(path)
    assert (plain.provisional, marked.provisional) == (False, True)
    assert plain.sha256 != marked.sha256
