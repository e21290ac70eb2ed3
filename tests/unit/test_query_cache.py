"""The cache of query vectors: the one asked longest ago goes, and no thread meets another space."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from embed_pipeline.query_cache import QueryCache


def test_the_one_asked_longest_ago_goes() -> None:
    cache = QueryCache(2)
    vector = np.ones(4, dtype=np.float32)
    for text in ("a", "b"):
        cache.put("f", text, vector)
    assert cache.get("f", "a") is not None
    cache.put("f", "c", vector)
    assert [cache.get("f", text) is not None for text in ("a", "b", "c")] == [True, False, True]
    assert cache.get("g", "a") is None


def test_many_threads_never_meet_another_space() -> None:
    cache = QueryCache(8)

    def ask(number: int) -> bool:
        fingerprint, text = f"f{number % 3}", f"t{number % 7}"
        expected = hash((fingerprint, text)) % 1000
        found = cache.get(fingerprint, text)
        if found is None:
            cache.put(fingerprint, text, np.full(2, expected, dtype=np.float32))
            return True
        return bool((found == expected).all())

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(5_000)))
    assert len(cache) == 8
