"""`embed-pipeline`: the group of all verbs, and the console script."""

from __future__ import annotations

import io
import sys
from importlib.metadata import PackageNotFoundError, version

import click

from embed_pipeline.cli import (
    backfill_verb,
    bridge_verbs,
    care_verbs,
    daily_verbs,
    doctor_verb,
    holdout_verbs,
    look_verbs,
    migration_verbs,
    place_verbs,
    remove_verb,
    serving_verbs,
)
from embed_pipeline.cli.examples import EXAMPLES, GROUPS
from embed_pipeline.cli.verb import INTERRUPTED, said_in_json

EPILOG = (
    "Exit codes: 0 done, 1 refused or failed, 2 usage or configuration, 3 the gate is undecided, "
    "4 status --check or doctor: a person is needed."
)


def _version() -> str:
    try:
        return version("embed-pipeline")
    except PackageNotFoundError:
        return "unknown"


class Verbs(click.Group):
    """All verbs, by what they are for. A wrong word is said in JSON too where that was asked for."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in GROUPS.items():
            with formatter.section(title):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(limit=150)) for name in names])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        with said_in_json(ctx, args):
            return super().resolve_command(ctx, args)


@click.group(cls=Verbs, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(_version(), prog_name="embed-pipeline")
def cli() -> None:
    """Embedding migrations as schema migrations: change the model of a live search index without losing a query."""


for verb in (
    *backfill_verb.VERBS,
    *migration_verbs.VERBS,
    *holdout_verbs.VERBS,
    *daily_verbs.VERBS,
    *look_verbs.VERBS,
    *care_verbs.VERBS,
    *doctor_verb.VERBS,
    *bridge_verbs.VERBS,
    *remove_verb.VERBS,
    *place_verbs.VERBS,
    *serving_verbs.VERBS,
):
    cli.add_command(verb)


for words, example in EXAMPLES.items():
    command: click.Command = cli
    for word in words.split():
        assert isinstance(command, click.Group)
        command = command.commands[word]
    command.epilog = f"\b\nExample:\n  {example}"


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
