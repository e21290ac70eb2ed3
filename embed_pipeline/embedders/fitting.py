"""`too_long: chunk`: a passage that the model does not take is split until its parts are taken; what fits stays whole.

Where the version declares the model's tokenizer, "fits" is counted. Without one it is what must fit whatever the tokenizer is: so many bytes
of text. It is the same rule for the same text on every day, so that a text is split alike whoever embeds it: nothing is learned here.
"""

from __future__ import annotations

import hashlib
import json

from embed_pipeline.embedders.chunker import Chunker, Passage
from embed_pipeline.embedders.models import known
from embed_pipeline.embedders.tokens import FEWEST_BYTES, at_most, exact_counter
from embed_pipeline.errors import ConfigurationError
from embed_pipeline.spec import MOST_CHARACTERS, ChunkerSpec, VersionSpec

# Parts of equal length would just miss the limit where the text is denser than it is on average.
ROOM = 0.9
# The identity holds how the installed splitter splits the chunker's fixed text at this size.
PROBE_SIZE = 100


class Fitting:
    """Splits passages of documents that are over a version's max_tokens. Thread-safe."""

    def __init__(self, spec: VersionSpec) -> None:
        model = known(spec.provider, spec.model_name)
        limit = spec.max_tokens or (model.limits.max_tokens if model is not None else None)
        if limit is None:
            raise ConfigurationError(
                f"too_long: chunk needs to know what is too long, and nothing is known of the model {spec.model_name}.",
                next_step="Declare max_tokens in the version.",
            )
        self.max_tokens = limit
        self._exact = exact_counter(spec)
        self._prefix = spec.document_prefix

    def passages(self, text: str, passage: Passage) -> list[Passage]:
        """`passage` of `text`, whole when it fits, else in parts that do, at the best places that there are; none of white space alone."""
        piece = text[passage.start : passage.end]
        size = self._size(piece)
        if size <= self.max_tokens or len(piece) <= 1:
            return [passage]
        characters = max(1, min(int(len(piece) * self.max_tokens / size * ROOM), len(piece) - 1, MOST_CHARACTERS))
        parts = Chunker(ChunkerSpec(size=characters)).passages(piece)
        moved = [Passage(passage.start + start, passage.start + end) for start, end in parts]
        # A part as long as the whole would be split for ever: there was only white space around it.
        return [smaller for part in moved for smaller in (self.passages(text, part) if part != passage else [part])]

    def identity(self) -> str:
        """sha256 (hex) of what decides where a text is split: the limit, the tokenizer and the splitter."""
        rule = f"{FEWEST_BYTES} bytes" if self._exact is None else self._exact.sha256
        splitter = Chunker(ChunkerSpec(size=PROBE_SIZE)).identity()
        return hashlib.sha256(json.dumps([self.max_tokens, rule, splitter]).encode()).hexdigest()

    def _size(self, piece: str) -> int:
        sent = self._prefix + piece
        return at_most(sent) if self._exact is None else self._exact.count(sent)
