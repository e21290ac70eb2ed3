"""`embed-pipeline`: the group of all verbs, and the console script."""

from __future__ import annotations

import io
import sys
from importlib.metadata import PackageNotFoundError, version

import click

from embed_pipeline.cli import bridge_verbs, care_verbs, daily_verbs, holdout_verbs, migration_verbs, place_verbs, serving_verbs
from embed_pipeline.cli.verb import INTERRUPTED

EPILOG = "Exit codes: 0 done, 1 refused or failed, 2 usage or configuration, 3 the gate is undecided."


def _version() -> str:
    try:
        return version("embed-pipeline")
    except PackageNotFoundError:
        return "unknown"


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(_version(), prog_name="embed-pipeline")
def cli() -> None:
    """Embedding migrations as schema migrations: change the model of a live search index without losing a query."""


for verb in (
    *migration_verbs.VERBS,
    *holdout_verbs.VERBS,
    *daily_verbs.VERBS,
    *care_verbs.VERBS,
    *bridge_verbs.VERBS,
    *place_verbs.VERBS,
    *serving_verbs.VERBS,
):
    cli.add_command(verb)


def main() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal may lack a character of a document's id or of a provider's reason: then it is shown escaped.
            stream.reconfigure(errors="backslashreplace")
    try:
        cli(prog_name="embed-pipeline")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
