"""Text from a provider, server, library or person, sanitised before it is stored or shown: valid characters, no secrets.

A reason may hold a key that a provider repeats, a NUL, half of a surrogate pair, or a page of HTML. Whatever of it is stored, logged,
printed or given to Dagster goes through `readable`; what goes into the database through `postgres/storable.py`, which stands on it.
"""

from __future__ import annotations

import os
import re
import threading
from urllib.parse import quote

HIDDEN = "***"
# Longer words are a page of a proxy, not a reason.
MOST = 2_000

# A shorter value of such a variable is a switch or a number, and would take ordinary words out of every message.
_SHORTEST = 8
_SECRET_NAME = re.compile(r"KEY|TOKEN(?!IZ)|SECRET|PASSWORD", re.IGNORECASE)
_kept: set[str] = set()
_keeping = threading.Lock()

# To the last @ of the run: a password with an unescaped @ or / must not show its tail. Hides too much rather than too little.
_IN_URL = re.compile(r"(://[^\s:/@]*):\S*@")
_IN_WHOLE_URL = re.compile(r"(://[^:/@]*):.*@", re.DOTALL)
_PASSWORD = re.compile(r"(passw(?:or)?d\s*=\s*)('(?:[^'\\]|\\.)*'|[^&\s]*)", re.IGNORECASE)
_IN_QUERY = re.compile(
    r"""([?&;](?:[\w.-]*(?:key|token|secret|passw(?:or)?d|signature|credential|auth)[\w.-]*|sig|pwd)=)[^&;#\s"'<>)]+""",
    re.IGNORECASE,
)
_IN_HEADER = re.compile(
    r"""(\b(?:proxy-)?authorization["']?\s*[:=]\s*["']?(?:bearer\s+|basic\s+)?|\b(?:x-)?api-key["']?\s*[:=]\s*["']?"""
    r"""|\bbearer\s+(?=[\w.~+/=-]{16}))[^\s"',;}]+""",
    re.IGNORECASE,
)
# Controls but tab and line feed (a terminal obeys them), and halves of surrogate pairs, which no encoding holds.
_NO_TEXT = re.compile("[\x00\ud800-\udfff]")
_UNREADABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def keep_secret(value: str) -> None:
    """From now on this value is in no words, whatever the variable is called that it came from."""
    if len(value) >= _SHORTEST:
        with _keeping:
            _kept.add(value)


def masked(words: str) -> str:
    """`words` with *** for what must not be seen.

    These are: values of environment variables whose names say KEY, TOKEN, SECRET or PASSWORD (8 characters or more, also as a URL
    quotes them), what `keep_secret` was told, passwords in URLs and libpq strings, secrets in query strings and in headers.
    """
    for secret in _secrets():
        words = words.replace(secret, HIDDEN)
    for pattern, instead in (
        (_IN_URL, rf"\1:{HIDDEN}@"),
        (_PASSWORD, rf"\1{HIDDEN}"),
        (_IN_QUERY, rf"\1{HIDDEN}"),
        (_IN_HEADER, rf"\1{HIDDEN}"),
    ):
        words = pattern.sub(instead, words)
    return words


def masked_url(url: str) -> str:
    """A whole URL or libpq string for a message: what stands before its last @ is the password, spaces and all."""
    return masked(_IN_WHOLE_URL.sub(rf"\1:{HIDDEN}@", url))


def readable(words: object, most: int | None = MOST) -> str:
    r"""The words masked, with backslash escapes (`\x00`, `\ud83d`) for what no encoding holds, and no longer than `most` characters."""
    text = _UNREADABLE.sub(_escaped, masked(_said(words)))
    return text if most is None or len(text) <= most else text[: most - 3] + "..."


def is_text(text: str) -> bool:
    """Whether PostgreSQL takes it for one: no NUL, and no half of a surrogate pair."""
    return _NO_TEXT.search(text) is None


def whole(text: str) -> str:
    """A query's text with U+FFFD for each half of a surrogate pair, as browsers send it: no model and no wire takes one."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _said(words: object) -> str:
    try:
        return str(words)
    except Exception as broken:  # a foreign exception that cannot even say what it is
        return f"{type(words).__name__} (its words raise {type(broken).__name__})"


def _secrets() -> list[str]:
    """The longest first: one may begin another."""
    with _keeping:
        found = set(_kept)
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and _SECRET_NAME.search(name):
            # A private key has several lines, and who reports it may have joined them.
            found.update(line.strip() for line in value.splitlines())
    found |= {quote(secret, safe="", errors="surrogateescape") for secret in found}
    return sorted((secret for secret in found if len(secret) >= _SHORTEST), key=len, reverse=True)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
