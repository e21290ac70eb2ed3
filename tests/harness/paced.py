"""An embedder that a test drives from another process: each batch waits for its permit."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from embed_pipeline.embedders.protocol import Embedded, Role
from embed_pipeline.postgres import home
from tests.harness.fakes import HashEmbedder


class PacedEmbedder(HashEmbedder):
    """`permits`: a file with the number of batches that may be embedded so far; absent means none."""

    def __init__(self, *, permits: str, **shared: Any) -> None:
        super().__init__(**shared)
        self._permits = Path(permits)
        self._batches = 0

    def embed(self, texts: Sequence[str], role: Role) -> Embedded:
        self._batches += 1
        for _ in home.until(time.monotonic() + 60, first=0.01):
            if self._permits.exists() and int(self._permits.read_text() or "0") >= self._batches:
                return super().embed(texts, role)
        raise RuntimeError("no permit came")


def permit(path: Path, batches: int) -> None:
    """Allow this many batches in all."""
    fresh = path.with_suffix(".new")
    fresh.write_text(str(batches))
    fresh.replace(path)
