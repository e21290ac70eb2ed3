"""Strict mode as a server of 1.19 keeps it: what it refuses, in its words, and what its rate limits count.

Written from the server's own code and tests (lib/collection/src/operations/verification, tests/openapi/test_strictmode.py) and from what a
real server answered. The filter of a conditional write is not checked: a real server does not check it either.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from qdrant_client import models

from tests.harness.qdrant.narrowed import conditions

# What Qdrant Cloud gives every new collection (its documentation, "Configure Qdrant Cloud Clusters").
CLOUD = {
    "enabled": True,
    "unindexed_filtering_retrieve": False,
    "unindexed_filtering_update": False,
    "max_payload_index_count": 100,
}

ANY = ("bool", "datetime", "float", "geo", "integer", "keyword", "text", "uuid")
UUID = re.compile(r"[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}")


class Refused(Exception):
    """An answer that is not 200. `message` is what the server puts into status.error."""

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.retry_after = status, message, retry_after


def refused(what: str, help: str) -> Refused:
    return Refused(400, f"Bad request: {what}. Help: {help}")


@dataclass
class Bucket:
    """So many tokens a minute, and as many at once: full at first."""

    per_minute: float
    minute: float
    tokens: float = field(init=False)
    at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.tokens = self.per_minute

    def take(self, wanted: float, kind: str) -> None:
        word = f"Rate limiting exceeded: {kind} rate limit exceeded"
        if wanted > self.per_minute:
            raise Refused(429, f"{word}: request larger than than rate limiter capacity, please try to split your request")
        now = time.monotonic()
        a_second = self.per_minute / self.minute
        self.tokens = min(self.per_minute, self.tokens + (now - self.at) * a_second)
        self.at = now
        if self.tokens >= wanted:
            self.tokens -= wanted
            return
        seconds = max(1, math.ceil((wanted - self.tokens) / a_second))
        if wanted <= 1:
            raise Refused(429, f"{word}, retry later", seconds)
        short = f"Operation requires {wanted:.0f} tokens but only {self.tokens:.0f} were available. Retry after {seconds}s"
        raise Refused(429, f"{word}: {short}", seconds)


@dataclass
class Rates:
    """The buckets of one collection, and what went through them."""

    minute: float = 60.0
    buckets: dict[str, Bucket] = field(default_factory=dict)
    spent: dict[str, float] = field(default_factory=lambda: {"Read": 0.0, "Write": 0.0})
    refusals: dict[str, int] = field(default_factory=lambda: {"Read": 0, "Write": 0})

    def take(self, kind: str, limit: int | None, wanted: float) -> None:
        if limit is not None:
            bucket = self.buckets.get(kind)
            if bucket is None or bucket.per_minute != limit:
                bucket = self.buckets[kind] = Bucket(limit, self.minute)
            try:
                bucket.take(wanted, kind)
            except Refused:
                self.refusals[kind] += 1
                raise
        self.spent[kind] += wanted

    def told(self) -> dict[str, Any]:
        return {"spent": self.spent, "refusals": self.refusals}


@dataclass(frozen=True)
class Strict:
    """The strict mode of one collection, as it is at the moment of a request."""

    config: Mapping[str, Any]
    indexes: Mapping[str, Any]
    rates: Rates

    def read(
        self,
        wanted: Any = None,
        *,
        limit: int | None = None,
        exact: bool | None = None,
        params: models.SearchParams | None = None,
        cost: int | None = None,
    ) -> None:
        """A reading request; `cost` where it is not one and its conditions."""
        self.at_most(limit, "max_query_limit", "limit")
        self.filter(wanted, "unindexed_filtering_retrieve")
        self.exact(exact)
        if params is not None:
            oversampling = None if params.quantization is None else params.quantization.oversampling
            self.at_most(oversampling, "search_max_oversampling", "oversampling")
            self.at_most(params.hnsw_ef, "search_max_hnsw_ef", "hnsw_ef")
            self.exact(params.exact)
        self.rates.take("Read", self.of("read_rate_limit"), 1 + sum(1 for _ in leaves(wanted)) if cost is None else cost)

    def write(self, wanted: Any = None, *, points: int = 1) -> None:
        """A writing request on so many points, by a filter where it has one."""
        self.filter(wanted, "unindexed_filtering_update")
        self.rates.take("Write", self.of("write_rate_limit"), max(1, points))

    def upsert(self, points: Any, word: str = "upsert limit") -> None:
        self.at_most(len(points), "upsert_max_batchsize", word)
        limits = self.of("multivector_config") or {}
        for point in points:
            named = point.vector if isinstance(point.vector, dict) else {"": point.vector}
            for name, rows in named.items():
                most = (limits.get(name) or {}).get("max_vectors")
                if most is not None and isinstance(rows, list) and rows and isinstance(rows[0], list) and len(rows) > most:
                    raise refused(f"Multivector '{name}' has a limit of {most} vectors, but {len(rows)} were provided!", "Less.")
        self.write(points=len(points))

    def create_index(self) -> None:
        most = self.of("max_payload_index_count")
        if most is not None and len(self.indexes) >= most:
            what = f"Collection already has the maximum number of payload indices ({most})"
            raise refused(what, "Please delete an existing index before creating a new one.")
        self.write()

    def of(self, name: str) -> Any:
        return self.config.get(name) if self.config.get("enabled") else None

    def at_most(self, value: float | None, setting: str, word: str) -> None:
        limit = self.of(setting)
        if limit is not None and value is not None and value > limit:
            raise refused(f'Limit exceeded {value} > {limit} for "{word}"', f'Reduce the "{word}" parameter to or below {limit}.')

    def exact(self, asked: bool | None) -> None:
        if asked and self.of("search_allow_exact") is False:
            raise refused("Exact search disabled!", "Set exact=false.")

    def filter(self, wanted: Any, setting: str) -> None:
        found = list(leaves(wanted))
        most = self.of("filter_max_conditions")
        if most is not None and len(found) > most:
            what = f"Filter condition limit reached ({len(found)} > {most})"
            raise refused(what, "Reduce the amount of conditions of your filter.")
        largest = max(map(size, found), default=0)
        most = self.of("condition_max_size")
        if most is not None and largest > most:
            raise refused(f"Condition size limit reached ({largest} > {most})", "Reduce the size of your condition.")
        if self.of(setting) is False:
            for leaf in found:
                self.indexed(leaf)

    def indexed(self, leaf: Any) -> None:
        key, kinds = needed(leaf)
        if kinds and not set(kinds) & self.able(key):
            named = ", ".join(sorted({each.split(":")[0] for each in kinds}))
            what = f'Index required but not found for "{key}" of one of the following types: [{named}]'
            raise refused(what, "Create an index for this key or use a different filter.")

    def able(self, key: str) -> set[str]:
        """What the index of a field serves. Only an integer one can be told to serve less."""
        found = self.indexes.get(key)
        if found is None:
            return set()
        kind = found["type"] if isinstance(found, dict) else found
        params = found if isinstance(found, dict) else {}
        served = {kind} if kind != "integer" else set()
        if kind == "integer":
            served |= {"integer:match"} if params.get("lookup", True) else set()
            served |= {"integer:range"} if params.get("range", True) else set()
        return served


def leaves(wanted: Any) -> Iterator[Any]:
    """Every condition of a filter that is no filter itself."""
    if wanted is None:
        return
    if not isinstance(wanted, models.Filter):
        yield wanted
        return
    for part in (wanted.must, wanted.should, wanted.must_not, wanted.min_should and wanted.min_should.conditions):
        for each in conditions(part):
            yield from leaves(each)


def size(leaf: Any) -> int:
    match leaf:
        case models.HasIdCondition(has_id=ids):
            return len(ids)
        case models.FieldCondition(match=models.MatchAny(any=values)):
            return len(values)
        case models.FieldCondition(match=models.MatchExcept(except_=values)):
            return len(values)
    return 0


def needed(leaf: Any) -> tuple[str, list[str]]:
    """The field of a condition, and the indexes of which one must be there: none where it needs none."""
    match leaf:
        case models.IsEmptyCondition(is_empty=found) | models.IsNullCondition(is_null=found):
            return found.key, [*ANY, "integer:match", "integer:range"]
        case models.FieldCondition(key=key, match=models.MatchValue(value=value)):
            return key, of_values([value])
        case models.FieldCondition(key=key, match=models.MatchAny(any=values)):
            return key, of_values(values)
        case models.FieldCondition(key=key, match=models.MatchExcept(except_=values)):
            return key, of_values(values)
        case models.FieldCondition(key=key, range=models.DatetimeRange()):
            return key, ["datetime"]
        case models.FieldCondition(key=key, range=models.Range()):
            return key, ["float", "integer:range"]
        case models.FieldCondition(key=key):
            return key, [*ANY, "integer:match", "integer:range"]
    return "", []


def of_values(values: Any) -> list[str]:
    if not values:
        return []
    if isinstance(values[0], bool):
        return ["bool"]
    if isinstance(values[0], int):
        return ["integer:match"]
    return ["keyword", *(["uuid"] if all(UUID.fullmatch(each) for each in values) else [])]
