"""Quantiles of many numbers, kept in little room and added up over processes: counts by buckets of one relative width.

DDSketch (Masson, Rim, Lee, VLDB 2019, 12:2195) with buckets that are fixed once and for all, so that any two of them can be added, by SQL too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping

# A quantile is wrong by at most 1 % of itself.
_WIDTH = 1.02
# What is smaller is zero. The last bucket, 999, begins at 380,000.
_LEAST = 1e-3
_LAST = 999

Sketch = Mapping[int, int]
"""Bucket -> how many. A negative number is in the bucket of its amount, with the sign."""


def bucket(value: float) -> int:
    """Where a number is counted."""
    amount = abs(value)
    if not amount >= _LEAST:  # NaN too
        return 0
    number = _LAST if math.isinf(amount) else min(_LAST, 1 + round(math.log(amount / _LEAST, _WIDTH)))
    return number if value > 0 else -number


def sketch(values: Iterable[float]) -> Counter[int]:
    """The numbers as counts."""
    return Counter(map(bucket, values))


def quantile(counts: Sketch, share: float) -> float | None:
    """The number below which `share` of all are; None where there are none."""
    total, seen = sum(counts.values()), 0
    for number in sorted(counts):
        seen += counts[number]
        if seen >= share * total:
            return _value(number)
    return None


def _value(number: int) -> float:
    return 0.0 if number == 0 else math.copysign(_LEAST * _WIDTH ** (abs(number) - 1), number)
