"""The verb that looks: doctor."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from embed_pipeline.cli.verb import NEEDS_A_PERSON, Output, Verb, as_values, one_index, with_config, write
from embed_pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from embed_pipeline.doctor.findings import Diagnosis

EXAMPLES = """\b
Examples:
  embed-pipeline doctor docs
  embed-pipeline doctor --table public.items --column embedding --text body
  embed-pipeline doctor --collection items --url http://localhost:6333 --text body

Exit code 4 when something is worse than a note."""


@click.command(cls=Verb, epilog=EXAMPLES)
@click.argument("index", required=False)
@click.option("--table", metavar="SCHEMA.TABLE", help="Any table instead of a declared index; SELECT on it is enough.")
@click.option("--column", help="With --table: the column of its vectors.")
@click.option("--key", help="With --table: what names a row; without it its own unique key.")
@click.option("--database-url", envvar="DATABASE_URL", help="With --table: where it is; default $DATABASE_URL.")
@click.option("--collection", metavar="NAME", help="Any Qdrant collection instead of a declared index.")
@click.option("--url", help="With --collection: where it is; the key is in $QDRANT_API_KEY.")
@click.option("--vector", default="", help="With --collection: the name of the vector, where it has one.")
@click.option("--text", help="The column or payload field with the text; without it no mixture is looked for.")
@click.option(
    "--sample", type=click.IntRange(1, 100_000), default=2_000, show_default=True, help="How many vectors are looked at."
)
@click.option("--html", "html", type=click.Path(path_type=Path), help="Also write one page to FILE.", metavar="FILE")
@with_config
@click.pass_context
def doctor(ctx: click.Context, /, sample: int, html: Path | None, config: Path, as_json: bool, **given: Any) -> None:
    """Say what is wrong with vectors: of a declared INDEX, of any table, or of a Qdrant collection. Writes nothing."""
    output = Output(as_json)
    found = _diagnosed(given, sample, config)
    from embed_pipeline.doctor import page

    for line in page.lines(found):
        output.text(line)
    output.result({**as_values(found), "needs_a_person": found.needs_a_person})
    if html is not None:
        content = page.page(found, datetime.now(UTC)).encode()
        write(output, html, content, what="page", option="--html", kept="what was found")
    ctx.exit(NEEDS_A_PERSON if found.needs_a_person else 0)


def _diagnosed(given: dict[str, Any], sample: int, config: Path) -> Diagnosis:
    chosen = [name for name in ("index", "table", "collection") if given[name] is not None]
    if len(chosen) != 1:
        raise ConfigurationError(
            "One thing at a time is looked at: an INDEX, a --table or a --collection.",
            next_step="Run: embed-pipeline doctor --help",
        )
    if given["index"] is not None:
        from embed_pipeline.doctor import declared

        return declared.diagnose(one_index(config, given["index"]), sample)
    if given["table"] is not None:
        return _table(given, sample)
    _require(given, "collection", "url")
    from embed_pipeline.doctor import collection

    return collection.diagnose(given["collection"], given["url"], given["vector"], given["text"], sample)


def _table(given: dict[str, Any], sample: int) -> Diagnosis:
    from embed_pipeline.doctor import table
    from embed_pipeline.documents.source import split_name

    _require(given, "table", "column")
    _require(given, "table", "database_url")
    place = table.Place(*split_name(given["table"]), given["column"], given["text"], given["key"])
    return table.diagnose(place, given["database_url"], sample)


def _require(given: dict[str, Any], option: str, needed: str) -> None:
    if not given[needed]:
        named = needed.replace("_", "-")
        raise ConfigurationError(f"--{option} needs --{named}.", next_step="Run: embed-pipeline doctor --help")


VERBS = (doctor,)
