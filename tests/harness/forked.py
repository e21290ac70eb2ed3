"""Processes that are forked from the test's own, as gunicorn and multiprocessing fork them."""

from __future__ import annotations

import json
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def forked(work: Callable[[], object]) -> Iterator[int]:
    """A process forked from this one, which writes what `work` returned, and ends without running anything of pytest's."""
    reads, writes = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reads)
        try:
            answer: object = work()
        except BaseException:
            answer = traceback.format_exc()
        os.write(writes, json.dumps(answer).encode())
        os._exit(0)
    os.close(writes)
    try:
        yield reads
    finally:
        os.close(reads)
        # Not reaped yet, so that the number is still its own.
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def said(reads: int) -> Any:
    return json.loads(b"".join(iter(lambda: os.read(reads, 65536), b"")))
