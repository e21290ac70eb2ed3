"""A provider's key: from the environment only, and never in a message."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field

from embed_pipeline.foreign_words import HIDDEN, readable

# Providers repeat a wrong key with most of it starred out; the rest of it is nobody's business either.
STARRED = re.compile(r"[\w-]{0,100}\*{3,}[\w-]{0,100}")


@dataclass(frozen=True)
class Key:
    """A key and the variable that it came from. `value` is empty for a server of one's own that asks for none."""

    variable: str
    value: str = field(repr=False)

    def scrub(self, words: str) -> str:
        """`words` without the key, whole or starred out, and without other secrets."""
        if self.value:
            # However short it is.
            words = words.replace(self.value, HIDDEN)
        return STARRED.sub(HIDDEN, readable(words, None))

    def keep_out_of(self, logger: str) -> None:
        """Have this logger's records scrubbed: a library may log a provider's words, and those may repeat the key."""
        filters = logging.getLogger(logger).filters
        if not any(isinstance(one, _Scrubbing) and one.key == self for one in filters):
            logging.getLogger(logger).addFilter(_Scrubbing(self))


class _Scrubbing(logging.Filter):
    def __init__(self, key: Key) -> None:
        super().__init__()
        self.key = key

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self.key.scrub(record.getMessage()), ()
        return True
