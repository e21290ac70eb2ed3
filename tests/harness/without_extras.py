"""`embed-pipeline` as `pip install embed-pipeline` alone gives it: what the extras bring cannot be imported.

python -m tests.harness.without_extras [--but gate,load] VERB ...
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from embed_pipeline.extras import EXTRA_OF


class Missing(MetaPathFinder):
    """Finds nothing where these modules are looked for, as if they were not installed."""

    def __init__(self, modules: Collection[str]) -> None:
        self._modules = modules

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] in self._modules:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return None


def take_away(but: Collection[str] = ()) -> None:
    """From here on no extra is installed but these. In a process of its own: what is imported stays."""
    sys.meta_path.insert(0, Missing([module for module, extra in EXTRA_OF.items() if extra not in but]))


if __name__ == "__main__":
    kept: list[str] = []
    if sys.argv[1] == "--but":
        kept = sys.argv[2].split(",")
        del sys.argv[1:3]
    take_away(kept)
    from embed_pipeline.cli.main import main

    main()
