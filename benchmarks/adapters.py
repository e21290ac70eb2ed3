"""A bridge's map: the whole of it for one query, against reading its weights once in the same run.

    python -m benchmarks.adapters [--dimensions 384 768 1024 1536 3072] [--calls 400] [--rounds 5] [--full]

The whole is `Map.apply`: product, bias, length. The floor is the fastest of four passes over the same bytes (a dot product, a sum of absolute
values, a length, a maximum): no product of a query with a square matrix can be faster than reading the matrix. Warm: one call after another. Cold:
with CACHE bytes read in between, as a search server does between two queries. One thread.
"""

from __future__ import annotations

import os

# Read by the linear algebra when it is loaded.
for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import time  # noqa: E402
from collections.abc import Callable  # noqa: E402

import numpy as np  # noqa: E402
from scipy.linalg import blas  # noqa: E402

from benchmarks import stage, table  # noqa: E402
from embed_pipeline.embedders.maps import Map  # noqa: E402

CACHE = 48 * 2**20
# Calls that are timed cold: each waits for the cache to be filled with something else.
COLD_SHARE = 10


def main() -> None:
    wanted = stage.options(
        __doc__,
        dimensions=((384, 768, 1024, 1536, 3072), (384, 768, 1024, 1536, 3072)),
        calls=(400, 4_000),
        rounds=(5, 15),
    )
    table.heading(
        f"The map of a bridge, one query, one thread; {wanted.rounds} rounds of {wanted.calls} calls, the fastest call of each round"
    )
    columns = ["d", "MB", "", "floor us", "product us", "whole us", "product / floor", "whole / floor"]
    rows = []
    for dimensions in wanted.dimensions:
        for words, cold in (("warm", False), ("cold", True)):
            calls = max(20, wanted.calls // COLD_SHARE) if cold else wanted.calls
            measured = [_round(dimensions, calls, cold) for _ in range(wanted.rounds)]
            floors, products, wholes = (list(each) for each in zip(*measured, strict=True))
            rows.append(
                [
                    str(dimensions),
                    f"{4 * dimensions**2 / 1e6:.2f}",
                    words,
                    *(table.spread([1e6 * value for value in values]) for values in (floors, products, wholes)),
                    table.spread(table.ratios(products, floors)),
                    table.spread(table.ratios(wholes, floors)),
                ]
            )
    table.write(columns, rows)


def _round(dimensions: int, calls: int, cold: bool) -> tuple[float, float, float]:
    """Seconds of the fastest call: (floor, product, whole)."""
    random = np.random.default_rng(0)
    weights = random.standard_normal((dimensions, dimensions)).astype(np.float32)
    bias, query = (random.standard_normal(dimensions).astype(np.float32) for _ in range(2))
    fitted = Map("procrustes_centred", weights, bias)
    flat, other = weights.ravel(), np.ones(CACHE // 4, dtype=np.float32) if cold else None
    passes: list[Callable[[], object]] = [
        lambda: blas.sdot(flat, flat),
        lambda: blas.sasum(flat),
        lambda: blas.snrm2(flat),
        lambda: flat.max(),
    ]
    floor = min(_fastest(each, calls, other) for each in passes)
    return floor, _fastest(lambda: query @ weights, calls, other), _fastest(lambda: fitted.apply(query), calls, other)


def _fastest(work: Callable[[], object], calls: int, other: np.ndarray | None) -> float:
    best = float("inf")
    for _ in range(calls):
        if other is not None:
            other.sum()
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best


if __name__ == "__main__":
    main()
