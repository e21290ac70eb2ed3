"""Scenes that are more than one migration under one fault. Each takes a campaign with v1 serving and leaves it to the verdict."""

from __future__ import annotations

import time
from dataclasses import replace

from psycopg import sql

from tests.faults.campaign import oracle
from tests.faults.campaign.declared import faults_file
from tests.faults.campaign.faults import BETWEEN, Fault, Freeze, Kill, Pressure, migrate, struck
from tests.faults.campaign.scenario import Campaign

ANNOUNCED = """
SELECT doc_id FROM embed_pipeline.pending WHERE version = 'v1'
UNION ALL SELECT u.doc_id FROM embed_pipeline.inbox i CROSS JOIN unnest(i.doc_ids) AS u(doc_id)
"""
COMPARED = "SELECT count(*) FROM embed_pipeline.audit_events WHERE event = 'reconcile'"
# v2 serves after so many steps of a migration.
TO_CUTOVER = 5
# The whole road of a version that refines what serves until it serves itself: the step, its version, and what refines what serves afterwards.
REFINED: list[tuple[str, str, str | None]] = [
    ("cutover_refine", "v2", "v2"),
    ("backfill", "v2", "v2"),
    ("cutover_direct", "v1", None),
    ("cutover_refine", "v2", "v2"),
    ("ann_index", "v2", "v2"),
    ("gate", "v2", "v2"),
    ("cutover", "v2", None),
    ("rollback", "v1", "v2"),
    ("cutover_direct", "v1", None),
    ("cutover", "v2", None),
    ("retire", "v1", None),
]


def edits_then_rollback(run: Campaign, rounds: int) -> None:
    """Edits, inserts and deletes after the cutover, then a rollback: at once nothing is missing or stale on the old side."""
    run.start_load()
    migrate(run, Fault(), until=TO_CUTOVER)
    for number in range(rounds):
        run.complete("cutover", "v2")
        run.pass_time(0.3)
        # Under load: what was committed before the rollback began, and has not changed since, is there when it ends.
        with run.connect() as conn:
            before = oracle.texts(conn)
        run.count_strike("rollback under writes", "rollback")
        run.complete("rollback", "v1")
        with run.connect() as conn, oracle.snapshot(conn):
            now = oracle.texts(conn)
            queued = {row[0] for row in conn.execute(ANNOUNCED)}
            changed = {key for key in before.keys() | now.keys() if before.get(key) != now.get(key)}
            behind = oracle.differing(conn, "v1") - queued - changed
        if behind:
            run.problems.append(f"round {number}: {sorted(behind)[:5]} were behind on the old side after a rollback under writes")
        run.complete("cutover", "v2")
        _still_rollback(run, number)


def _still_rollback(run: Campaign, number: int) -> None:
    """The same with no dual-write worker alive: all of it is left to the rollback."""
    run.stop_syncs()
    syncs, run.syncs = run.syncs, 0
    run.pass_time(0.3)
    run.stop_load()
    with run.connect() as conn:
        behind = oracle.differing(conn, "v1")
    if not behind:
        run.problems.append(f"round {number}: the load changed nothing that a rollback could lose")
    run.count_strike("rollback, nothing dual-written", "rollback")
    run.complete("rollback", "v1")
    with run.connect() as conn:
        (old,) = [version for version in oracle.versions(conn) if version.name == "v1"]
        run.problems += [f"round {number}, at once after the rollback: {each}" for each in oracle.wrong_vectors(conn, old)]
    run.syncs = syncs
    run.start_load()


def bypassed(run: Campaign, rounds: int) -> None:
    """Change capture is off for a while: the full comparison finds exactly what differs, says so, and repairs it. Asked for, or because a
    worker that watches has seen it."""
    run.start_load()
    migrate(run, Fault(), until=TO_CUTOVER)
    for number in range(rounds):
        expected = _write_past_the_triggers(run)
        if number % 2:
            _repaired_by_itself(run)
            continue
        # Whoever watches would compare at once.
        syncs, run.syncs = run.syncs, 0
        # Nothing that is announced tells of it. Whoever reads the vectors knows.
        run.finish(run.start("rollback", "v1"))
        if run.done("rollback", "v1"):
            run.problems.append(f"rolled back to v1 while {expected['v1']} of its documents were not what they should be")
        outcome = run.finish(run.start("reconcile", ""))
        run.syncs = syncs
        if outcome is None or outcome.get("result") != expected:
            run.problems.append(f"the full comparison says {outcome}, the oracle {expected}")
        with run.connect() as conn:
            told = conn.execute(
                "SELECT detail -> 'queued', jsonb_array_length(detail -> 'rearmed') > 0 FROM embed_pipeline.audit_events "
                "WHERE event = 'reconcile' ORDER BY id DESC LIMIT 1"
            ).fetchone()
        if told != (expected, True):
            run.problems.append(f"the audit tells of {told}, the oracle of {expected} and of triggers that were off")
        run.settle()
        run.look()
        run.start_load()


def _write_past_the_triggers(run: Campaign) -> dict[str, int]:
    """How many documents of each version differ afterwards."""
    run.stop_load()
    run.settle()
    run.look()
    set_triggers(run, "DISABLE")
    run.count_strike("triggers disabled", "after the cutover")
    captured, run.load = run.load, replace(run.load, captured=False)
    run.start_load()
    time.sleep(0.5)
    run.stop_load()
    run.load = captured
    with run.connect() as conn:
        expected = {name: len(oracle.differing(conn, name)) for name in ("v1", "v2")}
    if not all(expected.values()):
        run.problems.append(f"nothing differs after writes past the triggers: {expected}")
    return expected


