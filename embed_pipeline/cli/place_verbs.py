"""Verbs of this machine: the embedded PostgreSQL and the demo."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from embed_pipeline.cli.verb import Output, Verb, with_json
from embed_pipeline.errors import ConfigurationError


class VerbGroup(click.Group):
    """A group whose commands are verbs."""

    command_class = Verb


@click.group(cls=VerbGroup)
def db() -> None:
    """The embedded PostgreSQL, used by every index without a database_url."""


@db.command()
@with_json
def start(as_json: bool) -> None:
    """Start it, and make it when there is none."""
    from embed_pipeline.postgres import embedded

    embedded.ensure_running()
    _say_status(Output(as_json))


@db.command()
@with_json
def stop(as_json: bool) -> None:
    """Stop it; the data stays."""
    from embed_pipeline.postgres import embedded

    output = Output(as_json)
    ran = embedded.stop()
    output.text("PostgreSQL is stopped." if ran else "PostgreSQL was not running.")
    output.result({"running": False, "ran": ran})


@db.command()
@with_json
def url(as_json: bool) -> None:
    """Print its URL, password included, for psql and other clients; starts it."""
    from embed_pipeline.postgres import embedded

    output = Output(as_json)
    address = embedded.ensure_running().url()
    output.text(address)
    output.result({"url": address})


@db.command("status")
@with_json
def db_status(as_json: bool) -> None:
    """Say whether it runs and where its data is. Starts nothing."""
    _say_status(Output(as_json))


def _say_status(output: Output) -> None:
    from embed_pipeline.postgres import embedded

    found = embedded.status()
    output.text(found.sentence)
    server: dict[str, Any] = {} if found.server is None else {"host": found.server.host, "port": found.server.port}
    output.result(
        {
            "running": found.running,
            "home": found.home,
            "data": found.data_dir,
            "log": found.log,
            **server,
            "sentence": found.sentence,
        }
    )


@click.command(cls=Verb)
@click.option(
    "--store", type=click.Choice(["pgvector", "qdrant"]), default="pgvector", help="Qdrant: in its client's local mode."
)
@click.option(
    "--layout", type=click.Choice(["collections", "named_vectors"]), default="collections", help="How versions lie in Qdrant."
)
@with_json
def demo(store: Any, layout: Any, as_json: bool) -> None:
    """One migration from end to end on real text, under traffic, with two real models."""
    from rich.console import Console

    try:
        story = import_module("embed_pipeline.demo.story")
    except ModuleNotFoundError as problem:
        raise ConfigurationError(
            f"The demo needs {problem.name}, which is not installed.", next_step="Run: pip install 'embed-pipeline[demo]'"
        ) from None
    # What it tells is progress when a machine waits for the facts.
    facts = story.run(console=Console(stderr=as_json), store=store, layout=layout)
    Output(as_json).result(facts)


VERBS = (demo, db)
