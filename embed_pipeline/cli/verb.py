"""What every verb shares: its options, where its output goes, and how a refusal becomes one sentence and an exit code.

Only click and the standard library are imported here; `embed-pipeline --help` must not wait for numpy.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from embed_pipeline.errors import EmbedPipelineError

if TYPE_CHECKING:
    from embed_pipeline.spec import IndexSpec

DEFAULT_CONFIG = Path("assets")

REFUSED = 1
UNDECIDED = 3
NEEDS_A_PERSON = 4
INTERRUPTED = 130

KEPT = "what is done is kept; the same command goes on from there."

AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])


class Output:
    """Where a verb writes: with --json exactly one JSON value per result on stdout, otherwise text; progress on stderr."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def text(self, line: str) -> None:
        """A line for people; nothing with --json."""
        if not self.as_json:
            click.echo(line)

    def result(self, value: Any, *, indent: int | None = 2) -> None:
        """The result for machines; nothing without --json."""
        if self.as_json:
            click.echo(json.dumps(value, default=_plain, indent=indent, ensure_ascii=False))

    def note(self, line: str) -> None:
        """A line about the work in progress."""
        click.echo(line, err=True)


class Verb(click.Command):
    """A command whose errors are sentences. Anything that is no EmbedPipelineError and no lost database is a defect."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with said_in_json(ctx, list(args)):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with said_in_json(ctx, ["--json"] if ctx.params.get("as_json") else []):
                return super().invoke(ctx)
        except (click.exceptions.Exit, click.ClickException, click.Abort):
            raise
        except EmbedPipelineError as problem:
            _fail(ctx, problem)
        except KeyboardInterrupt:
            click.echo(f"interrupted: {KEPT}", err=True)
            said = {"error": "Interrupted.", "code": "interrupted", "next_step": KEPT, "fields": {}}
            Output(bool(ctx.params.get("as_json"))).result(said)
            ctx.exit(INTERRUPTED)
        except Exception as problem:
            known = _database_problem(problem)
            if known is None:
                raise
            _fail(ctx, known)


@contextmanager
def said_in_json(ctx: click.Context, args: Sequence[str]) -> Iterator[None]:
    """A wrong use of the command line is one JSON value on stdout too, where the arguments ask for JSON."""
    try:
        yield
    except click.UsageError as problem:
        if "--json" in args:
            step = f"Run: {ctx.command_path} --help"
            Output(True).result({"error": problem.format_message(), "code": "usage", "next_step": step, "fields": {}})
        raise


def _fail(ctx: click.Context, problem: EmbedPipelineError) -> None:
    click.echo(f"error: {' '.join(str(problem).split())}", err=True)
    Output(bool(ctx.params.get("as_json"))).result(problem.as_values())
    ctx.exit(problem.exit_code)


def _database_problem(problem: Exception) -> EmbedPipelineError | None:
    """A sentence for a server that went away, is full, or refuses this role; None for everything else."""
    import psycopg

    from embed_pipeline.postgres import failures

    return failures.sentence(problem) if isinstance(problem, psycopg.Error) else None


def with_json(function: AnyFunction) -> AnyFunction:
    """The option --json."""
    return click.option("--json", "as_json", is_flag=True, help="Machine-readable result on stdout, nothing else there.")(
        function
    )


def with_config(function: AnyFunction) -> AnyFunction:
    """The options --config and --json."""
    option = click.option(
        "--config",
        type=click.Path(path_type=Path),
        default=DEFAULT_CONFIG,
        show_default=True,
        help="A defs.yaml, or a folder with some in it.",
    )
    return with_json(option(function))


def terminal_width() -> int | None:
    """Columns of the terminal that a result is written to; None where there is none, and lines may be as long as they are."""
    return max(shutil.get_terminal_size().columns, 40) if sys.stdout.isatty() else None


def one_index(config: Path, name: str) -> IndexSpec:
    """The declared index `name`; no other declaration matters. ConfigurationError names those there are."""
    from embed_pipeline.configuration import load_index

    return load_index(config, name)


def write_plot(output: Output, path: Path, draw: Callable[[], bytes] | None, *, kept: str) -> None:
    """Write a picture; what it is of is kept in any case."""
    if draw is None:
        output.note("there is nothing to draw: no held-out set was used.")
        return
    write(output, path, draw(), what="picture", option="--plot", kept=kept)


def write(output: Output, path: Path, content: bytes, *, what: str, option: str, kept: str) -> None:
    """Write a file that a verb was asked for besides."""
    try:
        path.write_bytes(content)
    except OSError as problem:
        raise EmbedPipelineError(
            f"The {what} cannot be written to {path} ({problem.strerror}); {kept} is stored.",
            next_step=f"Name another file with {option}.",
        ) from None
    output.note(f"{what} in {path}")


@contextmanager
def until_signalled() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; the handlers before are put back."""
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def as_values(value: Any) -> Any:
    """A dataclass or a named tuple as a dictionary; what it holds as well."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_values(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if hasattr(value, "_asdict"):
        return {name: as_values(each) for name, each in value._asdict().items()}
    if isinstance(value, Mapping):
        return {key: as_values(each) for key, each in value.items()}
    return [as_values(each) for each in value] if isinstance(value, list | tuple) else value


def _plain(value: Any) -> Any:
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "item"):
        return value.item()  # a number of numpy
    raise TypeError(f"{type(value).__name__} has no JSON form")
