from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from embed_pipeline.demo.corpus import DocstringDocument, read_docstrings, write_holdout, write_jsonl

REST = "The rest of it goes on for long enough to be told from the rest of anything else in here, number {0}. " * 2


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A small library with one reason to be left out in each definition but four."""
    root = tmp_path / "lib"
    (root / "pack" / "test").mkdir(parents=True)
    (root / "zed.py").write_text(f'''"""About zed,\nin two lines.\n\n{REST.format(1)}\n"""
import no_such_module_xyz
class Thing:
    """A thing.\n\n    {REST.format(2)}\n    """
    def work(self):
        """Do work.\n\n        {REST.format(3)}\n        """
        def inner():
            """Inner work.\n\n            {REST.format(8)}\n            """
    def _hidden(self):
        """Hidden.\n\n        {REST.format(4)}\n        """
    def short(self):
        """Short.\n\n        Too short.\n        """
    def work(self):
        """Again.\n\n        {REST.format(5)}\n        """
    def pasted(self):
        """Pasted.\n\n        {REST.format(3)}\n        """
''')
    (root / "pack" / "__init__.py").write_text(f'"""Pack.\n\n{REST.format(6)}"""\n')
    (root / "pack" / "test" / "test_it.py").write_text(f'"""Test.\n\n{REST.format(7)}"""\n')
    (root / "broken.py").write_text(f'"""Broken.\n\n{REST.format(9)}"""\nthis is no python\n')
    (root / "escape.py").write_text('x = "\\d"\n')  # Python warns of it; the reader must not
    return root


def test_what_is_taken_and_how_it_is_named(library: Path) -> None:
    documents = read_docstrings(library)
    assert [d.id for d in documents] == ["pack", "zed", "zed.Thing", "zed.Thing.work", "zed.Thing.work.inner"]
    zed = documents[1]
    assert zed.query == "About zed, in two lines."
    assert zed.text == REST.format(1).strip()
    assert documents[3].query == "Do work."
    assert documents[3].module == "zed"


def test_files_for_load_and_for_the_holdout(tmp_path: Path) -> None:
    documents = [DocstringDocument("a.b", "text — with\nlines", "query?"), DocstringDocument("c", "other", "what")]
    write_jsonl(documents, tmp_path / "documents.jsonl")
    write_holdout(documents, tmp_path / "holdout.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "documents.jsonl").read_text("utf-8").splitlines()]
    assert lines[0] == {"id": "a.b", "text": "text — with\nlines", "metadata": {"module": "a"}}
    assert len(lines) == 2
    judged = [json.loads(line) for line in (tmp_path / "holdout.jsonl").read_text("utf-8").splitlines()]
    assert judged[1] == {"query_id": "c", "query": "what", "doc_id": "c", "grade": 1}


def test_the_standard_library_gives_a_corpus() -> None:
    documents = read_docstrings()
    assert len({d.id for d in documents}) == len(documents)
    assert len({d.text for d in documents}) == len(documents)
    assert all(d.query and len(d.text) >= 120 and "\x00" not in d.text for d in documents)
    assert not [d.id for d in documents if d.module in {"test", "idlelib", "turtledemo"}]
    if sys.version_info[:2] == (3, 11):
        # 1,749 on 3.11.7; a patch release edits a few docstrings.
        assert abs(len(documents) - 1749) < 40
    else:
        assert len(documents) > 1000
