"""Running PostgreSQL when the caller is root, which PostgreSQL refuses to be.

No system user is made and no directory of the user's changes its mode. The server runs as the owner of an existing
data directory, else as `nobody`. That user may be unable to pass through the project's parents (a `mktemp -d`,
/root). Then either the process keeps the one capability to read and traverse (CAP_DAC_READ_SEARCH), or, where root
itself lacks it as in Docker's default set, data and binaries live in a directory of their own below /var/tmp. Other
processes of that user can read the data where the mode bits let them pass, but not the password, which is in a file of
root's beside it; with the capability, the database's superuser can read root's files: hence the random password.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import stat
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from embed_pipeline.errors import DatabaseUnavailable
from embed_pipeline.postgres.binaries import Binaries
from embed_pipeline.postgres.launch import CAP_DAC_READ_SEARCH, CAP_SETPCAP


@dataclass(frozen=True)
class RunAs:
    """The user to become, or None for both: stay who we are. `read_everywhere`: keep CAP_DAC_READ_SEARCH."""

    uid: int | None = None
    gid: int | None = None
    read_everywhere: bool = False


@dataclass(frozen=True)
class Quarters:
    """Where the server lives: the parent of its data directory, the binaries to run, and as whom."""

    base: Path
    binaries: Binaries
    run_as: RunAs


def quarters(home: Path, data_link: Path, binaries: Binaries) -> Quarters:
    """Decide where and as whom to run; copies the binaries when the chosen user could not run them where they are.

    `data_link` is `home/postgres`: the data directory, or a link to it, or nothing yet.
    Raises DatabaseUnavailable when no user or place can be found.
    """
    exists = data_link.exists()
    base = data_link.resolve().parent if exists else home
    if os.geteuid() != 0:
        return Quarters(base, binaries, RunAs())
    uid, gid = _user(data_link if exists else None)
    capable = _may_read_everywhere()
    if not capable and not _can_enter(base, uid, gid):
        if exists:
            raise DatabaseUnavailable(
                f"The server would run as user id {uid}, which may not enter {base}.",
                next_step="Move the project to a directory that others may enter, or set EMBED_PIPELINE_HOME.",
            )
        base = _elsewhere(home)
    reachable = _can_enter(binaries.bin_dir, uid, gid)
    if not _others_can_run(binaries) or (not reachable and not capable):
        binaries = _copied(binaries, _elsewhere(home))
        reachable = True
    keep = capable and not (reachable and _can_enter(base, uid, gid))
    return Quarters(base, binaries, RunAs(uid, gid, keep))


def _user(data_dir: Path | None) -> tuple[int, int]:
    if data_dir is not None:
        owner = data_dir.stat()
        if owner.st_uid != 0:
            return owner.st_uid, owner.st_gid
    for name in ("nobody", "daemon"):
        # initdb looks its user up by id, so the id must have a name.
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return entry.pw_uid, entry.pw_gid
    raise DatabaseUnavailable(
        "PostgreSQL does not run as root, and there is no user `nobody` to run it as.",
        next_step="Run this as an ordinary user, or give a database_url.",
    )


def _may_read_everywhere() -> bool:
    """Whether this root process holds CAP_DAC_READ_SEARCH and may hand it on (CAP_SETPCAP). Only Linux has them."""
    if not sys.platform.startswith("linux"):
        return False
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    needed = 1 << CAP_DAC_READ_SEARCH | 1 << CAP_SETPCAP
    return all(int(fields.get(name, "0"), 16) & needed == needed for name in ("CapPrm", "CapBnd"))


def _can_enter(directory: Path, uid: int, gid: int) -> bool:
    """Whether the mode bits let the user pass through `directory` and all of its parents."""
    for place in (directory.resolve(), *directory.resolve().parents):
        found = place.stat()
        if found.st_uid == uid:
            bit = stat.S_IXUSR
        elif found.st_gid == gid:
            bit = stat.S_IXGRP
        else:
            bit = stat.S_IXOTH
        if not found.st_mode & bit:
            return False
    return True


def _others_can_run(binaries: Binaries) -> bool:
    # Installed under umask 077, the files themselves are closed, and the capability does not cover execution.
    return all(binaries.program(name).stat().st_mode & stat.S_IXOTH for name in ("initdb", "postgres"))


def _elsewhere(home: Path) -> Path:
    """A directory of root's below /var/tmp, one for each home. Refused when somebody else made it first."""
    name = hashlib.sha256(os.fsencode(home)).hexdigest()[:12]
    place = Path("/var/tmp") / f"embed-pipeline-{name}"
    try:
        place.mkdir(mode=0o711)
        # mkdir takes the umask off; the server's user has to pass.
        place.chmod(0o711)
    except FileExistsError:
        found = place.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise DatabaseUnavailable(
                f"{place} belongs to somebody else, so the database is not put there.",
                next_step=f"Remove {place}, or set EMBED_PIPELINE_HOME to another directory.",
            ) from None
    return place


def _copied(binaries: Binaries, place: Path) -> Binaries:
    """A copy of the binaries below `place` that every user may read and run; made once for each installation."""
    made = binaries.program("postgres").stat()
    identity = f"{binaries.bin_dir}:{made.st_size}:{made.st_mtime_ns}"
    copy = place / f"binaries-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    parts = binaries.files or (binaries.prefix,)
    root = Path(os.path.commonpath([part.parent for part in parts]))
    if not copy.exists():
        for leftover in place.glob(".binaries-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(prefix=".binaries-", dir=place))
        for part in parts:
            shutil.copytree(part, temporary / part.relative_to(root), symlinks=True)
        for path in (temporary, *temporary.rglob("*")):
            if not path.is_symlink():
                mode = path.stat().st_mode
                path.chmod(mode | (0o555 if path.is_dir() or mode & stat.S_IXUSR else 0o444))
        temporary.rename(copy)
    return replace(binaries, bin_dir=copy / binaries.bin_dir.relative_to(root))