def _repaired_by_itself(run: Campaign) -> None:
    """A worker that watches sees that something was off."""
    with run.connect() as conn:
        compared = conn.execute(COMPARED).fetchone()
        run.wait(lambda: conn.execute(COMPARED).fetchone() != compared, "a full comparison that nobody had to ask for")
    run.settle()
    run.look()
    run.start_load()


def set_triggers(run: Campaign, action: str) -> None:
    """Our triggers only: the application's own derives its texts."""
    with run.connect() as conn:
        names = conn.execute(
            "SELECT tgname FROM pg_trigger WHERE tgrelid = 'articles'::regclass AND tgname LIKE 'embed_pipeline%'"
        ).fetchall()
        assert names
        for (name,) in names:
            conn.execute(sql.SQL("ALTER TABLE articles {} TRIGGER {}").format(sql.SQL(action), sql.Identifier(name)))


def cutover_against_retire(run: Campaign) -> None:
    """Back to the old version and away with it, at the same moment: one of them is refused, whichever comes second."""
    run.start_load()
    migrate(run, Fault(), until=TO_CUTOVER)
    run.finish(run.start("gate", "v1"))
    run.count_strike("cutover against retire", "retire")
    rivals = [run.start("cutover", "v1"), run.start("retire", "v1")]
    outcomes = [run.finish(rival) for rival in rivals]
    won = ["result" in outcome for outcome in outcomes if outcome is not None]
    if sum(won) != 1:
        run.problems.append(f"cutover against retire: {outcomes}")


def refined_until_it_serves(run: Campaign) -> None:
    """v2 puts in order what is found in v1 from its first partition on; workers die at every step, routes flip under searches."""
    run.changes = {"while_building": {"refine": True, "depth": 20}}
    run.versions = ["v1", "v2"]
    run.start_load()
    run.complete("register", "v2")
    run.finish(run.start("backfill", "v2", argument="00"))
    for step, version, refines in REFINED:
        struck(run, Kill(), step, version)
        with run.connect() as conn:
            now = conn.execute("SELECT refine_version FROM embed_pipeline.serving_pointer").fetchone()
        if now != (refines,):
            run.problems.append(f"after {step} {version} the route is refined by {now}, not by {refines}")
        run.pass_time(BETWEEN)
        if run.disturbed():
            return
    answers = [record for record in run.logs("reader") if "hits" in record]
    for route in (["v1", None], ["v1", "v2"], ["v2", None]):
        if not any(record["asked"] is None and record["route"] == route for record in answers):
            run.problems.append(f"no search took the route {route}, so nothing was shown of it")


def hot_documents(run: Campaign, seconds: float) -> None:
    """Few documents, written all the time, with workers that die and freeze: every window between two statements is open often.

    The application stands still now and then, so that what was lost is seen before the next write covers it.
    """
    run.versions = ["v1", "v2"]
    run.start_load()
    run.complete("register", "v2")
    # Nothing is filled yet: it is refused.
    run.finish(run.start("ann_index", "v2"))
    deadline = time.monotonic() + seconds
    faults = [Pressure(), Kill(), Freeze()]
    rounds = 0
    # Each fault once, however slow the machine is.
    while (rounds < len(faults) or time.monotonic() < deadline) and not run.disturbed():
        fault = faults[rounds % len(faults)]
        rounds += 1
        run.pressed = False
        run.strike_sync = lambda: None
        run.count_strike(f"hot documents, {fault.name}", "backfill")
        empty(run, "v2")
        worker = run.start("backfill", "v2", fault.arm(run, "backfill"))
        fault.act(run, "backfill", worker)
        run.finish(worker)
        run.complete("backfill", "v2")
        run.pass_time(0.5)
        run.stop_load()
        run.settle()
        run.look()
        run.start_load()


def empty(run: Campaign, version: str) -> None:
    """Every round fills the version anew, beside the dual-write. In Qdrant it only looks again: nobody can take all of its points
    away at one moment, and a point that is gone is no tombstone."""
    with run.connect() as conn, conn.transaction():
        if run.store["kind"] == "pgvector":
            # Whoever writes the version is waited for, with empty hands.
            conn.execute(f"LOCK TABLE embed_pipeline.docs__{version} IN SHARE ROW EXCLUSIVE MODE")  # type: ignore[arg-type]
            conn.execute(f"DELETE FROM embed_pipeline.docs__{version}")  # type: ignore[arg-type]
            conn.execute("DELETE FROM embed_pipeline.dead_letters WHERE version = %s", (version,))
        conn.execute("UPDATE embed_pipeline.partitions SET completed_at = NULL WHERE version = %s", (version,))


def reordered(run: Campaign) -> str:
    """Every answer of the candidate's model has its vectors in another order; how the gate judged."""
    run.versions = ["v1", "v2"]
    run.complete("register", "v2")
    faults_file(run.place).write_text("reordered")
    run.complete("backfill", "v2")
    run.complete("ann_index", "v2")
    faults_file(run.place).unlink()
    outcome = run.finish(run.start("gate", "v2"))
    return "" if outcome is None else str(outcome.get("result")).partition(":")[0]
