"""Faults at every step of a migration, under an application that writes and reads; the oracle has the last word.

Each scenario goes on with seed after seed until SOAK_SECONDS are over. A failure names its seed. docs/faults.md says what each is about.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from embed_pipeline.postgres import embedded
from tests.conftest import SETTINGS
from tests.faults.campaign import oracle, scenes
from tests.faults.campaign.faults import BadModel, Fault, Freeze, Kill, KillChunked, Restart, Twins, migrate
from tests.faults.campaign.scenario import Campaign
from tests.faults.campaign.server_faults import ROOM_MB, Cut, FullDisk, Hurried, LostAnswer
from tests.harness.postgres.small_disk import mounted
from tests.harness.strikes import SECONDS, SEED

pytestmark = pytest.mark.soak

Make = Callable[..., Campaign]
# Soon enough to be seen in the time that a worker is stopped.
FROZEN_MS = 500
FAULTS: list[Any] = [
    pytest.param(Fault, {}, id="no_fault"),
    pytest.param(Kill, {}, id="kill"),
    pytest.param(Freeze, {"syncs": 2, "frozen_ms": FROZEN_MS}, id="freeze"),
    pytest.param(Twins, {"syncs": 2}, id="twins"),
    pytest.param(BadModel, {}, id="bad_model"),
    pytest.param(Fault, {"truncates": True}, id="truncate"),
    pytest.param(KillChunked, {"chunked": True}, id="chunked"),
    pytest.param(Cut, {}, id="cut"),
    pytest.param(LostAnswer, {"proxied": True}, id="lost_answer"),
    pytest.param(Hurried, {}, id="statement_timeout"),
]


def seeds() -> Iterator[int]:
    """Seeds, until the time is over; at least one."""
    deadline = time.monotonic() + SECONDS
    for seed in itertools.count(SEED):
        yield seed
        if time.monotonic() > deadline:
            return


def one_migration(campaign: Make, fault: Fault, seed: int, **options: Any) -> None:
    run = campaign(seed, states=fault.states, words=fault.words, **options)
    run.start_load()
    migrate(run, fault)
    # What is asked for of a chunked version is chunks, which many texts may share.
    run.verdict(paid=isinstance(fault, (Kill, Twins, Cut, LostAnswer)) and not run.chunked)


@pytest.mark.parametrize(("fault", "options"), FAULTS)
def test_many_migrations(campaign: Make, fault: type[Fault], options: dict[str, Any]) -> None:
    """Whole migrations, struck at every step."""
    for seed in seeds():
        one_migration(campaign, fault(), seed, keys=300, writers=3, **options)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Restart]:
    """A server of this test's own, to be killed."""
    home = tmp_path / "server"
    embedded.ensure_running(home, settings=SETTINGS)
    yield Restart(home=home, settings=SETTINGS)
    embedded.stop(home)
    shutil.rmtree(home, ignore_errors=True)


def test_server_restarts(campaign: Make, own_server: Restart) -> None:
    """PostgreSQL dies in the middle of each step; workers are started again, the application connects again."""
    server = embedded.ensure_running(own_server.home)
    for seed in seeds():
        with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
            admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(f"round_{seed}")))
        one_migration(campaign, own_server, seed, keys=300, writers=3, url=server.url(f"round_{seed}"), server_dies=True)


@pytest.fixture
def full_disk(own_server: Restart) -> Iterator[FullDisk]:
    """A small disk for the tables of the versions, on a server of this test's own."""
    server = embedded.ensure_running(own_server.home)
    with mounted(server.data_dir) as (tablespace, room):
        with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
            admin.execute(sql.SQL("CREATE TABLESPACE tiny LOCATION {}").format(sql.Literal(str(tablespace))))
        room(ROOM_MB)
        yield FullDisk(room=room)
        embedded.stop(own_server.home)


def test_full_disk(campaign: Make, own_server: Restart, full_disk: FullDisk) -> None:
    """No room for vectors in each step; the application's own tables and the queue are elsewhere, and it never notices."""
    server = embedded.ensure_running(own_server.home)
    for seed in seeds():
        with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
            admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(f"round_{seed}")))
        one_migration(campaign, full_disk, seed, keys=300, writers=3, url=server.url(f"round_{seed}"), tablespace="tiny")
        # The next one has the small disk to itself.
        with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(f"round_{seed}")))


def test_rollback_loses_nothing(campaign: Make) -> None:
    for seed in seeds():
        run = campaign(seed, keys=300, writers=3)
        scenes.edits_then_rollback(run, rounds=2)
        run.verdict()


def test_capture_bypassed(campaign: Make) -> None:
    for seed in seeds():
        # While capture is off, everything that an auditor looks for is there.
        run = campaign(seed, keys=300, writers=3, audited=False)
        scenes.bypassed(run, rounds=2)
        run.verdict()


def test_cutover_against_retire(campaign: Make) -> None:
    for seed in seeds():
        run = campaign(seed)
        scenes.cutover_against_retire(run)
        run.verdict()


def test_refined_until_it_serves(campaign: Make) -> None:
    for seed in seeds():
        # So many that what the dual-write fills between a gate and its cutover is less than the tenth that makes evidence stale.
        run = campaign(seed, keys=2_000, writers=2)
        scenes.refined_until_it_serves(run)
        run.verdict()


def test_hot_documents(campaign: Make) -> None:
    for seed in seeds():
        run = campaign(
            seed, keys=16, writers=3, syncs=3, delay=0.02, hot=True, states=Freeze.states, words=Freeze.words, frozen_ms=FROZEN_MS
        )
        scenes.hot_documents(run, seconds=SECONDS / 2)
        run.verdict()


def test_reordered_answers_do_not_pass_the_gate(campaign: Make) -> None:
    """Nothing in an answer says which vector is whose: the oracle knows, the product has only the held-out set."""
    run = campaign()
    assert scenes.reordered(run) == "fail"
    with run.connect() as conn:
        found = oracle.problems(conn)
    assert sum("that its model did not make" in each for each in found) > run.load.keys / 2
