"""A machine whose cable is pulled while it holds a turn. Machines are network namespaces: root and iproute2 are needed."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import psycopg
import pytest

from embed_pipeline.postgres import embedded
from tests.harness import hosts

ROOT = Path(__file__).parents[3]
# As a run holds its partition: with nothing under way just then.
HOLDS = """
import sys, time
from embed_pipeline.postgres.connection import connect
conn = connect(sys.argv[1], autocommit=True)
conn.execute("SELECT pg_advisory_lock(7)")
time.sleep(100_000)
"""
HELD = (
    "SELECT a.client_addr::text FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' AND l.granted"
)


def waited_for(conn: psycopg.Connection, holders: set[str], seconds: float) -> bool:
    """Whether these hosts, and no others, came to hold the turn within the time."""
    deadline = time.monotonic() + seconds
    while {row[0].split("/")[0] for row in conn.execute(HELD)} != holders:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


@pytest.mark.soak
def test_a_machine_that_is_cut_off_gives_its_turn_back(tmp_path: Path) -> None:
    """The kernel's own defaults take two hours."""
    if why := hosts.missing():
        pytest.skip(why)
    home = tmp_path / "pg"
    server = embedded.ensure_running(home, settings={"listen_addresses": "*"})
    try:
        with (server.data_dir / "pg_hba.conf").open("a") as file:
            file.write("host all all 10.77.0.0/16 scram-sha-256\n")
        with psycopg.connect(server.url(), autocommit=True) as conn, hosts.hosts(1) as (one,):
            conn.execute("SELECT pg_reload_conf()")
            url = server.url().replace("127.0.0.1", hosts.CENTRE)
            one.start([sys.executable, "-c", HOLDS, url], os.environ | {"PYTHONPATH": str(ROOT)}, tmp_path, tmp_path / "log")
            assert waited_for(conn, {one.address}, 120), (tmp_path / "log").read_text()
            one.cut()
            assert waited_for(conn, set(), 300), "the server still waits for a machine that is gone"
    finally:
        embedded.stop(home)
