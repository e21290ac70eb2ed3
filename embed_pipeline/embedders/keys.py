"""A provider's key: from the environment only, and never in a message."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass, field

from embed_pipeline.embedders.provider import provider_of
from embed_pipeline.errors import ConfigurationError
from embed_pipeline.foreign_words import HIDDEN, keep_secret, readable
from embed_pipeline.spec import AccountSpec, VersionSpec

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


def find_key(spec: VersionSpec, account: AccountSpec) -> Key:
    """The key of the account, from the variable that it names or from the provider's own.

    Raises ConfigurationError when there is none; a server of one's own that speaks the provider's protocol needs none, unless a variable is named.
    """
    provider = provider_of(spec)
    variables = (account.api_key_env,) if account.api_key_env else provider.key_variables
    for variable in variables:
        value = os.environ.get(variable, "").strip()
        if value:
            keep_secret(value)
            return Key(_printable(variable, value), value)
    if account.api_key_env is None and provider.others_speak_it and spec.base_url is not None:
        return Key(variables[0], "")
    raise ConfigurationError(
        f"There is no key for {spec.provider}: the environment variable {variables[0]} is not set.",
        next_step=f"Set {variables[0]}, or name another variable in accounts.{spec.account_name}.api_key_env.",
    )


def _printable(variable: str, value: str) -> str:
    if not (value.isascii() and value.isprintable()):
        # The HTTP libraries would say so themselves, and show it.
        raise ConfigurationError(
            f"The environment variable {variable} holds no key: there are characters in it that no key has.",
            next_step=f"Set {variable} to the key alone.",
        )
    return variable
