"""Forks: a child (gunicorn with preload_app, multiprocessing, a daemon) opens its own connections and leaves the parent's alone.

A forked process has the sockets of its parent, and none of its threads. Two processes that read from one socket get each other's answers;
a lock that a thread of the parent held is held for ever; and whoever closes what it took along says goodbye in the parent's name. So in
the child every object that holds such things forgets them, without touching them, and opens its own when it is next used.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from typing import Protocol


class Holder(Protocol):
    """Holds connections, locks, threads or models for longer than a call."""

    def forked(self) -> None:
        """In the child, before any other code of it: abandon what is open, and make the locks anew. Opens nothing."""
        ...


_holders: weakref.WeakValueDictionary[int, Holder] = weakref.WeakValueDictionary()


def tell(holder: Holder) -> None:
    """Tell `holder` in every process that is forked from this one, for as long as it lives."""
    _holders[id(holder)] = holder


def abandon(*things: object) -> None:
    """Never destroy these in this process, not at its end either.

    Their destructors wait for threads that are not here (a model, a pool), or let go of what the parent holds (a file's lock).
    """
    for thing in things:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _forked() -> None:
    for holder in list(_holders.values()):
        holder.forked()


os.register_at_fork(after_in_child=_forked)
