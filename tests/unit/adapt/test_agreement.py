"""Agreement on held-out pairs: what it says of a perfect map, of no map, and of the old model itself."""

from __future__ import annotations

import numpy as np
import pytest

from embed_pipeline.adapt import agreement
from embed_pipeline.embedders import maps
from tests.unit.adapt.test_maps import cloud, isometry


def test_a_perfect_map_agrees_wholly_and_none_at_all_does_not() -> None:
    sources, turn = cloud(1, 400, 24), isometry(2, 24, 24)
    held_out = np.arange(400) >= 300
    fitted = maps.fit("procrustes", sources[:300], (sources @ turn)[:300])
    found = agreement.measure(fitted, sources, sources @ turn, held_out)
    assert (found.neighbours, found.keep_old, found.itself) == (1.0, 1.0, 1.0)
    assert found.cosine == pytest.approx(1.0, abs=1e-5)
    other = maps.Map("procrustes", isometry(9, 24, 24))
    assert agreement.measure(other, sources, sources @ turn, held_out).neighbours < 0.3
    assert agreement.cosines(fitted, sources, sources @ turn).min() > 0.999


def test_only_held_out_pairs_ask() -> None:
    """A map that fits its own pairs and nothing else is no good, and must not look so."""
    sources, targets = cloud(1, 120, 64), cloud(2, 120, 64)
    held_out = np.arange(120) >= 60
    fitted = maps.fit("procrustes", sources[:60], targets[:60])
    assert agreement.measure(fitted, sources, targets, ~held_out).itself > 0.9
    assert agreement.measure(fitted, sources, targets, held_out).itself < 0.2
