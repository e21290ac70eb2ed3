"""Tells a live version whose table or collection was dropped by hand from one that was retired."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from embed_pipeline.catalog.versions import Version
from embed_pipeline.errors import VectorsGone, VersionRetired
from embed_pipeline.migrate.open_index import OpenIndex


@contextmanager
def unless_dropped(index: OpenIndex, version: Version) -> Iterator[None]:
    """Within it, a store that finds nothing of its version raises VersionRetired only of one that was retired; of any other, VectorsGone."""
    try:
        yield
    except VersionRetired as problem:
        with index.connection() as conn:
            now = index.version(conn, version.name)
        if not now.is_live:
            raise
        raise vectors_gone(now) from problem


def vectors_gone(version: Version) -> VectorsGone:
    """What a person is told, and how a version is given up whose vectors nobody can bring back."""
    name = f"{version.index} {version.name}"
    first = "cut over or roll back to another version; then " if version.state == "active" else ""
    return VectorsGone(
        f"The vectors of {version.index}.{version.name} are gone or are not what this package has made, and no retire has removed them; "
        f"it is {version.state}. Its queue is kept.",
        next_step=f"Put them back from a backup, or give the version up: {first}run: embed-pipeline retire {name} --confirm {version.name}; "
        "its model can be declared again under another name.",
    )
