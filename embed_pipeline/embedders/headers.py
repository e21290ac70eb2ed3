"""Rate limits, read from the headers of a provider's response.

OpenAI and what speaks its protocol: `x-ratelimit-(limit|remaining|reset)-(requests|tokens)`, durations like `1m2s` or `120ms`. Cohere: the
calls that a trial key has in a minute. All: `retry-after` in seconds or as a date (RFC 9110, section 10.2.3), and `retry-after-ms`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

from embed_pipeline.embedders.metering import Headroom

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+")
# Google's endpoint says the time in its words only: "Please retry in 35.2s."; so does Azure's: "Please retry after 1 second."
SAID = re.compile(r"(?:try again|retry) (?:in|after) ((?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+|\d+(?= seconds?))", re.IGNORECASE)


def headroom(headers: Mapping[str, str]) -> Headroom | None:
    """The limits that the headers tell, None when they tell none. Names are lower case."""
    found = Headroom(
        limit_requests=_count(headers, "x-ratelimit-limit-requests", "x-trial-endpoint-call-limit"),
        limit_tokens=_count(headers, "x-ratelimit-limit-tokens"),
        remaining_requests=_count(headers, "x-ratelimit-remaining-requests", "x-trial-endpoint-call-remaining", least=0),
        remaining_tokens=_count(headers, "x-ratelimit-remaining-tokens", least=0),
        reset_requests=_duration(headers.get("x-ratelimit-reset-requests")),
        reset_tokens=_duration(headers.get("x-ratelimit-reset-tokens")),
    )
    return None if found == Headroom() else found


def seconds_to_wait(headers: Mapping[str, str], words: str = "") -> float | None:
    """How long the provider asks us to wait, by its headers, else by its words."""
    milliseconds = _duration(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    told = headers.get("retry-after")
    if told is not None:
        return _duration(told) if _duration(told) is not None else _until(told, headers.get("date"))
    said = SAID.search(words)
    return _duration(said[1]) if said else None


def _count(headers: Mapping[str, str], *names: str, least: int = 1) -> int | None:
    for name in names:
        value = headers.get(name, "").strip()
        # Some servers say 0 or -1 for "no limit".
        if value.isdecimal() and int(value) >= least:
            return int(value)
    return None


def _duration(value: str | None) -> float | None:
    if value is None:
        return None
    value = value.strip().lower()
    if DURATION.fullmatch(value):
        return sum(float(number) * UNITS[unit] for number, unit in PART.findall(value))
    try:
        seconds = float(value)
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None


def _until(date: str, said_at: str | None) -> float | None:
    """Seconds until a date, by the clock of who named it: ours may be an hour behind."""
    moment = _moment(date)
    if moment is None:
        return None
    now = (None if said_at is None else _moment(said_at)) or datetime.now(timezone.utc)
    return max(0.0, (moment - now).total_seconds())


def _moment(date: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(date)
    except (TypeError, ValueError):
        return None
    return moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment
