"""Publishes the serving version to clients that read the store directly, as an alias that follows the pointer.

The pointer and the store share no transaction. So a telling reads the pointer anew, one telling at a time: the last one to speak has
read what the last move left. Every move tells after its commit; a telling that failed or died is made up for by the next one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg

from embed_pipeline.catalog import serving
from embed_pipeline.errors import AliasNotUpdated, EmbedPipelineError, Stopped
from embed_pipeline.postgres import failures, turns
from embed_pipeline.postgres.session import Line
from embed_pipeline.signals import signal

if TYPE_CHECKING:
    from embed_pipeline.index.handle import OpenIndex

# Another telling is one or two requests to the store.
TURN_SECONDS = 60.0


def tell(index: OpenIndex) -> None:
    """Tell the store which version serves, whatever was told before. AliasNotUpdated when that fails: the pointer stays where it is.

    Asked over a connection of its own: after a move whose answer was lost there is no other.
    """
    serves = ""

    def say(conn: psycopg.Connection) -> None:
        nonlocal serves
        with _one_at_a_time(conn, index.name):
            pointer = serving.read(conn, index.name)
            if pointer.version is None:
                return
            serves = pointer.version
            signal("readers.telling")
            index.store(index.version(conn, serves)).serve(conn, pointer.generation)

    try:
        with failures.as_sentences(), Line(index) as line:
            line.repeat(say)
    except EmbedPipelineError as problem:
        raise AliasNotUpdated(
            f"{serves or 'The version that the catalog says'} serves {index.name}: the move is committed, but the "
            f"store's alias could not be updated: {problem.message}",
            next_step=f"Run: embed-pipeline cutover {index.name} {serves or 'VERSION'}; until then they see the version before.",
        ) from problem


@contextmanager
def _one_at_a_time(conn: psycopg.Connection, index: str) -> Iterator[None]:
    name = f"embed_pipeline.readers.{index}"
    deadline = time.monotonic() + TURN_SECONDS
    while not turns.try_to_take(conn, name, "of_session"):
        if time.monotonic() > deadline:
            raise Stopped(
                f"another process has been updating the alias for {TURN_SECONDS:.0f} s{turns.held_by(conn, name)}.",
                reason="another_run",
            )
        signal("readers.waiting")
        time.sleep(turns.PAUSE)
    try:
        yield
    finally:
        turns.end(conn, name, "of_session")
