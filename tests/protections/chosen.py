"""Which protections a soak takes out: a third of them, which one its seed says, so that three seeds in a row take out all.

SOAK_WITHOUT names others: `all`, or names with commas between them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from tests.campaign.strikes import SEED

WITHOUT = os.environ.get("SOAK_WITHOUT", "")


def chosen(names: Iterable[str], without: str = WITHOUT, seed: int = SEED) -> list[str]:
    """Those of the names that this run takes out."""
    if without:
        return [name for name in names if without == "all" or name in without.split(",")]
    return [name for number, name in enumerate(names) if number % 3 == seed % 3]
