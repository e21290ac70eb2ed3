"""What the campaign declares: one index of up to three versions, its held-out set, and the files that its models read and write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

from embed_pipeline.spec import IndexSpec
from tests.faults.campaign import load as application
from tests.faults.campaign import models

# A text of the load's has from one to about six chunks of this.
CHUNKER = {"kind": "recursive", "size": 40, "overlap": 8}
BATCH = 8
WRITE_BATCH = 40
IN_FLIGHT = 2


def with_parameter(url: str, name: str, value: str) -> str:
    """The URL with one more connection parameter."""
    return f"{url}{'&' if '?' in url else '?'}{name}={quote(value, safe='')}"


def calls_file(place: Path, version: str) -> Path:
    return place / f"calls-{version}.jsonl"


def faults_file(place: Path) -> Path:
    return place / "faults"


def space(version: str) -> int:
    """v1 0, v2 1, v3 2, v4 1, v5 2, ..."""
    number = int(version[1:])
    return 0 if number == 1 else 1 + number % 2


def write_holdout(path: Path, texts: dict[str, str]) -> None:
    """Known items that no writer touches. `texts`: of all documents."""
    ids = {text: doc_id for doc_id, text in texts.items()}
    queries = {n: application.anchor_text(n) for n in range(1, application.ANCHORS + 1)}
    rows = [{"query_id": str(n), "query": query, "doc_id": ids[query], "grade": 1} for n, query in queries.items()]
    path.write_text("\n".join(json.dumps(row) for row in rows))


def changed(declared: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A declaration with some of its values changed, at any depth."""
    merged = {
        key: changed(declared.get(key) or {}, value) if isinstance(value, dict) else value for key, value in changes.items()
    }
    return declared | merged


def declaration(
    url: str,
    place: Path,
    versions: list[str],
    delay: float,
    *,
    chunked: bool = False,
    store: dict[str, Any] | None = None,
    table: application.Table = application.PLAIN,
    changes: dict[str, Any] | None = None,
) -> IndexSpec:
    """Index `docs`: v1 has a space of its own, all later ones share two. With `chunked` all but v1 split their texts. `changes`: of
    whatever is declared here."""
    return IndexSpec.model_validate(
        changed(
            {
                "name": "docs",
                "database_url": url,
                "documents": {"table": "articles", "key": list(table.key), "text": ["title", "body"]},
                "store": store or {"kind": "pgvector"},
                "partitions": 4,
                "versions": {
                    name: {
                        "provider": "tests.faults.campaign.models:SpaceEmbedder",
                        "model_name": f"model-{name}",
                        "dimensions": models.DIMENSIONS,
                        "batch_size": BATCH,
                        "max_in_flight": IN_FLIGHT,
                        "chunker": CHUNKER if chunked and name != "v1" else None,
                        "options": {
                            "space": space(name),
                            "delay": delay,
                            "calls_file": str(calls_file(place, name)),
                            "faults_file": str(faults_file(place)),
                        },
                    }
                    for name in versions
                },
                "holdout": {"path": str(place / "holdout.jsonl")},
                "gate": {"min_queries": 2, "margin": 0.2, "max_row_change": 1.0, "max_dead_letters": 1_000_000},
                "backfill": {"write_batch": WRITE_BATCH},
                "retire": {"soak_seconds": 0, "unread_seconds": 0},
            },
            changes or {},
        )
    )
