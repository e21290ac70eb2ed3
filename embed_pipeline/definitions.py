"""The code location: everything below the project's `assets` folder.

`workspace.yaml` and `[tool.dg.project]` both name this module. The project is the one of the working directory.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import warnings
from pathlib import Path

import dagster as dg

from embed_pipeline.dagster_layer.component import CHECKING
from embed_pipeline.dagster_layer.one_by_one import load_one_by_one
from embed_pipeline.errors import ConfigurationError

# backfill_policy is beta in Dagster 1.13; without this every load of the code location prints a warning for each version.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)

PROJECT_FILES = ("pyproject.toml", "dg.toml")


def project_of(folder: Path) -> Path:
    """The nearest folder from `folder` upwards that holds a project file, else `folder` itself."""
    for each in (folder, *folder.parents):
        if any((each / name).is_file() for name in PROJECT_FILES):
            return each
    return folder


def refuse_another_projects_assets(project: Path) -> None:
    """Another importable `assets` would be loaded instead of this project's, and its indexes in its databases with it."""
    found = importlib.util.find_spec("assets")
    places = [] if found is None else [Path(each).resolve() for each in found.submodule_search_locations or ()]
    if places and (project / "assets").resolve() not in places:
        raise ConfigurationError(
            f"The package `assets` of {places[0].parent} is found before the one of this project, {project}.",
            next_step="Take that folder out of PYTHONPATH, or start Dagster from there.",
        )


def load_all(project: Path) -> dg.Definitions:
    """Everything below the project's `assets`; where one file stops Dagster's loader, the indexes of the other files and why it does."""
    try:
        return dg.load_from_defs_folder(path_within_project=project)
    except Exception as problem:
        # `dg check defs` is to fail, in Dagster's words.
        found = None if os.environ.get(CHECKING) else load_one_by_one(project / "assets")
        if found is None:
            raise
        # Without its words: they quote the file, which may hold a password.
        logging.getLogger(__name__).error(
            "Dagster's loader ended with %s: indexes are loaded, and nothing else.", type(problem).__name__
        )
        return found


@dg.definitions
def defs() -> dg.Definitions:
    """The definitions of all declared indexes. One step makes a run of ours, so it needs no process of its own."""
    project = project_of(Path.cwd())
    # `assets` belongs to the project and is installed nowhere. At the end: it may shadow nothing that is.
    if str(project) not in sys.path:
        sys.path.append(str(project))
    refuse_another_projects_assets(project)
    declared = load_all(project)
    return dg.Definitions.merge(declared, dg.Definitions(executor=dg.in_process_executor))
