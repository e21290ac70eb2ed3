"""The judge of limits: what the loopback provider lets in, and what it says of a minute afterwards, against a plain count."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.harness.providers.bill import MINUTE, Bill, Limit
from tests.harness.providers.loopback import most_in_a_minute

ARRIVALS = st.lists(st.tuples(st.floats(0, 40), st.integers(1, 60)), min_size=1, max_size=40)


@settings(max_examples=150, deadline=None)
@given(gaps=ARRIVALS, requests=st.integers(1, 5), tokens=st.integers(30, 120))
def test_what_is_let_in_fits_into_every_minute_and_what_waits_as_told_is_let_in(
    gaps: list[tuple[float, int]], requests: int, tokens: int
) -> None:
    bill, now = Bill(limits={"openai": Limit(requests, tokens)}), 1_000.0
    let_in: list[tuple[float, int]] = []
    for gap, asked in gaps:
        now += gap
        _, standing = bill.arrive("openai", "m", "key", 1, asked, now)
        if standing.wait and asked <= tokens:
            now += standing.wait + 1e-6
            _, standing = bill.arrive("openai", "m", "key", 1, asked, now)
            assert standing.wait == 0, "it waited for as long as it was told"
        if standing.wait == 0:
            let_in.append((now, asked))
    for end, _ in let_in:
        within = [count for at, count in let_in if end - MINUTE < at <= end]
        assert len(within) <= requests
        assert sum(within) <= tokens


@settings(max_examples=150, deadline=None)
@given(gaps=ARRIVALS)
def test_the_fullest_minute_is_found(gaps: list[tuple[float, int]]) -> None:
    now, arrivals = 1_000.0, []
    for gap, tokens in gaps:
        now += gap
        arrivals.append({"at": now, "tokens": tokens})
    minutes = [[each for each in arrivals if end["at"] - MINUTE < each["at"] <= end["at"]] for end in arrivals]
    expected = max(map(len, minutes)), max(sum(each["tokens"] for each in minute) for minute in minutes)
    assert most_in_a_minute(arrivals) == expected


def test_a_request_larger_than_the_limit_is_never_let_in() -> None:
    bill = Bill(limits={"openai": Limit(None, 10)})
    assert bill.arrive("openai", "m", "key", 1, 11, 1_000.0)[1].exceeded == "tokens"


def test_each_key_and_each_provider_has_a_minute_of_its_own() -> None:
    bill = Bill(limits={"openai": Limit(1), "voyage": Limit(1), "openai/rich": Limit(2)})
    waits = [
        bill.arrive(name, "m", key, 1, 1, 1_000.0)[1].wait for name, key in [("openai", "a"), ("openai", "b"), ("voyage", "a")]
    ]
    assert waits == [0, 0, 0]
    assert bill.arrive("openai", "m", "a", 1, 1, 1_001.0)[1].wait == 59
    assert [bill.arrive("openai", "m", "rich", 1, 1, 1_001.0)[1].wait for _ in range(2)] == [0, 0]
