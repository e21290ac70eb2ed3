"""The directory of one embedded server: its paths, its state file, and the lock that makes starting it safe."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from embed_pipeline.errors import DatabaseUnavailable

HOME_VARIABLE = "EMBED_PIPELINE_HOME"
HOME_NAME = ".embed_pipeline"

_PROJECT_FILES = ("pyproject.toml", "workspace.yaml", "dagster.yaml")
STATE_FILE = "embed_pipeline.json"


@dataclass(frozen=True)
class State:
    port: int
    password: str
    prepared: str = ""


@dataclass(frozen=True)
class Paths:
    home: Path

    @property
    def data(self) -> Path:
        return self.home / "postgres"

    @property
    def state(self) -> Path:
        """Beside the data and not in it, where every process of the server's user could read it: to root that is somebody else."""
        elsewhere = os.geteuid() == 0 and self.data.is_symlink()
        return (self.data.resolve().parent if elsewhere else self.home) / STATE_FILE

    @property
    def log(self) -> Path:
        return self.home / "postgres.log"

    @property
    def lock(self) -> Path:
        return self.home / "postgres.lock"


def default_home() -> Path:
    """EMBED_PIPELINE_HOME, else `.embed_pipeline` in the project.

    The project is the nearest of the working directory and its parents that holds a pyproject.toml, workspace.yaml or
    dagster.yaml, or else the working directory itself.
    """
    named = os.environ.get(HOME_VARIABLE)
    if named:
        return Path(named).expanduser().absolute()
    here = Path.cwd()
    for directory in (here, *here.parents):
        if any((directory / name).is_file() for name in _PROJECT_FILES):
            return directory / HOME_NAME
    return here / HOME_NAME


def foreign(paths: Paths) -> DatabaseUnavailable:
    return DatabaseUnavailable(
        f"The database in {paths.data} belongs to another user of this machine.",
        next_step=f"Run this as that user, or set {HOME_VARIABLE} to a directory of your own.",
    )


def read_state(paths: Paths) -> State:
    path = paths.state
    try:
        return State(**json.loads(path.read_text()))
    except PermissionError as error:
        raise foreign(paths) from error
    except (OSError, ValueError, TypeError) as error:
        raise DatabaseUnavailable(
            f"{path}, which holds the password of the embedded PostgreSQL, is missing or unreadable.",
            next_step=f"Restore it, or move {paths.data} away to begin with an empty database.",
        ) from error


def write_state(path: Path, state: State) -> None:
    """Replace the state file; it is its maker's alone."""
    descriptor, name = tempfile.mkstemp(prefix=f".{STATE_FILE}-", dir=path.parent)
    with os.fdopen(descriptor, "w") as file:
        json.dump(asdict(state), file)
        file.flush()
        os.fsync(descriptor)
    Path(name).replace(path)


@contextmanager
def locked(paths: Paths, deadline: float) -> Iterator[None]:
    """Only one process at a time starts or stops the server. The kernel frees the lock when its holder dies."""
    import fcntl  # not on Windows, where this module still has to be importable

    try:
        paths.home.mkdir(parents=True, exist_ok=True)
        ignore = paths.home / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n")
        descriptor = os.open(paths.lock, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise DatabaseUnavailable(
            f"The embedded PostgreSQL cannot use {paths.home}: {error.strerror}.",
            next_step=f"Set {HOME_VARIABLE} to a directory you can write to, or give a database_url.",
        ) from error
    try:
        for _ in until(deadline, first=0.01):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            break
        else:
            raise DatabaseUnavailable(
                "Another process is still starting or stopping the embedded PostgreSQL.", next_step=f"See {paths.log}."
            )
        yield
    finally:
        os.close(descriptor)


def until(deadline: float, *, first: float) -> Iterator[None]:
    """Yield until the deadline, waiting in between: a little at first, then a fifth of a second."""
    pause = first
    while True:
        yield
        if time.monotonic() > deadline:
            return
        time.sleep(pause)
        pause = min(pause * 1.5, 0.2)
