"""Whether evidence still describes what would serve, and which part of it moved."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pytest

from embed_pipeline.catalog.evidence import Evidence, Present, Texts, moved_texts, staleness

NOW = datetime(2026, 11, 30, tzinfo=timezone.utc)
RULE = {"gate.metric": "recall@10", "gate.margin": 0.02, "gate.floor": None}
BASELINE = {"fingerprint": "e" * 64, "ann_index": 6, "hnsw.ef_search": 100}
PRESENT = Present("f" * 64, "v1", "h" * 64, 100, 7, 100, RULE, BASELINE)


def evidence(outcome: str = "pass", *, judged: int = 0, sampled: int = 0, documents: int = 100) -> Evidence:
    kept = PRESENT.judged | {"documents": {"judged": judged, "sampled": sampled}}
    return Evidence(1, "v2", "f" * 64, "v1", outcome, "", "h" * 64, documents, 100, 7, 100, kept, {}, NOW, NOW, False)


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
    said = staleness(evidence(outcome), replace(PRESENT, ef_search=ef_search), 0.05)
    assert said == (f"it was searched with hnsw.ef_search 100, and is with {ef_search} now" if stale else None)


@pytest.mark.parametrize(("changed", "said"), [
    ({"rule": RULE | {"gate.margin": 0.5}}, "its rule has changed: gate.margin was 0.02 and is 0.5 now"),
    ({"rule": RULE | {"gate.floor": 0.7}}, "its rule has changed: gate.floor was not set and is 0.7 now"),
    ({"rule": {**RULE, "gate.new": 1}}, "its rule has changed: gate.new was not set and is 1 now"),
    (
        {"baseline": BASELINE | {"hnsw.ef_search": 800}},
        "v1, which it compared with, is searched otherwise: hnsw.ef_search was 100 and is 800 now",
    ),
    ({"baseline": BASELINE | {"ann_index": 9}}, "v1, which it compared with, is searched otherwise: ann_index was 6 and is 9 now"),
])  # fmt: skip
def test_evidence_says_which_part_moved(changed: dict[str, Any], said: str) -> None:
    assert staleness(evidence(), PRESENT, 0.05) is None
    assert staleness(evidence(), replace(PRESENT, **changed), 0.05) == said


def texts(count: int, judged: int) -> Texts:
    hashes = {str(n): bytes([n]) for n in range(count)}
    return Texts({doc_id: hashes[doc_id] for doc_id in list(hashes)[:judged]}, hashes)


def moved(changed: int = 0, gone: int = 0, came: int = 0, allowed: float = 0.05) -> str | None:
    """Of 100 documents, the first ten judged, so many others changed, went or came."""
    about = texts(100, judged=10)
    now = dict(about.sampled) | {str(n): b"other" for n in range(20, 20 + changed)}
    for n in range(60, 60 + gone):
        del now[str(n)]
    return moved_texts(evidence(judged=10, sampled=100), about, now, 100 - gone + came, allowed)


@pytest.mark.parametrize(("changed", "gone", "came"), [(5, 0, 0), (0, 5, 0), (0, 0, 5), (2, 2, 1), (0, 0, 0)])
def test_a_share_of_the_documents_may_move(changed: int, gone: int, came: int) -> None:
    assert moved(changed, gone, came) is None


@pytest.mark.parametrize(("changed", "gone", "came"), [(6, 0, 0), (0, 6, 0), (0, 0, 6), (0, 3, 3), (2, 2, 2)])
def test_more_than_the_share_makes_the_evidence_stale(changed: int, gone: int, came: int) -> None:
    """Also where as many come as go: the count is the same, and the documents are not."""
    assert (
        moved(changed, gone, came)
        == "6.0% of the documents have changed, come or gone since, and gate.max_row_change allows 5.0%"
    )


def test_a_judged_document_is_exact() -> None:
    about = texts(100, judged=10)
    now = dict(about.sampled) | {"3": b"other"}
    del now["4"]
    said = moved_texts(evidence(judged=10, sampled=100), about, now, 99, 1.0)
    assert said == "2 of the 10 judged documents have another text since, or are gone: 3, 4"


def test_texts_that_were_removed_by_hand_are_missed() -> None:
    about = texts(100, judged=9)
    assert moved_texts(evidence(judged=10, sampled=100), about, about.sampled, 100, 1.0) is not None


def test_what_was_sampled_stands_for_all() -> None:
    """40 of a sample of 100 out of 1,000,000 went, and as many documents came."""
    about = texts(100, judged=0)
    now = {doc_id: digest for doc_id, digest in about.sampled.items() if int(doc_id) >= 40}
    said = moved_texts(evidence(sampled=100, documents=1_000_000), about, now, 1_000_000, 0.5)
    assert said is not None
    assert said.startswith("80.0% ")
