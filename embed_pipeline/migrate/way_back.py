"""What a rollback has decided: the version that was left serves again only by a word that says so, or after a newer judgement."""

from __future__ import annotations

import psycopg

from embed_pipeline.catalog import serving, versions
from embed_pipeline.catalog.route import Kind
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


def require_confirmed(index: str, version: str, confirm: str | None, how: str) -> None:
    """CutoverRefused where nobody has said the version's name: what serves is a person's word, never what a launch of everything brings along."""
    if confirm == version:
        return
    said = f"`confirm` is {confirm!r}" if confirm else "nobody has confirmed it"
    raise CutoverRefused(
        f"{index} is to be cut over to {version}, and {said}, so nothing was moved.", next_step=how, reason="not_confirmed"
    )
