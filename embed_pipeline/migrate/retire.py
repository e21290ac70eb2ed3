"""Retire: drop a version's vectors, once it has been standby long enough and nobody reads it any more."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

from embed_pipeline.catalog import dead_letters, holdout_vectors, reads, serving, versions
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import queue
from embed_pipeline.errors import RetireRefused
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import readers
from embed_pipeline.migrate.cutover import only_mover
from embed_pipeline.migrate.register import CATALOG, in_short_lock
from embed_pipeline.postgres import holders
from embed_pipeline.signals import signal
from embed_pipeline.stores import registry


@dataclass(frozen=True)
class Retired:
    version: str
    freed_bytes: int


def retire(index: OpenIndex, name: str, confirm: str, reason: str = "", *, accept_unseen_reads: bool = False) -> Retired:
    """Stop dual-writing the version, then drop its vectors. Two steps: a crash between them is finished by the same command.

    `accept_unseen_reads`: somebody has looked that no reader on a standby still names the version; nothing here can see that.
    """
    if confirm != name:
        raise RetireRefused(
            f"The confirmation {confirm!r} does not name the version {name!r}; its vectors cannot be brought back.",
            next_step="Write --confirm and the name of the version, once you are sure.",
            reason="not_confirmed",
        )
    with index.connection() as conn, only_mover(conn, index):
        version = index.version(conn, name)
        if version.state != "retired":
            _refuse_in_use(conn, index, version)
            if not accept_unseen_reads:
                _refuse_unseen_reads(conn, index, version)
            in_short_lock(
                conn,
                lambda: _detach(conn, index, version, reason),
                what=f"retire {name}",
                table=f"the row of {name}",
                locked=CATALOG,
                against=holders.ANY_LOCK,
            )
        elif version.dropped_at is not None:
            raise RetireRefused(
                f"Version {name} of {index.name} is retired already.",
                next_step=f"Run: embed-pipeline status {index.name}",
                reason="retired_already",
            )
        signal("retire.detached")
        # A reader who still goes by an old alias must not be led to what is dropped now.
        readers.tell(index)
        store = index.store(version)
        freed = store.size_bytes(conn)
        if not store.tables():
            # In no transaction: a large collection takes minutes, and one that stands open meanwhile is ended as a frozen one.
            store.drop(conn)

        def drop() -> None:
            if store.tables():
                store.drop(conn)
            # Once more: a worker may have been at it until a moment ago.
            queue.forget_version(conn, index.name, name)
            dead_letters.forget(conn, index.name, name, None)
            holdout_vectors.forget(conn, index.name, name)
            versions.set_dropped(conn, version)
            versions.record_event(conn, index.name, "dropped", version=name, detail={"freed_bytes": freed})

        in_short_lock(
            conn,
            drop,
            what=f"drop the vectors of {name}",
            table=f"the vectors of {name}",
            locked=store.tables(),
            against=holders.ANY_LOCK,
        )
        return Retired(name, freed)


def _refuse_in_use(conn: psycopg.Connection, index: OpenIndex, version: Version) -> None:
    if version.state == "active":
        raise RetireRefused(
            f"{version.name} serves {index.name}.",
            next_step="Cut over to another version first; see embed-pipeline status.",
            reason="serves",
        )
    route = serving.read(conn, index.name).route
    if route is not None and route.other == version.name:
        raise RetireRefused(
            f"{version.name} is on the route that serves {index.name}: {route}.",
            next_step=f"Run: embed-pipeline cutover {index.name} {route.version}; then the same command again.",
            reason="on_the_route",
        )
    _refuse_only_complete(conn, index, version)
    rules = index.spec.retire
    versions.not_in_the_future(conn, version)
    reads.none_in_the_future(conn, version)
    if version.state == "standby":
        # By the clock that wrote it: this machine's may be another.
        soaked = versions.seconds_in_state(conn, version)
        if soaked < rules.soak_seconds:
            raise RetireRefused(
                f"{version.name} has been standby for {soaked:.0f} s of the {rules.soak_seconds} s in retire.soak_seconds; "
                "until then it is what a rollback returns to.",
                next_step="Wait, or lower retire.soak_seconds in the index's defs.yaml.",
                reason="soaking",
                seconds_left=round(rules.soak_seconds - soaked),
            )
    unread = reads.seconds_since(conn, version)
    if unread is not None and unread < rules.unread_seconds:
        raise RetireRefused(
            f"{version.name} of {index.name} was read {unread:.0f} s ago, within the {rules.unread_seconds} s of retire.unread_seconds.",
            next_step="Find the reader that still names this version, or wait.",
            reason="read_lately",
            seconds_ago=round(unread),
        )


def _refuse_only_complete(conn: psycopg.Connection, index: OpenIndex, version: Version) -> None:
    """While nothing serves, a complete version is not in use, and still all there is."""
    if version.state != "ready" or serving.read(conn, index.name).version is not None:
        return
    if all(each.name == version.name or each.state != "ready" for each in versions.live_versions(conn, index.name)):
        raise RetireRefused(
            f"{version.name} is the only complete version of {index.name}, and nothing serves: without it nothing could.",
            next_step=f"Cut over to it, or fill another version first; see embed-pipeline status {index.name}.",
            reason="only_complete",
        )


def _refuse_unseen_reads(conn: psycopg.Connection, index: OpenIndex, version: Version) -> None:
    """A standby can be searched and cannot note that it was."""
    number, names = reads.standbys(conn)
    if number:
        named = f" ({names})" if names else ""
        raise RetireRefused(
            f"{'A standby follows' if number == 1 else f'{number} standbys follow'} this server{named}: who reads {version.name} of "
            f"{index.name} there is not noted, so nobody can say that it is unread.",
            next_step="Look at the readers on the standbys; then the same command with --accept-unseen-reads.",
            reason="unseen_reads",
            standbys=number,
        )


def _detach(conn: psycopg.Connection, index: OpenIndex, version: Version, reason: str) -> None:
    """A distributor that has read this version as a live one commits first; from here on none does."""
    versions.transition(conn, index.name, version.name, "retired", event="retire", reason=reason)
    serving.forget_previous(conn, version)
    registry.refresh_views(conn)
    queue.forget_version(conn, index.name, version.name)
    dead_letters.forget(conn, index.name, version.name, None)
    reads.forget(conn, version)
