"""Which protections a soak takes out: a third of them, which one its seed says, so that three seeds in a row take out all.

SOAK_WITHOUT names others: `all`, or names with commas between them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from tests.harness.strikes import SEED
from tests.mutations.patches import patches

WITHOUT = os.environ.get("SOAK_WITHOUT", "")


def chosen(names: Iterable[str], without: str = WITHOUT, seed: int = SEED) -> list[str]:
    """Those of the names that this run takes out. ValueError when no protection has the name that is asked for: nothing would be run."""
    if without:
        unknown = set(without.split(",")) - patches().keys() - {"all"}
        if unknown:
            raise ValueError(f"SOAK_WITHOUT names no protection: {', '.join(sorted(unknown))}. They stand in tests/mutations.")
        return [name for name in names if without == "all" or name in without.split(",")]
    return [name for number, name in enumerate(names) if number % 3 == seed % 3]
