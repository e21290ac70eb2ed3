"""Respects a rollback: the version that it left serves again only with `--again`, or after a newer verdict."""

from __future__ import annotations

import psycopg

from embed_pipeline.catalog import serving, versions
from embed_pipeline.catalog.route import Kind
from embed_pipeline.catalog.serving import Pointer
from embed_pipeline.catalog.versions import Version
from embed_pipeline.errors import CutoverRefused


def respect_rollback(conn: psycopg.Connection, version: Version, route: Kind, *, again: bool) -> None:
    """CutoverRefused where somebody has rolled back from the version and nothing was judged since. `again`: let through, and in the audit.

    The evidence from before the rollback may still be fresh: it knows nothing of why the version was left.
    """
    found = serving.rolled_back(conn, version.index, version.name, route)
    if found is None or found.judged_since:
        return
    if not again:
        by_route = "" if route == "direct" else f" --route {route}"
        named = f"{version.index} {version.name}{by_route}"
        raise CutoverRefused(
            f"{version.name} of {version.index} was {found}.",
            next_step=f"Judge it again: embed-pipeline gate {named}; or serve it all the same: embed-pipeline cutover {named} --again",
            reason="rolled_back",
            by=found.actor,
            at=found.at.isoformat(),
            why=found.reason,
        )
    said = {"route": route, "by": found.actor, "at": found.at.isoformat(), "why": found.reason}
    versions.record_event(conn, version.index, "serve again", version=version.name, detail=said)


def require_target(conn: psycopg.Connection, pointer: Pointer, index: str, to: str | None) -> None:
    """CutoverRefused where a rollback would go back to another version than its caller means: to another one than `to`; or, where none is named,
    where it would undo a rollback. Typed twice, or sent again by a pipeline, it would serve what a person has just decided against."""
    route = pointer.previous_route
    assert route is not None
    # What makes the route another one than the one that serves.
    target = route.other or route.version
    if to is not None and to != target:
        raise CutoverRefused(
            f"A rollback of {index} goes back to {route}, and not to {to}.",
            next_step=f"Run: embed-pipeline rollback {index} --to {target}, or cut over: embed-pipeline cutover {index} {to}",
            reason="another_target",
            target=target,
        )
    if to is None and serving.last_move(conn, index) == "rollback":
        raise CutoverRefused(
            f"{index} was rolled back already: {pointer.route} serves, and another rollback would undo that and serve {route} again.",
            next_step=f"If that is meant: embed-pipeline rollback {index} --to {target}",
            reason="rolled_back_already",
            target=target,
        )


def require_confirmed(index: str, version: str, confirm: str | None, how: str) -> None:
    """CutoverRefused where nobody has said the version's name: what serves is a person's word, never what a launch of everything brings along."""
    if confirm == version:
        return
    said = f"`confirm` is {confirm!r}" if confirm else "nobody has confirmed it"
    raise CutoverRefused(
        f"{index} is to be cut over to {version}, and {said}, so nothing was moved.", next_step=how, reason="not_confirmed"
    )
