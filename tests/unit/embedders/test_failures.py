"""Which failure a status and a provider's words stand for. The words are those that the providers and servers send."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest

from embed_pipeline.embedders import failures
from embed_pipeline.embedders.headers import headroom, seconds_to_wait
from embed_pipeline.embedders.keys import Key
from embed_pipeline.embedders.metering import Headroom

KEY = Key("OPENAI_API_KEY", "sk-proj-abcdefgh0123456789")


@pytest.mark.parametrize(
    ("status", "words", "expected"),
    [
        (400, "Your request was rejected as a result of our safety system.", failures.Refused),
        (422, "unprocessable entity", failures.Refused),
        (400, "Model x is not supported.", failures.Refused),
        (401, "Incorrect API key provided.", failures.Systemic),
        (402, "Please add or update your payment method to continue.", failures.Systemic),
        (403, "Country, region, or territory not supported", failures.Systemic),
        (404, "The model `x` does not exist or you do not have access to it.", failures.Systemic),
        (405, "method not allowed", failures.Systemic),
        (501, "not implemented", failures.Systemic),
        (408, "timeout", failures.Transient),
        (424, "Backend error: the model failed", failures.Transient),
        (409, "conflict", failures.Transient),
        (500, "internal server error", failures.Transient),
        (503, "The engine is currently overloaded, please try again later", failures.Transient),
        (529, "overloaded", failures.Transient),
        (429, "Rate limit reached for requests", failures.RateLimited),
        (429, "Model is overloaded", failures.RateLimited),
        # Google words a limit of a minute as a quota, and does not give it OpenAI's code for one.
        (429, "You exceeded your current quota, please check your plan. Please retry in 35.2s.", failures.RateLimited),
        (429, "You are using a Trial key, which is limited to 1000 API calls / month.", failures.Systemic),
        (413, "request entity too large", failures.TooMuch),
        (400, "Requested 319487 tokens, max 300000 tokens per request", failures.TooMuch),
        (400, "Too many tokens in batch. Max is 16384 got 17555", failures.TooMuch),
        (413, "batch size 33 > maximum allowed batch size 32", failures.TooMuch),
        (
            400,
            "Request to model 'voyage-3.5' failed. The max allowed tokens per submitted batch is 120000. Your batch has 130000 tokens.",
            failures.TooMuch,
        ),
    ],
)  # fmt: skip
def test_the_kind_of_a_failure(status: int, words: str, expected: type[failures.Failure]) -> None:
    failure = failures.of_status(status, words, KEY)
    assert type(failure) is expected
    assert failure.words == words


@pytest.mark.parametrize(
    ("status", "words", "count", "limit"),
    [
        (
            400,
            "This model's maximum context length is 8192 tokens, however you requested 10001 tokens (10001 in your prompt; 0 for the "
            "completion). Please reduce your prompt; or completion length.",
            10_001,
            8_192,
        ),
        (400, "Invalid 'input[0]': maximum input length is 8192 tokens.", None, 8_192),
        (
            400,
            "too many tokens: total number of tokens in the input cannot exceed 512 - received 600. Try using a shorter input.",
            600,
            512,
        ),
        (
            400,
            "The example at index 1 in your batch has too many tokens and does not fit into the model's context window of 32000 tokens.",
            None,
            32_000,
        ),
        (413, "Input validation error: `inputs` must have less than 512 tokens. Given: 534", 534, 512),
        (400, "the input length exceeds the context length", None, None),
        (
            500,
            "input (992 tokens) is too large to process. increase the physical batch size (current batch size: 512)",
            992,
            512,
        ),
    ],
)
def test_a_text_that_is_too_long_with_both_numbers_where_they_are_said(
    status: int, words: str, count: int | None, limit: int | None
) -> None:
    failure = failures.of_status(status, words, KEY)
    assert isinstance(failure, failures.TooLong)
    assert (failure.count, failure.limit) == (count, limit)


def test_no_money_is_no_rate_limit() -> None:
    words = "You exceeded your current quota, please check your plan and billing details."
    failure = failures.of_status(429, words, KEY, code="insufficient_quota")
    assert isinstance(failure, failures.Systemic)
    assert "Top up the account of the key in OPENAI_API_KEY" in failure.next_step


@pytest.mark.parametrize(
    "words", ["Incorrect key: sk-proj-abcdefgh0123456789.", "Incorrect key: sk-p************6789.", "Incorrect key: ********"]
)
def test_the_key_is_taken_out_of_the_words(words: str) -> None:
    assert failures.of_status(401, words, KEY).words == "Incorrect key: ***."[: len("Incorrect key: ***") + words.count(".")]
    assert failures.of_silence(words, KEY).words.startswith("Incorrect key: ***")


def test_a_page_of_a_proxy_is_not_shown_whole() -> None:
    failure = failures.of_status(502, "<html>\n" + "x" * 10_000, KEY)
    assert len(failure.words) == 500
    assert failures.of_status(502, "", KEY).words == "status 502, and no word with it"


@pytest.mark.parametrize(
    ("headers", "words", "seconds"),
    [
        ({"retry-after": "7"}, "", 7),
        ({"retry-after-ms": "1500", "retry-after": "2"}, "", 1.5),
        ({}, "Please try again in 1m2.5s.", 62.5),
        ({}, "Please retry in 35.2s.", 35.2),
        ({}, "have exceeded call rate limit. Please retry after 1 second.", 1),
        ({"retry-after": "0"}, "", 0),
        ({"retry-after": "soon"}, "", None),
        ({"retry-after": "inf"}, "", None),
        ({"retry-after": "-1"}, "", None),
        # By the clock of who names the date: ours may be another.
        (
            {"retry-after": "Wed, 21 Oct 2015 07:28:09 GMT", "date": "Wed, 21 Oct 2015 07:28:00 GMT"},
            "",
            9,
        ),
        ({}, "Please wait and try again later", None),
    ],
)  # fmt: skip
def test_how_long_to_wait(headers: dict[str, str], words: str, seconds: float | None) -> None:
    assert seconds_to_wait(headers, words) == seconds


def test_how_long_to_wait_until_a_date() -> None:
    moment = datetime.now(timezone.utc) + timedelta(seconds=100)
    wait = seconds_to_wait({"retry-after": format_datetime(moment, usegmt=True)})
    assert wait is not None
    assert 90 < wait <= 100
    assert seconds_to_wait({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0


def test_the_limits_that_headers_tell() -> None:
    openai = {
        "x-ratelimit-limit-requests": "3000",
        "x-ratelimit-limit-tokens": "1000000",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-remaining-tokens": "999000",
        "x-ratelimit-reset-requests": "20ms",
        "x-ratelimit-reset-tokens": "1m2s",
    }
    assert headroom(openai) == Headroom(3000, 1_000_000, 0, 999_000, 0.02, 62)
    cohere = {"x-trial-endpoint-call-limit": "40", "x-trial-endpoint-call-remaining": "39"}
    assert headroom(cohere) == Headroom(limit_requests=40, remaining_requests=39)
    assert headroom({"x-ratelimit-limit-requests": "0", "x-ratelimit-limit-tokens": "-1"}) is None
