"""A small real file system for a tablespace, so that a disk can be full."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

MEGABYTES = 24

Room = Callable[[int], None]


@contextmanager
def mounted(data_dir: Path) -> Iterator[tuple[Path, Room]]:
    """A folder for a tablespace of the server with this data directory, and `room`: `room(n)` leaves n MB free there, whatever it holds.

    Skips the test where nothing can be mounted. At the end nobody may use the folder any more.
    """
    place = Path(tempfile.mkdtemp(prefix="embed-pipeline-tiny-"))
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        place.rmdir()
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    tablespace, ballast = place / "tablespace", place / "ballast"
    owner = data_dir.stat()
    tablespace.mkdir()
    for each in (place, tablespace):
        os.chown(each, owner.st_uid, owner.st_gid)

    def leave(megabytes: int) -> None:
        ballast.unlink(missing_ok=True)
        free = os.statvfs(place)
        # Where others write at the same time, it may be full before we have filled it.
        with suppress(OSError):
            ballast.write_bytes(bytes(max(free.f_bavail * free.f_frsize - megabytes * 2**20, 0)))

    try:
        yield tablespace, leave
    finally:
        subprocess.run(["umount", str(place)], check=True)
        place.rmdir()
