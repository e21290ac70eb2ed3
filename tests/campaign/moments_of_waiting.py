"""Who waits for whom: nobody waits for what he has nothing to do with, and the application waits for nobody for long. v1 serves."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from tests.campaign import load, oracle
from tests.campaign.stage import SOON, Scene, Stage

TOGETHER = 3


def catalog_is_made_by_many(stage: Stage) -> None:
    """Several processes come at once to a database in which there is nothing of ours yet: all of them find what one of them makes."""
    with _another_database(stage) as url:
        with psycopg.connect(url, autocommit=True) as conn:
            load.prepare(conn, stage.run.load.keys)
        stage.run.url, own = url, stage.run.url
        together = [stage.run.start("register", "v1") for _ in range(TOGETHER)]
        stage.run.url = own
        outcomes = [stage.run.finish(each) for each in together]
        if any(outcome is None or "result" not in outcome for outcome in outcomes):
            stage.problem(f"the catalog was made by {TOGETHER} at once: {outcomes}")
        else:
            with psycopg.connect(url, autocommit=True) as conn:
                stage.run.problems += oracle.wrong_catalog(conn)


@contextmanager
def _another_database(stage: Stage) -> Iterator[str]:
    """An empty one on the same server."""
    name = f"campaign_{uuid.uuid4().hex}"
    with stage.run.connect() as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield urlsplit(stage.run.url)._replace(path=f"/{name}").geturl()
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def writers_pass_a_registration(stage: Stage) -> None:
    """A registration waits for a long transaction of the application. The others of the application do not wait behind it."""
    changed, other = stage.documents(2)
    with stage.transaction() as long:
        long.do("UPDATE articles SET body = %s WHERE id = %s", stage.text(), changed)
        stage.run.versions.append("v2")
        worker = stage.run.start("register", "v2")
        stage.blocked(worker, 0)
        stage.in_time("UPDATE articles SET body = %s WHERE id = %s", stage.text(), other)
    stage.run.finish(worker)
    stage.steps("v2", "register")
    stage.sync()


def full_comparison_passes_writers(stage: Stage) -> None:
    """A full comparison under a long transaction of the application. Nothing is off and nobody has filled v2: it finds nothing to do."""
    (changed,) = stage.documents(1)
    with stage.transaction() as long:
        long.do("UPDATE articles SET body = %s WHERE id = %s", stage.text(), changed)
        worker = stage.run.start("reconcile", "")
        stage.blocked(worker)
        if worker.running:
            stage.problem("the full comparison waits for a transaction of the application")
        queued = stage.ask("SELECT count(*) FROM embed_pipeline.change_queue WHERE version = 'v2'")
        if queued:
            stage.problem(f"the full comparison has queued {queued} documents of a version that its backfill has not come to")
    stage.run.finish(worker)
    stage.sync()


def cutover_passes_readers(stage: Stage) -> None:
    """A cutover while a transaction is open that has read the documents and locked one of them: there is nothing to wait for."""
    (locked,) = stage.documents(1)
    stage.steps("v2", "backfill", "ann_index", "gate")
    with stage.transaction() as reader:
        reader.do("CREATE TEMPORARY TABLE report AS SELECT count(*) FROM articles")
        reader.do("SELECT FROM articles WHERE id = %s FOR UPDATE", locked)
        worker = stage.run.start("cutover", "v2")
        stage.wait(lambda: not worker.running, "a cutover that has nobody to wait for", SOON)
    stage.run.finish(worker)
    stage.steps("v2", "cutover")


SCENES: tuple[Scene, ...] = (
    catalog_is_made_by_many,
    writers_pass_a_registration,
    full_comparison_passes_writers,
    cutover_passes_readers,
)
