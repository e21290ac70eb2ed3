"""The demo's documents: docstrings of the Python standard library, read with `ast`, so that no module is imported.

Known-item search: a docstring's first paragraph (PEP 257's summary line) is the query, the rest is the document, and
the one right answer to a query is the rest of its own docstring. The summary itself is no part of the document.
"""

from __future__ import annotations

import ast
import json
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Tests, applications and installed packages: no part of the library that one would search.
SKIPPED_DIRECTORIES = frozenset(
    {"test", "tests", "idlelib", "site-packages", "dist-packages", "turtledemo", "ensurepip", "__pycache__"}
)

# A rest shorter than this is often "See also X", which no search could tell from another's.
MIN_TEXT = 120

GRADE = 1

Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class DocstringDocument:
    """One docstring: `id` is the dotted name of what it describes, `query` its summary, `text` all that follows it."""

    id: str
    text: str
    query: str

    @property
    def module(self) -> str:
        """The top-level module of `id`."""
        return self.id.partition(".")[0]


def read_docstrings(stdlib: Path | None = None) -> list[DocstringDocument]:
    """The documents of the standard library below `stdlib` (default: this interpreter's), by file and line.

    Taken are docstrings of modules, classes and functions with a public last name, a summary, and at least 120
    characters after it. Ids are unique; of several equal texts the first is kept. CPython 3.11.7 gives 1,749 documents.
    """
    root = stdlib or Path(sysconfig.get_path("stdlib"))
    documents: dict[str, DocstringDocument] = {}
    texts: set[str] = set()
    for file in sorted(root.rglob("*.py")):
        relative = file.relative_to(root)
        if SKIPPED_DIRECTORIES.isdisjoint(relative.parts):
            for document in _documents_of(file, _module_name(relative)):
                # A name defined twice (a property and its setter) counts once, a docstring pasted twice as well.
                if document.id not in documents and document.text not in texts:
                    documents[document.id] = document
                    texts.add(document.text)
    return list(documents.values())


def write_jsonl(documents: Iterable[DocstringDocument], path: Path) -> None:
    """One JSON object a line for `load`: id, text, and metadata with the module."""
    _write(({"id": d.id, "text": d.text, "metadata": {"module": d.module}} for d in documents), path)


def write_holdout(documents: Iterable[DocstringDocument], path: Path) -> None:
    """One judgement a line: query_id (the document's id), query, doc_id, grade 1."""
    _write(({"query_id": d.id, "query": d.query, "doc_id": d.id, "grade": GRADE} for d in documents), path)


def _write(rows: Iterable[dict[str, Any]], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _module_name(relative: Path) -> str:
    parts = relative.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _documents_of(file: Path, module: str) -> Iterator[DocstringDocument]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about other people's escape sequences
            tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return  # a template or a file that is broken on purpose: nothing that Python itself could read
    for name, node in _definitions(tree, module):
        docstring = ast.get_docstring(node)
        if docstring is None or name.rpartition(".")[2].startswith("_"):
            continue
        summary, _, rest = docstring.partition("\n\n")
        query, text = " ".join(summary.split()), rest.strip()
        if query and len(text) >= MIN_TEXT:
            yield DocstringDocument(name, text, query)


def _definitions(node: ast.AST, name: str) -> Iterator[tuple[str, Definition]]:
    if isinstance(node, Definition):
        yield name, node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _definitions(child, f"{name}.{child.name}")
