"""The verb that takes an index out again: remove."""

from __future__ import annotations

from pathlib import Path

import click

from embed_pipeline.cli.verb import Output, Verb, as_values, one_index, with_config
from embed_pipeline.errors import ConfigurationError

# Where no declaration says for how long an index has to be unread.
UNREAD_SECONDS = 3_600.0

EXAMPLES = """\b
Examples:
  embed-pipeline remove docs                     says what would go and what stays
  embed-pipeline remove docs --confirm docs
  embed-pipeline remove --everything --database-url URL --confirm DATABASE"""


@click.command(cls=Verb, epilog=EXAMPLES)
@click.argument("index", required=False)
@click.option("--everything", is_flag=True, help="All indexes of the database, and the catalog.")
@click.option("--confirm", metavar="NAME", help="The index again, or the database's name; without it nothing is removed.")
@click.option("--anyway", is_flag=True, help="Although it serves and is read.")
@click.option("--fields", is_flag=True, help="Take our fields out of an adopted collection as well.")
@click.option("--database-url", help="Where it is, when no declaration says so any more.")
@with_config
def remove(
    index: str | None,
    everything: bool,
    confirm: str | None,
    anyway: bool,
    fields: bool,
    database_url: str | None,
    config: Path,
    as_json: bool,
) -> None:
    """Take INDEX out of its database and its store, or --everything. The documents stay."""
    from embed_pipeline.migrate import remove as removing
    from embed_pipeline.postgres.connection import connect, resolve_url

    if (index is None) is not everything:
        raise ConfigurationError("remove takes an INDEX or --everything.", next_step="Run: embed-pipeline remove --help")
    if everything and database_url is None:
        raise ConfigurationError("--everything needs --database-url.", next_step="Run: embed-pipeline remove --help")
    output, unread = Output(as_json), UNREAD_SECONDS
    if database_url is None and index is not None:
        spec = one_index(config, index)
        database_url, unread = spec.database_url, spec.retire.unread_seconds
    with connect(resolve_url(database_url), autocommit=True) as conn:
        found = removing.plan(conn, index, fields=fields)
        tell = output.text if confirm is None else output.note
        for each in found.goes:
            tell(f"goes: {each.what}  (lock: {each.lock})")
        for stays in found.stays:
            tell(f"stays: {stays}")
        if confirm is not None:
            removing.remove(conn, index, confirm, unread_seconds=unread, anyway=anyway, fields=fields)
            output.text(f"{index or 'everything'}: removed. A declaration that is still there would register it again.")
        else:
            output.text("Nothing was removed: --confirm does it. First take the declaration away, and stop what works on it.")
    output.result({**as_values(found), "removed": confirm is not None})


VERBS = (remove,)
