"""What an embedder is: texts in, one vector each out, or a reason why a text cannot have one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from embed_pipeline.errors import EmbedPipelineError

Role = Literal["document", "query"]


class Urgency(IntEnum):
    """Who is served first where an account's limits are short: the smaller, the sooner."""

    QUERY = 0
    SERVING = 1  # dual-write of the active version
    LIVE = 2  # dual-write of another live version
    CHECK = 3  # gate, model check, plan
    BACKFILL = 4


Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Embedded:
    """The answer for a batch of n texts.

    `vectors` has shape (n, dimensions); a row of a rejected text holds zeros and must not be stored.
    `rejected` maps positions to the reason why that text can have no vector, in words for the dead letter.
    `truncated` holds the positions of texts that were cut because the version says `too_long: truncate`.
    """

    vectors: Vectors
    rejected: Mapping[int, str] = field(default_factory=dict)
    truncated: frozenset[int] = frozenset()
    tokens: int = 0
    """What the provider counted and bills; 0 where nobody bills."""
    unanswered: frozenset[int] = frozenset()
    """Positions without an answer, because of `failure`. Their rows are zeros and must not be stored."""
    failure: EmbedPipelineError | None = None
    """What ended the work before all were answered. What was answered until then is paid for, and is good."""

    def whole(self) -> Embedded:
        """This answer, where it is one to every text; else raises `failure`."""
        if self.failure is not None:
            raise self.failure
        return self


class Embedder(Protocol):
    """One model behind one provider. Thread-safe: several threads may call `embed` at once.

    A failure for everything (no access, endpoint gone) raises EmbedderError; a failure of one text is a rejection.
    """

    def embed(self, texts: Sequence[str], role: Role) -> Embedded:
        """Vectors of `texts` as documents or as queries; prefixes and normalisation are the caller's."""
        ...

    def identity(self) -> Mapping[str, str]:
        """What decides the vectors and is not in the declaration (hash of a model file): part of the fingerprint."""
        ...

    def close(self) -> None:
        """Release what is held; calling it twice is allowed."""
        ...
