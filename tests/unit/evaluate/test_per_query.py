"""What each query found, side by side: which are shown, and that nothing of a foreign text becomes Markdown."""

from __future__ import annotations

import json

import pytest

from embed_pipeline.catalog.judged_queries import QueryRow
from embed_pipeline.evaluate.examine import World, examine
from embed_pipeline.evaluate.holdout import Holdout
from embed_pipeline.evaluate.measured import Measured
from embed_pipeline.evaluate.per_query import as_cells, as_markdown, as_text, as_values, escaped, rows, worst


def measured(name: str, found: dict[str, list[tuple[str, float]]]) -> Measured:
    return Measured(name, found, found, found)


def compared(baseline: bool = True) -> list[QueryRow]:
    """`a` lost its document, `b` kept it, `c` says the same as `a`, `d` gained."""
    queries = {"a": "open a file", "b": "sort a list", "c": "Open a file!", "d": "parse json"}
    columns = {"lang": {"a": "de", "b": "en", "c": "de"}}
    holdout = Holdout(queries, {each: {f"doc-{each}": 1} for each in queries}, "0" * 64, columns=columns)
    texts = dict.fromkeys(holdout.document_ids(), "text")
    examined = examine(holdout, World(100, texts), max_missing=0, min_queries=2, cutoff=2)
    before = {
        "a": [("x", -0.9), ("doc-a", -0.1), ("z", -0.95)],
        "b": [("doc-b", -0.1)],
        "c": [("doc-a", -0.1)],
        "d": [("x", -0.2)],
    }
    after = {"a": [("x", -0.1)], "b": [("doc-b", -0.3)], "c": [("x", -0.1)], "d": [("y", -0.5), ("doc-d", -0.4)]}
    return rows(examined, "recall@2", measured("v2", after), measured("v1", before) if baseline else None)


def test_rows() -> None:
    found = {row.query_id: row for row in compared()}
    assert {each: row.difference for each, row in found.items()} == {"a": -1.0, "b": 0.0, "c": 0.0, "d": 1.0}
    assert found["a"].baseline_hits == (("doc-a", -0.1), ("x", -0.9)), "the best first, and no more than the metric looks at"
    assert found["c"].cluster == "a"
    values = as_values(found["a"])
    assert (values["relevant"], values["baseline_hits"], values["candidate_scores"]) == (["doc-a"], ["doc-a", "x"], [-0.1])
    assert values["slice lang"] == "de"
    assert json.dumps(values)


def test_as_the_cells_of_a_table() -> None:
    cells = as_cells(compared(), 2)
    assert [row["difference"] for row in cells] == [-1.0, 0.0], "those that lost most first"
    assert cells[0] == {
        "query": "open a file",
        "lang": "de",
        "baseline": 1.0,
        "candidate": 0.0,
        "difference": -1.0,
        "relevant": "doc-a",
        "baseline hits": "doc-a, x",
        "candidate hits": "x",
    }
    alone = as_cells(compared(baseline=False), 9)
    assert len(alone) == 4
    assert {tuple(row) for row in alone} == {("query", "lang", "candidate", "relevant", "candidate hits")}
    assert alone[-1]["lang"] == "", "a query without a value has an empty one"


def test_the_worst_are_those_that_lost_most_one_of_each_cluster() -> None:
    assert [row.query_id for row in worst(compared(), 10)] == ["a", "b", "d"]
    assert [row.query_id for row in worst(compared(), 1)] == ["a"]
    assert [row.query_id for row in worst(compared(baseline=False), 2)] == ["a", "b"], "without a baseline those that found least"


def test_as_text() -> None:
    row = compared()[0]
    assert list(as_text(row, "recall@2", "v2", "v1")) == [
        "a: open a file",
        "  recall@2 1.000 with v1, 0.000 with v2; relevant: doc-a",
        "        v1                v2",
        "     1  doc-a * (-0.100)  x (-0.100)",
        "     2  x (-0.900)",
    ]
    alone = compared(baseline=False)[3]
    assert list(as_text(alone, "recall@2", "v2", None))[1:] == [
        "  recall@2 1.000; relevant: doc-d",
        "        v2",
        "     1  doc-d * (-0.400)",
        "     2  y (-0.500)",
    ]


def test_as_markdown() -> None:
    assert as_markdown(compared()[0], "recall@2", "v2", "v1") == (
        "**a**: open a file\n\n"
        "recall@2 1.000 with v1, 0.000 with v2; relevant: doc-a\n\n"
        "| rank | v1 | v2 |\n"
        "| ---: | --- | --- |\n"
        "| 1 | doc-a \\* (-0.100) | x (-0.100) |\n"
        "| 2 | x (-0.900) |  |\n"
    )


@pytest.mark.parametrize(("text", "shown"), [
    ("a | b", "a \\| b"),
    ("<img src=x>", "\\<img src=x\\>"),
    ("[link](http://x) `code`", "\\[link\\](http://x) \\`code\\`"),
    ("two\nlines", "two lines"),
])  # fmt: skip
def test_foreign_text_is_no_markdown(text: str, shown: str) -> None:
    assert escaped(text) == shown
