"""What a provider's refusal means, whichever provider it is: all failures of a request are told apart here.

The status says most of it (RFC 9110, sections 15.5 and 15.6; RFC 6585 for 429); the provider's words and code say the rest: one
text is too long, the whole request is, or the money is spent. The words are kept for the message, the key is taken out of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from embed_pipeline.embedders.headers import headroom, seconds_to_wait
from embed_pipeline.embedders.keys import Key
from embed_pipeline.embedders.metering import Headroom

# Longer words are a page of a proxy, not a provider's sentence.
MOST_WORDS = 500


class Failure(Exception):
    """A request was not answered. `words` are the provider's own, without the key."""

    def __init__(self, words: str, status: int | None = None) -> None:
        self.words = words
        self.status = status
        super().__init__(words)


class Refused(Failure):
    """The provider does not take this request, and would not take it a second time: for one of its texts, or as it stands."""


class TooLong(Refused):
    """One text of the request has too many tokens. `count` and `limit` where the provider says them."""

    def __init__(self, words: str, status: int | None = None, *, count: int | None = None, limit: int | None = None) -> None:
        super().__init__(words, status)
        self.count, self.limit = count, limit


class TooMuch(Refused):
    """The request as a whole is too large: fewer of its texts would be taken. `texts`: it has too many texts, whatever they are."""

    def __init__(self, words: str, status: int | None = None, *, texts: bool = False) -> None:
        super().__init__(words, status)
        self.texts = texts


class RateLimited(Failure):
    """Too fast. `retry_after` in seconds, where the provider says it."""

    def __init__(
        self, words: str, status: int | None = None, *, retry_after: float | None = None, headroom: Headroom | None = None
    ) -> None:
        super().__init__(words, status)
        self.retry_after, self.headroom = retry_after, headroom


class Transient(Failure):
    """It may pass. `unheard`: no answer came at all, so that the provider may have done the work, and bill it.

    `next_step`: what to look at where waiting alone does not help.
    """

    def __init__(
        self,
        words: str,
        status: int | None = None,
        *,
        unheard: bool = False,
        retry_after: float | None = None,
        next_step: str = "",
    ) -> None:
        super().__init__(words, status)
        self.unheard, self.retry_after, self.next_step = unheard, retry_after, next_step


class Unusable(Failure):
    """An answer came, is on the bill, and nothing of it can be used. `words`: with what it answered."""


class Systemic(Failure):
    """Nothing is taken from us: no access, no money, no such model, no such endpoint. `next_step` says what lifts it."""

    def __init__(self, words: str, status: int | None = None, *, next_step: str) -> None:
        super().__init__(words, status)
        self.next_step = next_step


# Statuses that pass: a conflict or a time-out on their side, too early (RFC 8470), what Cohere says when a client has gone, and what
# text-embeddings-inference says when its model failed.
PASSING = frozenset({408, 409, 424, 425, 498, 499})
# Money, not speed, although the status is the one of speed: OpenAI's code, and Cohere's words for a trial key that is used up.
SPENT_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
SPENT_WORDS = re.compile(r"per month|/ month|monthly", re.IGNORECASE)
RESUME = "Nothing was marked done; the same command resumes."

