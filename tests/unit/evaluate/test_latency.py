"""How long searches took: from the times of a measurement to numbers and a table."""

from __future__ import annotations

from embed_pipeline.evaluate import latency
from embed_pipeline.evaluate.measured import Measured


def took(version: str, *milliseconds: float) -> latency.Latency:
    return latency.of(Measured(version, {}, {}, {}, tuple(milliseconds)))


def test_quantiles() -> None:
    found = took("v2", *range(101))
    assert found == latency.Latency("v2", 101, 50.0, 95.0, 99.0)
    assert latency.measures(found, None) == {"search_p50_ms": 50.0, "search_p95_ms": 95.0, "search_p99_ms": 99.0}
    both = latency.measures(found, took("v1", 3.0))
    assert (both["search_p99_ms"], both["search_p99_ms_baseline"]) == (99.0, 3.0)


def test_the_table() -> None:
    assert latency.markdown_table([took("v1", 1.0, 3.0), took("v2", 4.25)]).splitlines() == [
        "| search, ms | searches | p50 | p95 | p99 |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| v1 | 2 | 2.00 | 2.90 | 2.98 |",
        "| v2 | 1 | 4.25 | 4.25 | 4.25 |",
    ]
