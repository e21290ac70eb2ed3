"""The model of adopted vectors that is gone: nothing can be embedded with it any more, and its vectors can still be compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from embed_pipeline.embedders.protocol import Embedded, Role
from embed_pipeline.errors import EmbedderError
from embed_pipeline.spec import VersionSpec


class RetiredEmbedder:
    """The embedder of `provider: retired`. Each document is rejected, so that no old vector stays with a new text; a query is an error."""

    def __init__(self, spec: VersionSpec) -> None:
        self._spec = spec

    def embed(self, texts: Sequence[str], role: Role) -> Embedded:
        gone = f"the model {self._spec.model_name} is retired"
        if role == "query":
            raise EmbedderError(
                f"Nobody can search by a text: {gone}, and so no query gets a vector of its space.",
                next_step="Search by a vector of that model (search_vector), or migrate to a version whose model is there; until then its queries "
                "can be mapped: embed-pipeline gate INDEX VERSION --route bridge",
            )
        vectors = np.zeros((len(texts), self._spec.dimensions), dtype=np.float32)
        return Embedded(vectors, dict.fromkeys(range(len(texts)), gone))

    def identity(self) -> Mapping[str, str]:
        return {}

    def close(self) -> None:
        """Nothing is held."""
