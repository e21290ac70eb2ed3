"""Provisional held-out sets: what of a document becomes its query."""

from __future__ import annotations

from pathlib import Path

import pytest

from embed_pipeline.errors import HoldoutError
from embed_pipeline.evaluate.holdout import load_holdout
from embed_pipeline.evaluate.synthetic import query_of, synthetic


@pytest.mark.parametrize(("text", "query"), [
    ("# Opening files\n\nA file is opened with open().", "Opening files"),
    ("== Opening files ==\nA file.", "Opening files"),
    ("\n  Opening   files\n\nA file is opened.", "Opening files"),
    ("A file is opened with open(). It is closed again.", "A file is opened with open()."),
    ("Version 3.11 is out! Get it.", "Version 3.11 is out!"),
    ("\u6587\u4ef6\u7684\u6253\u5f00\u3002\u7136\u540e\u5173\u95ed\u3002", "\u6587\u4ef6\u7684\u6253\u5f00\u3002"),
    ("A file is opened.", None),
    ("Opening files", None),
    ("", None),
    ("Files\n\nA file.", None),
    (f"{'word ' * 31}\nAnd more.", None),
    (f"{'x' * 200} {'y' * 200}\nAnd more.", None),
])  # fmt: skip
def test_the_query_of_a_document(text: str, query: str | None) -> None:
    assert query_of(text) == query


def test_documents_that_begin_alike_are_all_right(tmp_path: Path) -> None:
    texts = [
        ("1", "Open a file\nfirst"),
        ("2", "Open a file!\nsecond"),
        ("3", "short"),
        ("4", "Sort a list\nx"),
        ("5", "Never read\nx"),
    ]
    found = synthetic(texts, 2)
    assert found.queries == {"Open a file": {"1": 1, "2": 1}, "Sort a list": {"4": 1}}
    assert found.notes[0] == "2 queries out of 4 documents."
    found.write(tmp_path / "made.jsonl")
    assert load_holdout(tmp_path / "made.jsonl").provisional


def test_without_any_query() -> None:
    with pytest.raises(HoldoutError, match="No document has a heading or a first sentence"):
        synthetic([("1", "short")], 10)
