"""Who waits for whom: an application with one long transaction on the documents, versions beside a slow one, many who come first."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import LiteralString

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from tests.conftest import BARE
from tests.faults.campaign import load as application
from tests.faults.campaign import oracle
from tests.faults.campaign.declared import faults_file, space
from tests.faults.campaign.load import FIRST
from tests.faults.campaign.stage import QUEUED, Scene, Stage
from tests.faults.campaign.worker import Worker

LONG, SHORT, LOCKED = FIRST, FIRST + 1, FIRST + 2
# Processes that find no catalog, all at once.
MANY = 3
TIMEOUT_SECONDS = 1
WAITING = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE 'campaign-%' AND wait_event_type = 'Lock'
"""
# A turn is tried and never waited for in the server: by its last statement one sees who tries.
ARRIVED = """
SELECT count(DISTINCT application_name) FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE 'campaign-%'
  AND (wait_event_type = 'Lock' OR starts_with(query, 'SELECT pg_try_advisory_lock'))
"""


def registration_beside_a_long_transaction(stage: Stage) -> None:
    """The application has a transaction open that has changed a document: a version is registered all the same."""
    stage.run.count_strike("a long transaction", "register")
    stage.run.versions.append("v2")
    with stage.transaction() as long:
        long.do("UPDATE articles SET body = %s WHERE id = %s", stage.text(), LONG)
        outcome = stage.run.finish(stage.run.start("register", "v2"))
        if outcome is None or "result" not in outcome:
            stage.problem(f"a registration is held up by a transaction of the application: {outcome}")
        stage.in_time("UPDATE articles SET body = %s WHERE id = %s", stage.text(), SHORT)
    stage.look()
    stage.sync()


def comparison_beside_a_long_transaction(stage: Stage) -> None:
    """Nothing has to be armed, so a full comparison waits for nobody; what a backfill has still to bring is not queued by it."""
    stage.sync()
    stage.run.count_strike("a long transaction", "full comparison")
    with stage.transaction() as long:
        long.do("UPDATE articles SET body = %s WHERE id = %s", stage.text(), LONG)
        worker = stage.run.start("reconcile", "")
        stage.wait(lambda: stage.waits(worker) or not worker.running, "the end of a full comparison")
        if worker.running:
            stage.problem("a full comparison with nothing to arm waits for a transaction of the application")
            worker.kill()
        outcome = stage.run.finish(worker)
        queued = stage.ask(QUEUED)
    if queued:
        stage.problem(f"nothing but what a backfill has to bring was missing, and the full comparison queued {queued}: {outcome}")
    stage.sync()


def build_beside_a_long_transaction(stage: Stage) -> None:
    """The database ends statements after a second, as is meant for the application's. An index build waits longer than that."""
    stage.steps("v2", "backfill")
    stage.run.count_strike("statement timeout", "the index build")
    with _statement_timeout(stage):
        with stage.transaction() as long:
            long.do("LOCK TABLE embed_pipeline.docs__v2 IN ROW EXCLUSIVE MODE")
            builder = stage.run.start("ann_index", "v2")
            stage.blocked(builder, 2 * TIMEOUT_SECONDS)
        outcome = stage.run.finish(builder)
    if outcome is None or "result" not in outcome:
        stage.problem(f"a timeout that is meant for the application ended an index build: {outcome}")


@contextmanager
def _statement_timeout(stage: Stage) -> Iterator[None]:
    """For every session that begins meanwhile."""
    database = sql.Identifier(stage.ask("SELECT current_database()"))
    value = sql.Literal(f"{TIMEOUT_SECONDS}s")
    stage.do(sql.SQL("ALTER DATABASE {} SET statement_timeout = {}").format(database, value).as_string(None))
    yield
    stage.do(sql.SQL("ALTER DATABASE {} RESET statement_timeout").format(database).as_string(None))


def move_beside_a_long_transaction(stage: Stage) -> None:
    """A transaction that has changed one document, holds another one and has an old snapshot holds no cutover up."""
    stage.steps("v2", "ann_index", "gate")
    stage.run.count_strike("a long transaction", "cutover")
    with stage.transaction("REPEATABLE READ") as long:
        long.do("SELECT count(*) FROM articles")
        long.do("UPDATE articles SET body = %s WHERE id = %s", stage.text(), LONG)
        long.do("SELECT FROM articles WHERE id = %s FOR UPDATE", LOCKED)
        outcome = stage.run.finish(stage.run.start("cutover", "v2"))
        if outcome is None or "result" not in outcome:
            stage.problem(f"a transaction of the application held a cutover up: {outcome}")
    stage.run.complete("cutover", "v2")
    stage.sync()


