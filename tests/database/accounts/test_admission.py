"""The admission to a provider's account, by a clock that the tests set."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embed_pipeline import signals
from embed_pipeline.accounts import terms
from embed_pipeline.accounts.meter import DatabaseMeter, RateLimiter
from embed_pipeline.accounts.terms import Terms
from embed_pipeline.catalog import schema
from embed_pipeline.embedders.metering import Headroom, Spent
from embed_pipeline.embedders.protocol import Urgency
from embed_pipeline.errors import ConfigurationError, Stopped
from embed_pipeline.postgres import connection
from embed_pipeline.spec import AccountSpec, BudgetSpec, PriceSpec, VersionSpec
from tests.conftest import database, template

BEGIN = 1_000_000.0
VERSION = VersionSpec.model_validate({"provider": "openai", "model_name": "m", "dimensions": 8})
ADMIT = terms.queries("admit")


class Account:
    """One account of its own, asked as any process would ask it, at a time that the test says."""

    def __init__(self, conn: psycopg.Connection[Any], name: str, requests: int | None = None, tokens: int | None = None) -> None:
        self._conn = conn
        self.fixed = {"account": name, "index": "docs", "version": name, "max_requests": requests, "max_tokens": tokens}

    def ask(
        self, at: float, urgency: Urgency = Urgency.BACKFILL, tokens: int = 1, who: str = "a", **more: Any
    ) -> tuple[str, float, str]:
        values = {
            "kind": terms.KINDS[urgency],
            "urgency": int(urgency),
            "tokens": tokens,
            "who": who,
            "now": at,
            "usd_per_million": None,
            "budget": None,
        }
        row = self._conn.execute(ADMIT, self.fixed | values | more).fetchone()
        assert row is not None
        return row[0], row[1], row[3]

    def settle(self, at: float, estimated: int, billed: int | None, **more: Any) -> None:
        values = dict.fromkeys(("usd_per_million", "learned_requests", "learned_tokens", "block_seconds"))
        values |= {"kind": "backfill", "slot": int(at), "estimated": estimated, "billed": billed, "too_fast": False, "now": at}
        self._conn.execute(terms.queries("settle"), self.fixed | values | more)

    def work(self, begin: float, seconds: float, urgency: Urgency = Urgency.BACKFILL, tokens: int = 1) -> list[tuple[float, int]]:
        """Ask again and again, as soon as the answer allows, for so long; (time, tokens) of what was admitted."""
        at, sent = begin, []
        while at < begin + seconds:
            verdict, wait, _ = self.ask(at, urgency, tokens)
            if verdict == "go":
                sent.append((at, tokens))
            at += wait
        return sent


@pytest.fixture(scope="module")
def url(server_url: Any, postgres_admin: Any) -> Iterator[str]:
    """One database for all tests of this file: each has an account of its own."""
    with database(server_url, postgres_admin, template()) as made:
        with connection.connect(made, autocommit=True) as conn:
            schema.ensure(conn, made)
        yield made


@pytest.fixture(scope="module")
def shared(url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(url, autocommit=True) as conn:
        yield conn


@pytest.fixture
def account(shared: psycopg.Connection[Any], request: pytest.FixtureRequest) -> Callable[..., Account]:
    return lambda requests=None, tokens=None: Account(shared, request.node.name, requests, tokens)


def most_in_a_minute(sent: list[tuple[float, int]]) -> tuple[int, int]:
    """(requests, tokens) of the fullest minute, each request arriving as late as it may: just within a second."""
    most = (0, 0)
    for begin, _ in sent:
        # A minute that begins with an arrival at `begin` + 1 holds what was admitted from `begin` on, and what comes at once.
        inside = [tokens for at, tokens in sent if begin <= at < begin + 61]
        most = (max(most[0], len(inside)), max(most[1], sum(inside)))
    return most


def test_a_backfill_uses_its_minute_evenly_and_never_more(account: Callable[..., Account]) -> None:
    sent = account(requests=120).work(BEGIN, 200)
    assert most_in_a_minute(sent)[0] <= 120
    last = [at for at, _ in sent if 70 <= at - BEGIN < 190]
    assert len(last) > 0.95 * 240
    # Evenly: what is urgent finds room in every second.
    assert max(b - a for a, b in itertools.pairwise(last)) < 2.5


def test_tokens_are_held_too_and_a_text_larger_than_a_minute_is_not_stuck(account: Callable[..., Account]) -> None:
    busy = account(tokens=10_000)
    sent = busy.work(BEGIN, 200, tokens=500)
    assert most_in_a_minute(sent)[1] <= 10_000
    assert sum(tokens for at, tokens in sent if 70 <= at - BEGIN < 190) > 0.95 * 20_000
    assert busy.ask(BEGIN + 200, tokens=20_000)[0] == "wait"
    assert busy.ask(BEGIN + 300, tokens=20_000)[0] == "go"


def test_a_query_does_not_wait_for_the_pace_of_a_backfill(account: Callable[..., Account]) -> None:
    busy = account(tokens=600_000)
    busy.work(BEGIN, 100, tokens=5_000)
    assert busy.ask(BEGIN + 100, Urgency.BACKFILL, 5_000)[0] == "wait"
    assert busy.ask(BEGIN + 100, Urgency.QUERY, 20)[0] == "go"


def test_who_is_more_urgent_gets_the_next_place_even_of_another_process(account: Callable[..., Account]) -> None:
    full = account(requests=3)
    for _ in range(3):
        assert full.ask(BEGIN, Urgency.QUERY)[0] == "go"
    assert full.ask(BEGIN + 60, Urgency.SERVING, who="a")[0] == "wait"
    # The minute is free, and the active version was there first.
    assert full.ask(BEGIN + 62.5, Urgency.BACKFILL, who="b")[2] == "more urgent work goes first"
    assert full.ask(BEGIN + 62.5, Urgency.SERVING, who="a")[0] == "go"
    assert full.ask(BEGIN + 85, Urgency.BACKFILL, who="b")[0] == "go"


def test_who_died_while_it_waited_is_forgotten(account: Callable[..., Account]) -> None:
    full = account(requests=2)
    for _ in range(2):
        full.ask(BEGIN, Urgency.QUERY)
    assert full.ask(BEGIN + 60, Urgency.QUERY, who="killed")[0] == "wait"
    assert full.ask(BEGIN + 62, who="b")[0] == "wait"
    assert full.ask(BEGIN + 68, who="b")[0] == "go"


def test_what_a_provider_asks_for_holds_for_everybody(account: Callable[..., Account]) -> None:
    one = account()
    assert one.ask(BEGIN)[0] == "go"
    one.settle(BEGIN + 1, 1, None, block_seconds=20)
    verdict, wait, reason = one.ask(BEGIN + 2, Urgency.QUERY, who="b")
    assert (verdict, reason) == ("wait", "the provider asked to wait")
    assert 0 < wait <= 5
    assert one.ask(BEGIN + 21.1, Urgency.QUERY, who="b")[0] == "go"


def test_limits_that_the_provider_names_count_when_they_are_lower(account: Callable[..., Account]) -> None:
    one = account(requests=1_000)
    one.ask(BEGIN)
    one.settle(BEGIN, 1, 1, learned_requests=30, learned_tokens=1_000)
    assert most_in_a_minute(one.work(BEGIN + 1, 100))[0] <= 30


def test_too_fast_without_a_word_about_limits_halves_and_grows_again(account: Callable[..., Account]) -> None:
    one = account()
    for n in range(100):
        one.ask(BEGIN + n / 2)
    one.settle(BEGIN + 50, 1, None, too_fast=True)
    # The others that were under way say the same thing: it counts once.
    one.settle(BEGIN + 51, 1, None, too_fast=True)
    after = one.work(BEGIN + 140, 60)
    assert 50 <= len(after) <= 75
    assert len(one.work(BEGIN + 340, 60)) > len(after)


def test_too_fast_at_the_first_request_does_not_hold_the_work_to_one_a_minute(account: Callable[..., Account]) -> None:
    """Half of a minute in which the work had just begun is nothing: the provider was never seen to allow so little."""
    one = account()
    one.ask(BEGIN)
    one.settle(BEGIN, 1, None, too_fast=True, block_seconds=2)
    assert one.ask(BEGIN + 1)[2] == "the provider asked to wait"
    at_once, later = one.work(BEGIN + 2, 20), one.work(BEGIN + 82, 20)
    assert 4 <= len(at_once) <= 10
    assert len(later) > 50, "it doubles every twenty seconds"
    assert one.ask(BEGIN + 30 * 86_400)[0] == "go", "no number is too large"


def test_tokens_that_were_estimated_too_high_are_given_back(account: Callable[..., Account]) -> None:
    one = account(tokens=1_000)
    assert one.ask(BEGIN, Urgency.QUERY, 900)[0] == "go"
    assert one.ask(BEGIN + 1, Urgency.QUERY, 200)[0] == "wait"
    one.settle(BEGIN, 900, 100)
    assert one.ask(BEGIN + 1, Urgency.QUERY, 200)[0] == "go"


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    asked=st.lists(
        st.tuples(st.floats(0, 20), st.sampled_from(list(Urgency)), st.integers(1, 400), st.sampled_from("abc")), max_size=60
    ),
    limits=st.tuples(st.integers(1, 20), st.integers(400, 3_000)),
    number=st.uuids(),
)
def test_no_pattern_of_arrivals_gets_more_than_a_minute(
    shared: psycopg.Connection[Any],
    asked: list[tuple[float, Urgency, int, str]],
    limits: tuple[int, int],
    number: object,
) -> None:
    one, at, sent = Account(shared, str(number), *limits), BEGIN, []
    for pause, urgency, tokens, who in asked:
        at += pause
        if one.ask(at, urgency, tokens, who)[0] == "go":
            sent.append((at, tokens))
    requests, used = most_in_a_minute(sent)
    assert requests <= limits[0]
    assert used <= limits[1]


def meter_of(url: str, name: str, prices: dict[str, PriceSpec] | None = None, budget: BudgetSpec | None = None) -> DatabaseMeter:
    meter = RateLimiter(url).meter("docs", name, VERSION, Terms({}, prices or {}, budget))
    assert meter is not None
    return meter


def test_what_is_under_way_counts_as_spent_and_is_corrected(url: str, shared: psycopg.Connection[Any]) -> None:
    meter = meter_of(url, "paid", prices={"m": PriceSpec(usd_per_million_tokens=10, batch_usd_per_million_tokens=5)})
    first, second = meter.admit(Urgency.BACKFILL, 1_000), meter.admit(Urgency.QUERY, 100)
    batch = meter.admit_batch(2_000)
    # As a process that is killed now leaves it.
    found = terms.spending(shared, "docs")["paid"]
    assert found == {"backfill": Spent(1, 1_000, 0.01), "query": Spent(1, 100, 0.001), "batch": Spent(1, 2_000, 0.01)}
    meter.answered(first, 600, Headroom())
    meter.failed(second)
    meter.answered(batch, 1_000)
    found = terms.spending(shared, "docs")["paid"]
    assert found == {"backfill": Spent(1, 600, 0.006), "query": Spent(0, 0, 0.0), "batch": Spent(1, 1_000, 0.005)}
    assert terms.total(found) == meter.spent() == Spent(2, 1_600, pytest.approx(0.011))
    assert meter.spent("backfill") == Spent(1, 600, 0.006)


def test_a_budget_is_never_exceeded_and_what_serves_goes_on(url: str, shared: psycopg.Connection[Any]) -> None:
    terms = ({"m": PriceSpec(usd_per_million_tokens=1)}, BudgetSpec(usd_per_version=1))
    one, other = meter_of(url, "frugal", *terms), meter_of(url, "frugal", *terms)
    one.admit(Urgency.BACKFILL, 600_000)
    with pytest.raises(Stopped, match=r"docs\.frugal is used up: 0\.6000 of 1 USD .*Raise budget"):
        other.admit(Urgency.BACKFILL, 500_000)
    with pytest.raises(Stopped):
        other.admit(Urgency.LIVE, 500_000)
    with pytest.raises(Stopped):
        other.admit_batch(500_000)
    other.admit(Urgency.QUERY, 500_000)
    shared.execute("INSERT INTO embed_pipeline.indexes VALUES ('docs', 'articles', '{id}', '{body}', '{\"kind\": \"pgvector\"}')")
    shared.execute(
        "INSERT INTO embed_pipeline.index_versions (index_name, version, state, fingerprint, model_name, model_version, dimensions, "
        "precision, distance, partitions, spec, settings) "
        "VALUES ('docs', 'frugal', 'standby', repeat('f', 64), 'm', '1', 8, 'vector', 'cosine', 1, '{}', '{}')"
    )
    other.admit(Urgency.LIVE, 500_000)


def test_a_budget_without_a_price_is_refused(url: str) -> None:
    meter = meter_of(url, "priceless", budget=BudgetSpec(usd_per_version=1))
    with pytest.raises(ConfigurationError, match="price of m is not known"):
        meter.admit(Urgency.BACKFILL, 1)
    meter.admit(Urgency.QUERY, 1)
    assert meter.spent().usd is None


def test_a_query_overtakes_the_backfill_that_waits_in_its_own_process(url: str) -> None:
    """The one who sleeps as the first of its line is woken by who is more urgent, long before its time."""
    limiter = RateLimiter(url, lambda: BEGIN)
    terms = Terms({"line": AccountSpec(tokens_per_minute=600_000)}, {}, None)
    meter = limiter.meter("docs", "line", VERSION.model_copy(update={"account": "line"}), terms)
    assert meter is not None
    meter.admit(Urgency.BACKFILL, 100_000)
    waits = threading.Event()
    signals.listen("meter.waiting", waits.set)
    stopped: list[bool] = []

    def wait_for_ever() -> None:
        with pytest.raises(Stopped):
            meter.admit(Urgency.BACKFILL, 100_000)
        stopped.append(True)

    backfill = threading.Thread(target=wait_for_ever)
    backfill.start()
    assert waits.wait(10)
    assert meter.waiting.endswith("tokens a minute")
    assert meter.admit(Urgency.QUERY, 10).tokens == 10
    limiter.close()
    backfill.join(10)
    assert stopped == [True]


def test_a_cut_connection_costs_a_correction_at_most_and_nothing_fails(url: str, shared: psycopg.Connection[Any]) -> None:
    meter = meter_of(url, "cut", prices={"m": PriceSpec(usd_per_million_tokens=1)})
    cut = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'embed-pipeline meter' AND datname = %s"
    first, second = meter.admit(Urgency.BACKFILL, 100), meter.admit(Urgency.BACKFILL, 100)
    assert shared.execute(cut, (shared.info.dbname,)).fetchall()
    meter.answered(first, 10)
    meter.answered(second, 10)
    assert terms.spending(shared, "docs")["cut"]["backfill"].tokens == 110
    assert shared.execute(cut, (shared.info.dbname,)).fetchall()
    meter.answered(meter.admit(Urgency.BACKFILL, 100), 10)
    assert terms.spending(shared, "docs")["cut"]["backfill"].tokens == 120


def test_two_processes_never_both_get_the_last_place(
    account: Callable[..., Account], url: str, shared: psycopg.Connection[Any]
) -> None:
    one, answers = account(requests=1), []
    # The account is known: two who make its row at the same time take turns anyway.
    one.ask(BEGIN - 100)
    with psycopg.connect(url, autocommit=True) as second, ThreadPoolExecutor(1) as pool:
        other = Account(second, one.fixed["account"], requests=1)
        with shared.transaction():
            answers.append(one.ask(BEGIN, Urgency.QUERY)[0])
            asking = pool.submit(other.ask, BEGIN, Urgency.QUERY, who="b")
            while not shared.execute("SELECT cardinality(pg_blocking_pids(%s)) > 0", (second.info.backend_pid,)).fetchone()[0]:  # type: ignore[index]
                assert not asking.done(), "the second did not wait for the first"
        answers.append(asking.result()[0])
    assert answers == ["go", "wait"]


@pytest.mark.parametrize("back", [0.0, 1.5, 40.0, 3_600.0, 30 * 86_400.0])
def test_a_clock_that_is_set_back_holds_nobody_and_gives_nothing_away(account: Callable[..., Account], back: float) -> None:
    """`at` is the time that really passes. What was waited for is waited for once; what was asked for still counts in its minute."""
    one = account(requests=60)
    sent = [(float(at), 1) for at in range(30) if one.ask(BEGIN + at, Urgency.QUERY)[0] == "go"]
    assert one.ask(BEGIN + 29.2, Urgency.QUERY, who="killed", tokens=1)[0] == "go"
    sent.append((29.2, 1))
    assert one.ask(BEGIN + 29.5, who="b")[::2] == ("wait", "60 requests a minute")
    one.settle(BEGIN + 29.6, 1, None, block_seconds=10.0)
    at, blocked = 30.0, 0.0
    while at < 150:
        verdict, seconds, reason = one.ask(BEGIN + at - back, Urgency.QUERY)
        if verdict == "go":
            sent.append((at, 1))
        elif reason == "the provider asked to wait":
            blocked = at + seconds
        at += max(seconds, 0.25)
    assert 39.5 < blocked < 41, "ten seconds, and what passed between the last answer before the step and the first after it"
    assert most_in_a_minute(sent)[0] <= 60
    assert len([None for when, _ in sent if when > 90]) >= 56


def test_who_waited_before_the_clock_was_set_back_does_not_hold_the_others(account: Callable[..., Account]) -> None:
    one = account(requests=6)
    for _ in range(6):
        one.ask(BEGIN, Urgency.QUERY)
    assert one.ask(BEGIN + 1, Urgency.QUERY, who="killed")[0] == "wait"
    at, reasons = BEGIN + 2 - 3_600, set()
    while (answer := one.ask(at, who="b"))[0] == "wait":
        reasons.add(answer[2])
        at += answer[1]
    assert "more urgent work goes first" in reasons
    assert at < BEGIN + 75 - 3_600
