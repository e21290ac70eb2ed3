"""What pairs cannot carry a map: each in one sentence, with the next command to type."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from embed_pipeline.adapt.pairs import Pairs
from embed_pipeline.catalog.versions import Version
from embed_pipeline.embedders.protocol import Vectors
from embed_pipeline.errors import AdapterRefused
from embed_pipeline.migrate import fit

ENOUGH, DIMENSIONS = fit.LEAST_PAIRS, 8
GOOD: Vectors = np.random.default_rng(0).standard_normal((ENOUGH, DIMENSIONS)).astype(np.float32)


def version(name: str) -> Version:
    return Version(
        index="docs",
        name=name,
        state="ready",
        state_since=datetime(2026, 1, 1, tzinfo=UTC),
        fingerprint="0" * 64,
        model_name="a model",
        model_version="",
        dimensions=DIMENSIONS,
        precision="single",
        distance="cosine",
        partitions=1,
        spec={},
        settings={},
        dropped_at=None,
    )


def pairs(sources: Vectors = GOOD, targets: Vectors = GOOD, same_text: int = ENOUGH) -> Pairs:
    return Pairs(sources, targets, np.arange(len(sources)), compared=ENOUGH, same_text=same_text, sha256="")


def changed(value: float) -> Vectors:
    vectors = GOOD.copy()
    vectors[7] = value
    return vectors


REFUSED = {
    "one too few": (pairs(GOOD[1:], GOOD[1:], ENOUGH - 1), "too_few_pairs"),
    "none": (pairs(GOOD[:0], GOOD[:0], 0), "too_few_pairs"),
    "other passages": (pairs(GOOD[1:], GOOD[1:]), "passages_differ"),
    "a zero of the new model": (pairs(sources=changed(0.0)), "degenerate_pairs"),
    "no number of the old one": (pairs(targets=changed(np.nan)), "degenerate_pairs"),
    "one vector for all": (pairs(sources=np.repeat(GOOD[:1], ENOUGH, axis=0)), "degenerate_pairs"),
    "opposite directions": (pairs(targets=np.where(np.arange(ENOUGH)[:, None] % 2, GOOD[0], -GOOD[0])), "degenerate_pairs"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_pairs_that_carry_no_map(case: str) -> None:
    found, reason = REFUSED[case]
    with pytest.raises(AdapterRefused) as problem:
        fit.require_pairs(found, version("v2"), version("v1"))
    text = problem.value.message
    assert problem.value.fields["reason"] == reason
    assert "v2" in text or "v1" in text
    assert text.endswith(".")
    assert ". " not in text, "one sentence"
    assert "embed-pipeline " in str(problem.value.next_step) or reason == "passages_differ"


def test_pairs_that_carry_one() -> None:
    fit.require_pairs(pairs(), version("v2"), version("v1"))
    # Fewer pairs than that can be of the same passage where some are not.
    fit.require_pairs(replace(pairs(), same_text=2 * ENOUGH), version("v2"), version("v1"))
