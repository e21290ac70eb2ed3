"""A canary: a sticky share of users is answered by a version that has passed its gate and does not serve yet.

Who is on which side is a hash of the key alone: the same in every process, before and after a restart, and a share that grows takes nobody back.
"""

from __future__ import annotations

import hashlib
import logging
import time
from dataclasses import dataclass

import psycopg

from embed_pipeline.catalog import evidence
from embed_pipeline.errors import ConfigurationError

logger = logging.getLogger("embed_pipeline.search")

Key = str | int
Declared = float | tuple[str, float]


@dataclass(frozen=True)
class Chosen:
    """The version that is tried out now."""

    version: str
    fingerprint: str


def place(fingerprint: str, key: Key) -> float:
    """Where a user stands, 0..1, evenly: whoever is below the share is answered by the canary. Another version has other users."""
    digest = hashlib.sha256(f"{fingerprint}\0{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:7]) / 2**56


class Canary:
    """Which version of an index is tried out, and on whom. What a look found is used for `refresh_seconds`."""

    def __init__(self, index: str, declared: Declared, refresh_seconds: float) -> None:
        self._index = index
        self._version: str | None = declared[0] if isinstance(declared, tuple) else None
        self.share = declared[1] if isinstance(declared, tuple) else declared
        self._refresh_seconds = refresh_seconds
        if isinstance(self.share, bool) or not isinstance(self.share, float | int) or not 0 <= self.share <= 1:
            raise ConfigurationError(
                f"canary is {declared!r}, and it is the share of keys on a canary, from 0 to 1, or a version and that share.",
                next_step='Write canary=0.05, or canary=("v2", 0.05).',
            )
        self._found: tuple[Chosen | None, float] | None = None
        self._said = ""

    @property
    def known(self) -> tuple[Chosen | None] | None:
        """What a look has found that still counts, in a tuple; None where one is due."""
        found = self._found
        return None if found is None or time.monotonic() - found[1] >= self._refresh_seconds else (found[0],)

    def takes(self, chosen: Chosen, key: Key) -> bool:
        """Whether this user is answered by the canary."""
        return place(chosen.fingerprint, key) < self.share

    def look(self, conn: psycopg.Connection) -> Chosen | None:
        """The version that is ready and has passed, by evidence that is valid for what serves; None: nobody is tried out on anything."""
        looked = time.monotonic()
        try:
            rows = evidence.passed(conn, self._index, self._version)
        except psycopg.errors.InsufficientPrivilege as problem:
            rows = []
            self._say(f"this role may not see what has passed: {problem.diag.message_primary}")
        else:
            if len(rows) > 1:
                self._say(f"{' and '.join(row[0] for row in rows)} have passed, and none is named")
            elif not rows:
                self._say(
                    f"{self._version or 'every version'} is not ready, or lacks a gate passed against what serves that is still valid"
                )
        chosen = Chosen(*rows[0]) if len(rows) == 1 else None
        if chosen is not None:
            self._said = ""
        self._found = (chosen, looked)
        return chosen

    def without(self, chosen: Chosen, why: str) -> None:
        """This machine cannot ask it: nobody here is on the canary until the next look."""
        self._say(f"{chosen.version} cannot be asked here: {why}")
        self._found = (None, time.monotonic())

    def forget(self) -> None:
        """The pointer was moved."""
        self._found = None

    def _say(self, why: str) -> None:
        if why != self._said:
            self._said = why
            logger.warning("No search of %s is answered by a canary: %s.", self._index, why.rstrip("."))
