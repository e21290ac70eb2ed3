"""Whether evidence still describes what would serve."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone

import pytest

from embed_pipeline.catalog.evidence import Evidence, Present, staleness

NOW = datetime(2026, 11, 30, tzinfo=timezone.utc)
PRESENT = Present("f" * 64, "v1", "h" * 64, 100, 7, 100)


@pytest.mark.parametrize(("outcome", "ef_search", "stale"), [
    ("pass", 100, False),
    ("pass", 99, True),
    ("pass", 800, False),
    ("fail", 100, False),
    ("fail", 99, True),
    ("fail", 800, True),
    ("undecided", 800, True),
])  # fmt: skip
def test_evidence_is_of_the_search_that_was_judged(outcome: str, ef_search: int, stale: bool) -> None:
    """More of the index finds more: what has passed stays passed, and what has failed may be judged again."""
    found = Evidence(1, "v2", "f" * 64, "v1", outcome, "", "h" * 64, 100, 100, 7, 100, {}, NOW, NOW, False)
    said = staleness(found, replace(PRESENT, ef_search=ef_search), 0.05)
    assert said == (f"it was searched with hnsw.ef_search 100, and is with {ef_search} now" if stale else None)