# OpenAI, Voyage, text-embeddings-inference; Cohere; Google.
TOO_MANY_TEXTS = re.compile(r"array too long|batch size|number of texts|too many (?:inputs|texts)|in one batch", re.IGNORECASE)
# The sum of tokens: OpenAI, Cohere, Voyage, Mistral; or the bytes: a proxy.
TOO_MUCH = re.compile(
    TOO_MANY_TEXTS.pattern
    + r"|per request|in the request|request size|max\w* allowed tokens|tokens in batch|body is too large|entity too large",
    re.IGNORECASE,
)
TOO_LONG = re.compile(
    r"context (?:length|window)|input length|too many tokens|(?:less|fewer) than \d+ tokens|too long|input is too large to process",
    re.IGNORECASE,
)
# llama.cpp says it with status 500, and calls the limit a batch.
TOO_LARGE = re.compile(r"input \(([\d,]+) tokens\) is too large to process.*current batch size: ([\d,]+)", re.IGNORECASE)
# A page, not an answer of a provider: of a firewall or a proxy in front of it.
PAGE = re.compile(r"\s*<(?:!doctype|html|head|body|title)\b", re.IGNORECASE)
TITLE = re.compile(r"<title>(.*?)</title>", re.IGNORECASE | re.DOTALL)
# How they say the limit, and how they say the count: OpenAI and vLLM, Cohere, Voyage, text-embeddings-inference.
LIMIT = re.compile(
    r"(?:length is|cannot exceed|(?:less|fewer) than|context window of|at most|limit (?:of|is))\s+([\d,]+)", re.IGNORECASE
)
COUNT = re.compile(r"(?:requested|received|given:?|resulted in|have|has|got)\s+([\d,]+)", re.IGNORECASE)


def of_status(status: int, words: str, key: Key, *, code: str | None = None, headers: Mapping[str, str] | None = None) -> Failure:
    """The failure that an answer with this status stands for. `words`, `code`: the provider's; `headers`: those of the answer."""
    headers = {name.lower(): value for name, value in (headers or {}).items()}
    is_page = PAGE.match(words) is not None
    words = shown(words, key) or f"status {status}, and no word with it"
    if status == 429 and code not in SPENT_CODES and not SPENT_WORDS.search(words):
        return RateLimited(words, status, retry_after=seconds_to_wait(headers, words), headroom=headroom(headers))
    large = TOO_LARGE.search(words)
    if large is not None:
        return TooLong(words, status, count=_whole(large[1]), limit=_whole(large[2]))
    # A provider that forbids everything says so itself; a firewall's page is about what one request says.
    if status in (400, 413, 422) or (status == 403 and is_page):
        return _refused(words, status)
    if status in PASSING or (status >= 500 and status != 501):
        return Transient(words, status, retry_after=seconds_to_wait(headers, words))
    return Systemic(words, status, next_step=_what_lifts(status, key))


def of_silence(words: str, key: Key, *, unheard: bool = True, next_step: str = "") -> Transient:
    """No answer: the connection failed, broke, or the time was up. `unheard=False`: the request did not even get there."""
    return Transient(shown(words, key), unheard=unheard, next_step=next_step)


def _refused(words: str, status: int) -> Refused:
    if TOO_MUCH.search(words) or (status == 413 and not TOO_LONG.search(words)):
        return TooMuch(words, status, texts=TOO_MANY_TEXTS.search(words) is not None)
    if TOO_LONG.search(words):
        return TooLong(words, status, count=_number(COUNT, words), limit=_number(LIMIT, words))
    return Refused(words, status)


def _number(pattern: re.Pattern[str], words: str) -> int | None:
    found = pattern.search(words)
    return _whole(found[1]) if found else None


def _whole(number: str) -> int:
    return int(number.replace(",", ""))


def _what_lifts(status: int, key: Key) -> str:
    if status == 401:
        return f"Set {key.variable} to a key that the provider takes. {RESUME}"
    if status in (402, 429):
        return f"Top up the account of the key in {key.variable}, or wait for its next period. {RESUME}"
    if status == 403:
        return f"See what the key in {key.variable} may do at the provider. {RESUME}"
    if status in (404, 405, 410):
        return f"See whether the version's model_name and base_url are right, and whether the key in {key.variable} may use the model. {RESUME}"
    return f"Lift it at the provider. {RESUME}"


def shown(words: str, key: Key) -> str:
    """What somebody else said, on one line, without the key; of a page its title."""
    if PAGE.match(words):
        title = TITLE.search(words)
        words = f"a page of HTML, {title[1].strip()!r}" if title else f"a page of HTML: {words}"
    line = " ".join(key.scrub(words).split())
    return line if len(line) <= MOST_WORDS else line[: MOST_WORDS - 3] + "..."
