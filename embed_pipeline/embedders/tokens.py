"""How many tokens a text has: exactly, where the model's tokenizer is at hand, else by an estimate that learns from the bill.

The estimate is a number of tokens for each byte of UTF-8. A byte-level tokenizer (byte-pair encoding over bytes, as GPT-2 has it: Radford et
al., 2019, section 2.2) never needs more than one for each byte, and a few mark the ends: that is the bound from above.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from embed_pipeline.embedders.packaged import resolve, verify
from embed_pipeline.errors import ConfigurationError
from embed_pipeline.extras import needed_for
from embed_pipeline.spec import VersionSpec

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# One token for three bytes is more than English or code have (about one for four); the bill corrects it.
FIRST_RATIO = 1 / 3
# Added to what was billed: packs that are a little too small cost less than requests that are refused.
BIAS = 1.1
# How much the newest request weighs against all before it.
NEWEST = 0.2
# What must fit whatever the tokenizer is: this many bytes for one token. Plain text has about four, figures and rare scripts two.
FEWEST_BYTES = 2
# What the ends of a text cost at most.
ENDS = 3


class Counter(Protocol):
    """Counts tokens. Thread-safe."""

    exact: bool

    def count(self, text: str) -> int:
        """Tokens of `text`, the marks at its ends included."""
        ...

    def learn(self, texts: Sequence[str], billed: int) -> None:
        """The provider counted so many tokens in these texts together."""
        ...


class Estimate:
    """Tokens from bytes, by what the provider has billed so far, biased upwards."""

    exact = False

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ratio: float | None = None

    def count(self, text: str) -> int:
        """An estimate, never above one token for each byte and the marks at the ends."""
        size = len(text.encode(errors="replace"))
        ratio = self._ratio
        return min(size, int(size * (FIRST_RATIO if ratio is None else ratio * BIAS))) + ENDS

    def learn(self, texts: Sequence[str], billed: int) -> None:
        """Correct the ratio. The newest requests weigh most: a corpus changes along its keys."""
        size = sum(len(text.encode(errors="replace")) for text in texts)
        if size == 0 or billed <= 0:
            return
        with self._lock:
            seen = billed / size
            self._ratio = seen if self._ratio is None else self._ratio + NEWEST * (seen - self._ratio)


class Exact:
    """Tokens by the model's own tokenizer (a Hugging Face `tokenizer.json`); cuts a text to a number of them."""

    exact = True

    def __init__(self, path: str, sha256: str | None = None) -> None:
        file = resolve(path)
        self.sha256 = verify(file, sha256)
        """sha256 (hex) of the file: another tokenizer cuts elsewhere."""
        self._tokenizer = open_tokenizer(str(file))

    def count(self, text: str) -> int:
        """Tokens, special ones included."""
        return len(self._tokenizer.encode(text).ids)

    def learn(self, texts: Sequence[str], billed: int) -> None:
        """There is nothing to learn."""

    def cut(self, text: str, limit: int) -> str:
        """The longest beginning of `text` that has at most `limit` tokens and ends where a token does."""
        encoding = self._tokenizer.encode(text)
        if len(encoding.ids) <= limit:
            return text
        ends = [end for (_, end), special in zip(encoding.offsets, encoding.special_tokens_mask, strict=True) if not special]
        kept = max(0, limit - (len(encoding.ids) - len(ends)))
        # A cut can make its last word into other and more tokens than it was; then one token less is kept.
        while kept > 0:
            beginning = text[: ends[kept - 1]]
            if self.count(beginning) <= limit:
                return beginning
            kept -= 1
        return ""


def at_most(text: str) -> int:
    """How many tokens `text` may well have: the same on every day, for a rule that must not learn."""
    return -(-len(text.encode(errors="replace")) // FEWEST_BYTES) + ENDS


def exact_counter(spec: VersionSpec) -> Exact | None:
    """The counter of the version's tokenizer, where it declares one."""
    return None if spec.tokenizer_path is None else Exact(spec.tokenizer_path, spec.tokenizer_sha256)


def open_tokenizer(path: str) -> Tokenizer:
    """The tokenizer of a `tokenizer.json`, without the truncation and padding that such files often declare."""
    with needed_for("A tokenizer"):
        from tokenizers import Tokenizer
    try:
        tokenizer = Tokenizer.from_file(path)
    except Exception as exc:  # tokenizers raises a bare Exception
        lines = str(exc).strip().splitlines()
        raise ConfigurationError(
            f"The file {path} is no tokenizer: {lines[0] if lines else type(exc).__name__}",
            next_step="Point tokenizer_path at the model's tokenizer.json.",
        ) from exc
    # Files often carry the settings of their training; lengths must be true ones here, and padding is made elsewhere.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def not_a_text(text: str) -> str | None:
    """Why `text` can have no vector whatever the model, in words for the dead letter; None when it may."""
    if not text.strip():
        return "empty text"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "the text holds half of a surrogate pair, which is no character"
    return None
