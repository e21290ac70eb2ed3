"""Whether vectors that were there before are of their texts and of the declared model: some texts are embedded, and compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from embed_pipeline.catalog.versions import Version
from embed_pipeline.embedders.protocol import Urgency
from embed_pipeline.evaluate.statistics import share_bounds
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.stores.adopting import OldVector

# Another revision of a model, a prefix or a pooling that differs falls well below; rounding and halfvec stay well above.
AGREES = 0.98
# When all of so many agree, at least 98.1 % of all do, with 95 % confidence: what min_agreement asks for by default.
SAMPLE = 200
NAMED = 5


@dataclass(frozen=True)
class Agreement:
    """Of a sample of vectors, how many are near enough to what the declared model makes of their texts."""

    sampled: int
    agreeing: int
    median: float
    lowest: float
    differing: tuple[str, ...] = ()
    """Some of the documents whose vectors are not."""

    @property
    def share(self) -> float:
        return self.agreeing / self.sampled

    @property
    def bounds(self) -> tuple[float, float]:
        """Of the share among all vectors, with 95 % confidence."""
        return share_bounds(self.agreeing, self.sampled)

    @property
    def sentence(self) -> str:
        low, high = self.bounds
        return (
            f"{self.agreeing} of {self.sampled} sampled vectors agree with the declared model ({self.share:.1%}; of all between {low:.1%} and "
            f"{high:.1%}, 95 % interval)"
        )

    @property
    def measures(self) -> dict[str, Any]:
        """As evidence keeps it."""
        low, high = self.bounds
        return {
            "sampled": self.sampled,
            "agreeing": self.agreeing,
            "share": self.share,
            "lower": low,
            "upper": high,
            "median": self.median,
            "lowest": self.lowest,
        }


def measure(index: OpenIndex, version: Version, sample: Sequence[OldVector]) -> Agreement | None:
    """Embed the sample's texts and compare; None where nothing of it can be embedded."""
    answer = index.embedder_of(version).embed_documents([each.text for each in sample], Urgency.CHECK)
    cosines, differing = list[float](), list[str]()
    for position, each in enumerate(sample):
        if position in answer.rejected:
            continue
        cosines.append(nearness(each.vector, answer.vectors[position].astype(np.float64), version.distance))
        if cosines[-1] < AGREES:
            differing.append(each.doc_id)
    if not cosines:
        return None
    return Agreement(
        sampled=len(cosines),
        agreeing=len(cosines) - len(differing),
        median=float(np.median(cosines)),
        lowest=min(cosines),
        differing=tuple(dict.fromkeys(differing))[:NAMED],
    )


def nearness(old: np.ndarray, new: np.ndarray, distance: str) -> float:
    """The cosine; where lengths count for the distance, less than it as far as the lengths differ."""
    lengths = float(np.linalg.norm(old)), float(np.linalg.norm(new))
    if not all(lengths):
        return 0.0
    product = float(old @ new)
    return product / (lengths[0] * lengths[1]) if distance == "cosine" else 2 * product / (lengths[0] ** 2 + lengths[1] ** 2)
