"""The indexes of a project read file by file, where Dagster cannot: to its loader one file that is no YAML is the end of the whole code location.

What the project declares beside indexes is missing meanwhile. The sensors of all other indexes run, and that is what they are for.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import dagster as dg

from embed_pipeline import configuration
from embed_pipeline.dagster_layer.component import build_definitions, name_of
from embed_pipeline.dagster_layer.unreadable import unreadable_definitions


def load_one_by_one(folder: Path) -> dg.Definitions | None:
    """The definitions of every index below `folder`, and a failing check for each folder that has one which cannot be read. None where
    all can be read: then something else is the matter."""
    loaded = []
    unreadable: dict[str, list[str]] = defaultdict(list)
    for file, declared in configuration.read_each(folder):
        loaded += [build_definitions(spec) for spec in declared.indexes.values()]
        for problem in declared.unreadable:
            unreadable[name_of(file.parent)].append(str(problem))
    if not unreadable:
        return None
    return dg.Definitions.merge(
        *loaded, *(unreadable_definitions(name, " ".join(sentences)) for name, sentences in unreadable.items())
    )
