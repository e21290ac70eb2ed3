"""A held-out set that was made and not written by a person: its queries with their documents, and what has to be known of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from embed_pipeline.errors import HoldoutError
from embed_pipeline.evaluate.holdout import PROVISIONAL


@dataclass(frozen=True)
class MadeSet:
    """`queries`: text -> document id -> grade. `notes`: sentences on what was left out and what the set cannot tell.

    `provisional`: nobody asked or judged any of it, and a verdict on it says so.
    """

    queries: Mapping[str, Mapping[str, int]]
    notes: tuple[str, ...]
    provisional: bool = False

    def write(self, path: Path) -> None:
        """Write it as JSONL. HoldoutError for a file that is there: a set that evidence stands on is not overwritten."""
        mark = {PROVISIONAL: True} if self.provisional else {}
        lines = [
            json.dumps({"query_id": text, "query": text, "judgements": dict(judged)} | mark, ensure_ascii=False)
            for text, judged in self.queries.items()
        ]
        if path.suffix.lower() != ".jsonl":
            raise HoldoutError(f"{path} is no .jsonl file, which is what is written.", next_step="Name one that ends in .jsonl.")
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write("".join(f"{line}\n" for line in lines))
        except FileExistsError:
            raise HoldoutError(
                f"{path} is there already, and a held-out set is not overwritten.", next_step="Name another file, or remove it."
            ) from None
        except OSError as problem:
            raise HoldoutError(f"{path} cannot be written ({problem.strerror}).", next_step="Name another file.") from None
