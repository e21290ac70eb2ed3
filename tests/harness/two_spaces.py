"""An index with two versions between whose spaces a map leads exactly: v2's vectors are v1's, turned into more dimensions."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import psycopg

NARROW, WIDE = 16, 24
WORDS = [f"w{number}" for number in range(400)]

OLD: dict[str, Any] = {"provider": "tests.harness.fakes:WordsEmbedder", "model_name": "old", "dimensions": NARROW}
NEW: dict[str, Any] = {
    "provider": "tests.harness.fakes:TurnedEmbedder",
    "model_name": "new",
    "dimensions": WIDE,
    "options": {"narrow": NARROW},
}


def text(number: int) -> str:
    """Twelve words, the same for a number each time."""
    return " ".join(random.Random(number).sample(WORDS, 12))


def write_documents(app: psycopg.Connection, first: int, last: int) -> None:
    """Articles with these numbers, instead of what has them now."""
    app.execute("DELETE FROM articles WHERE id BETWEEN %s AND %s", (first, last))
    with app.cursor() as cursor, cursor.copy("COPY articles (id, title, body) FROM STDIN") as copy:
        for number in range(first, last + 1):
            copy.write_row((number, text(number), text(-number)))


def write_holdout(path: Path, queries: int) -> Path:
    """Known-item queries: some words of a document each."""
    rows = [
        {"query_id": str(n), "query": " ".join(text(n).split()[:5]), "doc_id": str(n), "grade": 1} for n in range(1, queries + 1)
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path