def the_other_version_is_down(stage: Stage) -> None:
    """The model of v1 is down, which is standby. What serves is written all the same, and v1 may go."""
    stage.run.count_strike("the model of one version is down", "dual-write")
    words, stage.run.words = stage.run.words, f"{stage.run.words}|the provider is down"
    faults_file(stage.run.place).write_text(f"down in {space('v1')}")
    text = stage.text()
    stage.edit(SHORT, text)
    stage.sync()
    faults_file(stage.run.place).unlink()
    title = stage.ask("SELECT title FROM articles WHERE id = %s", SHORT)
    if stage.hash_of("v2", SHORT) != hashlib.sha256(f"{title}\n\n{text}".encode()).digest():
        stage.problem("v2 serves and has to wait because the model of v1 is down")
    stage.run.words = words
    # With it goes what it was to try again in a few seconds.
    stage.steps("v1", "retire")


def many_come_first(stage: Stage) -> None:
    """On a database without a catalog several processes register the first version at once: one makes the catalog, all are served."""
    stage.run.count_strike("several at once", "the first registration of all")
    with _fresh_database(stage) as url:
        own, stage.run.url = stage.run.url, url
        # A transaction sees the sessions as they were when it looked first: another connection counts.
        with psycopg.connect(url) as other, psycopg.connect(url, autocommit=True) as looking:
            # Who is first stands here until all have come.
            other.execute("CREATE SCHEMA embed_pipeline")
            workers = [stage.run.start("register", "v1") for _ in range(MANY)]
            stage.wait(lambda: _waiting(looking, ARRIVED) == MANY, "the arrival of all at a database without a catalog")
            other.rollback()
        for worker in workers:
            _registered(stage, worker)
        stage.run.url = own


def first_registration_beside_a_long_transaction(stage: Stage) -> None:
    """Before anything is captured a transaction has changed a document, and goes on. The first registration waits for it; the application's
    other transactions, which have a timeout, do not. What it has changed is seen by whoever fills the version."""
    stage.run.count_strike("a long transaction", "the first registration of all")
    with _fresh_database(stage) as url:
        own, stage.run.url = stage.run.url, url
        with psycopg.connect(url) as long, psycopg.connect(url, autocommit=True) as looking:
            long.execute("UPDATE articles SET body = %s WHERE id = 1", (stage.text(),))
            worker = stage.run.start("register", "v1")
            stage.wait(lambda: _waiting(looking) == 1 or not worker.running, "a registration at the documents")
            with psycopg.connect(url) as hurried, stage.timed():
                hurried.execute("SET LOCAL statement_timeout = '3s'")
                hurried.execute("UPDATE articles SET body = %s WHERE id = 2", (stage.text(),))
            if not worker.running:
                stage.run.finish(stage.run.start("backfill", "v1"))
        _registered(stage, worker)
        stage.run.finish(stage.run.start("backfill", "v1"))
        stage.sync()
        with psycopg.connect(url, autocommit=True) as fresh:
            found = [each for version in oracle.versions(fresh)[:1] for each in oracle.wrong_vectors(fresh, version)]
        stage.run.problems += [f"after the first registration beside a long transaction: {each}" for each in found]
        stage.run.url = own


def frozen_in_the_first_registration(stage: Stage) -> None:
    """The first registration of an index freezes while it holds the lock on the documents; the application writes on, with a timeout of its
    own."""
    with _fresh_database(stage) as url:
        own, stage.run.url = stage.run.url, url
        worker = stage.freezing("register.locked", "register", "v1")
        with psycopg.connect(url) as fresh, stage.timed():
            fresh.execute("SET LOCAL statement_timeout = '3s'")
            fresh.execute("UPDATE articles SET body = %s WHERE id = 1", (stage.text(),))
        stage.wake(worker)
        _registered(stage, stage.run.start("register", "v1"))
        stage.run.url = own


def _waiting(conn: psycopg.Connection, query: LiteralString = WAITING) -> int:
    row = conn.execute(query).fetchone()
    assert row is not None
    return int(row[0])


def _registered(stage: Stage, worker: Worker) -> None:
    outcome = stage.run.finish(worker)
    if outcome is None or "result" not in outcome:
        stage.problem(f"the first version of all was not registered: {outcome}")


@contextmanager
def _fresh_database(stage: Stage) -> Iterator[str]:
    """The application's table, and nothing of ours."""
    with stage.run.connect() as conn:
        ours = conn.info.dbname
        name = f"{ours}_fresh"
        names = {"name": sql.Identifier(name), "template": sql.Identifier(BARE)}
        conn.execute(sql.SQL("CREATE DATABASE {name} TEMPLATE {template} STRATEGY wal_log").format(**names))
        try:
            url = stage.run.load.url.replace(f"/{ours}", f"/{name}")
            assert conninfo_to_dict(url)["dbname"] == name
            with psycopg.connect(url, autocommit=True) as fresh:
                application.prepare(fresh, 1)
            yield url
        finally:
            with suppress(psycopg.errors.InvalidCatalogName):
                conn.execute(sql.SQL("DROP DATABASE {name} WITH (FORCE)").format(**names))


SCENES: tuple[Scene, ...] = (
    registration_beside_a_long_transaction,
    comparison_beside_a_long_transaction,
    build_beside_a_long_transaction,
    move_beside_a_long_transaction,
    the_other_version_is_down,
    many_come_first,
    first_registration_beside_a_long_transaction,
    frozen_in_the_first_registration,
)
