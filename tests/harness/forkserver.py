"""Processes that are a fork away from one in which their modules are imported already: qdrant_client alone takes two seconds.

One such process for each worker of xdist, started with the first process that is asked for. A module that is not among its own is imported
by the process that needs it.
"""

from __future__ import annotations

from multiprocessing import get_context

CONTEXT = get_context("forkserver")
_modules: list[str] = []


def preload(*modules: str) -> None:
    """Have these imported once. Heard until the first process is started."""
    _modules.extend(modules)
    CONTEXT.set_forkserver_preload(_modules)
