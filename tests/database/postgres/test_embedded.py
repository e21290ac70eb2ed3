"""The embedded server: started once by whoever comes first, and back after every kind of kill."""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

import embed_pipeline
from embed_pipeline.errors import DatabaseUnavailable
from embed_pipeline.postgres import binaries, embedded, processes
from embed_pipeline.postgres import home as homes

REPOSITORY = Path(embed_pipeline.__file__).parents[1]
FAST = {"fsync": "off"}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")

START = """
import sys
from pathlib import Path
from embed_pipeline.postgres import embedded
server = embedded.ensure_running(Path(sys.argv[1]), settings={"fsync": "off"})
print(server.port, flush=True)
sys.stdin.read()
"""

# Each one is a moment at which the process that starts the server is killed.
KILLED = {
    "before the data directory has its name": "embedded.write_state = die",
    "when the server was just launched": "launch = processes.run_detached\n"
    "processes.run_detached = lambda *given: (launch(*given), die())",
    "before the databases exist": "embedded._prepare = die",
}
DIE = """
import os, signal, sys
from pathlib import Path
from embed_pipeline.postgres import embedded, processes
def die(*given):
    os.kill(os.getpid(), signal.SIGKILL)
{moment}
embedded.ensure_running(Path(sys.argv[1]), settings={{"fsync": "off"}})
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home with nothing in it yet."""
    place = tmp_path / "project" / ".embed_pipeline"
    yield place
    embedded.stop(place)
    # pytest keeps the directories of three sessions; a cluster takes 40 MB.
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="session")
def used_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with data in it, the server running or not: for tests that begin by starting or stopping it themselves."""
    place = tmp_path_factory.mktemp("used") / ".embed_pipeline"
    yield place
    embedded.stop(place)
    shutil.rmtree(place, ignore_errors=True)


def python(code: str, home: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, str(home)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=REPOSITORY, stdin=pipe, stdout=pipe, text=True, start_new_session=True)


def postmaster(home: Path) -> processes.Postmaster:
    found = processes.read_postmaster(home / "postgres")
    assert found is not None
    return found


def kill_server(home: Path) -> None:
    """SIGKILL, and wait for the process to be gone."""
    victim = postmaster(home)
    os.kill(victim.pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while processes.alive(victim):
        assert time.monotonic() < deadline


def starts(home: Path) -> int:
    return (home / "postgres.log").read_text().count("starting PostgreSQL")


def modes(directory: Path) -> list[int]:
    return [place.stat().st_mode for place in directory.parents]


def installed_in(site: Path) -> Path:
    """A copy of the installed binaries' package, to be put on the import path."""
    for part in binaries.find_binaries().files:
        shutil.copytree(part, site / part.name, symlinks=True)
    return site


def test_first_start_leaves_databases_and_pgvector_ready(home: Path) -> None:
    server = embedded.ensure_running(home)
    with psycopg.connect(server.url(), autocommit=True) as conn:
        assert {"embed_pipeline", "dagster"} <= {row[0] for row in conn.execute("SELECT datname FROM pg_database")}
        assert conn.execute("SELECT '[1,2]'::vector <-> '[4,6]'").fetchone() == (5.0,)
        shown = "SELECT current_setting('fsync'), current_setting('listen_addresses'), current_setting('autovacuum')"
        assert conn.execute(shown).fetchone() == ("on", "127.0.0.1", "on")
    assert embedded.status(home).server == server


def test_server_asks_for_the_password_and_nothing_shows_it(used_home: Path) -> None:
    server = embedded.ensure_running(used_home, settings=FAST)
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        psycopg.connect(host=server.host, port=server.port, user="postgres", dbname="postgres")
    assert server.password not in f"{server} {embedded.status(used_home)}"
    assert server.password not in server.log.read_text()
    assert (used_home / "embed_pipeline.json").stat().st_mode & 0o077 == 0
    assert server.log.stat().st_mode & 0o077 == 0


def test_urls_name_the_driver_each_reader_needs() -> None:
    server = embedded.Server(20001, Path("/data"), Path("/log"), "secret")
    assert server.url() == "postgresql://postgres:secret@127.0.0.1:20001/embed_pipeline"
    assert server.sqlalchemy_url("a/b") == "postgresql+psycopg://postgres:secret@127.0.0.1:20001/a%2Fb"
    assert server.dagster_url() == "postgresql+psycopg2://postgres:secret@127.0.0.1:20001/dagster"


def test_simultaneous_starts_make_one_server(home: Path) -> None:
    starters = [python(START, home) for _ in range(3)]
    ports = {starter.communicate()[0] for starter in starters}
    assert ports == {f"{postmaster(home).port}\n"}
    assert starts(home) == 1


def test_server_outlives_a_killed_starter(used_home: Path) -> None:
    embedded.stop(used_home)
    starter = python(START, used_home)
    assert starter.stdout is not None
    assert starter.stdout.readline()
    before = postmaster(used_home)
    # All of its process group, as closing a terminal or a container's supervisor does.
    os.killpg(starter.pid, signal.SIGKILL)
    starter.communicate()
    embedded.ensure_running(used_home)
    assert postmaster(used_home) == before


@pytest.mark.parametrize("moment", KILLED)
def test_start_is_completed_after_the_starter_was_killed(home: Path, moment: str) -> None:
    starter = python(DIE.format(moment=KILLED[moment]), home)
    starter.communicate()
    assert starter.returncode == -signal.SIGKILL
    server = embedded.ensure_running(home, settings=FAST)
    with psycopg.connect(server.url()) as conn:
        assert conn.execute("SELECT '[3]'::vector <-> '[1]'").fetchone() == (2.0,)
    psycopg.connect(server.url("dagster")).close()
    assert list(home.glob(".initdb-*")) == []


def test_killed_server_comes_back_with_its_data(used_home: Path) -> None:
    embedded.stop(used_home)
    server = embedded.ensure_running(used_home)
    with psycopg.connect(server.url(), autocommit=True) as conn:
        conn.execute("CREATE TABLE kept AS SELECT 42 AS value")
        # The connection is still open: a backend of the killed server is there when the next one starts.
        kill_server(used_home)
        assert not embedded.status(used_home).running
        again = embedded.ensure_running(used_home)
    with psycopg.connect(again.url()) as conn:
        assert conn.execute("SELECT value FROM kept").fetchone() == (42,)
    assert "automatic recovery in progress" in server.log.read_text()


def test_start_waits_for_the_last_backend_of_a_killed_server(used_home: Path) -> None:
    server = embedded.ensure_running(used_home, settings=FAST)
    written = server.log.stat().st_size
    with psycopg.connect(server.url()) as conn, ThreadPoolExecutor() as pool:
        os.kill(conn.info.backend_pid, signal.SIGSTOP)
        try:
            kill_server(used_home)
            starting = pool.submit(embedded.ensure_running, used_home, settings=FAST)
            deadline = time.monotonic() + 30
            while b"still in use" not in server.log.read_bytes()[written:]:
                assert time.monotonic() < deadline
            assert not starting.done()
        finally:
            os.kill(conn.info.backend_pid, signal.SIGCONT)
        assert starting.result(timeout=30).data_dir == server.data_dir


def test_process_id_that_now_belongs_to_a_stranger_does_not_block_the_start(used_home: Path) -> None:
    embedded.ensure_running(used_home, settings=FAST)
    kill_server(used_home)
    pid_file = used_home / "postgres" / "postmaster.pid"
    owner = pid_file.stat().st_uid
    stranger = subprocess.Popen(["sleep", "600"], user=owner if os.geteuid() == 0 else None)
    try:
        lines = pid_file.read_text().splitlines()
        pid_file.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
        assert not embedded.status(used_home).running
        embedded.ensure_running(used_home, settings=FAST)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_there_is_nothing_to_stop_before_the_first_start(home: Path) -> None:
    assert embedded.stop(home) is False
    assert not home.exists()


def test_stop_ends_the_server_once(used_home: Path) -> None:
    server = embedded.ensure_running(used_home, settings=FAST)
    assert embedded.stop(used_home) is True
    assert embedded.stop(used_home) is False
    assert not processes.answers(server.port)
    assert embedded.status(used_home).server is None


def test_taken_port_is_given_up_for_another(used_home: Path) -> None:
    first = embedded.ensure_running(used_home, settings=FAST)
    embedded.stop(used_home)
    with socket.create_server((first.host, first.port)):
        second = embedded.ensure_running(used_home, settings=FAST)
    assert second.port != first.port
    psycopg.connect(second.url()).close()
    embedded.stop(used_home)
    assert embedded.ensure_running(used_home, settings=FAST).port == second.port


@needs_root
def test_root_starts_it_from_closed_directories_without_opening_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(0o700)
    monkeypatch.syspath_prepend(str(installed_in(closed / "venv")))
    assert binaries.find_binaries().bin_dir.is_relative_to(closed)
    home = closed / "project" / ".embed_pipeline"
    before = modes(closed / "x")
    try:
        server = embedded.ensure_running(home, settings=FAST)
        with psycopg.connect(server.url()) as conn:
            assert conn.execute("SELECT '[3]'::vector <-> '[1]'").fetchone() == (2.0,)
        assert Path(f"/proc/{postmaster(home).pid}").stat().st_uid == pwd.getpwnam("nobody").pw_uid
        assert server.data_dir == home / "postgres"
        assert modes(closed / "x") == before
    finally:
        embedded.stop(home)


@needs_root
def test_the_password_is_in_no_file_that_the_servers_user_may_read() -> None:
    """Other processes of that user read the data where the mode bits let them pass: the password is not in it."""
    place = Path(tempfile.mkdtemp(prefix="embed-pipeline-open-"))
    place.chmod(0o755)
    home = place / ".embed_pipeline"
    try:
        server = embedded.ensure_running(home, settings=FAST)
        holding = {}
        for words in ("", server.password):
            search = ["grep", "--recursive", "--files-with-matches", "--fixed-strings", "--no-messages", words, str(home)]
            found = subprocess.run(search, user="nobody", group=65534, extra_groups=[], capture_output=True, text=True, cwd="/")
            holding[words] = found.stdout.splitlines()
        assert len(holding[""]) > 900
        assert holding[server.password] == []
        assert (home / "embed_pipeline.json").stat().st_uid == 0
        assert "scram-sha-256" in (server.data_dir / "pg_hba.conf").read_text()
    finally:
        embedded.stop(home)
        shutil.rmtree(place)


@needs_root
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv takes the capability away")
def test_root_without_the_capability_keeps_the_data_below_var_tmp() -> None:
    closed = Path(tempfile.mkdtemp(prefix="embed-pipeline-closed-"))
    home = closed / ".embed_pipeline"
    before = modes(home)
    limited = ["setpriv", "--bounding-set=-dac_read_search", sys.executable, "-c", START, str(home)]
    try:
        done = subprocess.run(
            limited,
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(installed_in(closed / "venv"))},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        status = embedded.status(home)
        assert status.server is not None
        assert status.data_dir.parent.parent == Path("/var/tmp")
        beside = (status.data_dir.parent / "embed_pipeline.json").stat()
        assert (beside.st_uid, beside.st_mode & 0o077) == (0, 0)
        assert "not in the project" in status.sentence
        assert not os.readlink(f"/proc/{postmaster(home).pid}/exe").startswith(str(closed))
        psycopg.connect(status.server.url()).close()
        assert modes(home) == before
    finally:
        embedded.stop(home)
        link = home / "postgres"
        if link.is_symlink():
            shutil.rmtree(link.resolve().parent)
        shutil.rmtree(closed)


def test_backend_killed_by_pgvector_is_explained(postgres_server: embedded.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    statements = embedded._QUERIES

    def illegal_instruction(name: str, /, **parts: sql.Composable) -> sql.Composed:
        if name == "probe":
            return sql.Composed([sql.SQL("SELECT pg_terminate_backend(pg_backend_pid())")])
        return statements(name, **parts)

    monkeypatch.setattr(embedded, "_QUERIES", illegal_instruction)
    with pytest.raises(DatabaseUnavailable, match=f"newer processor.*{binaries.BIN_DIR_VARIABLE}"):
        embedded._prepare(postgres_server)


def test_held_lock_is_waited_for_and_then_explained(home: Path) -> None:
    home.mkdir(parents=True)
    with (home / "postgres.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DatabaseUnavailable, match="Another process"):
            embedded.ensure_running(home, timeout=0)


def test_data_of_another_major_version_is_refused(home: Path) -> None:
    (home / "postgres").mkdir(parents=True)
    (home / "postgres" / "PG_VERSION").write_text("12\n")
    with pytest.raises(DatabaseUnavailable, match="made by PostgreSQL 12"):
        embedded.ensure_running(home)


def test_server_that_cannot_start_says_why_and_where_the_log_is(used_home: Path) -> None:
    embedded.stop(used_home)
    with pytest.raises(DatabaseUnavailable, match=r"no_such_setting.*postgres\.log"):
        embedded.ensure_running(used_home, settings={"no_such_setting": "1"})


def test_home_belongs_to_the_nearest_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(homes.HOME_VARIABLE)
    inner = tmp_path / "project" / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "project" / "dagster.yaml").touch()
    monkeypatch.chdir(inner)
    assert homes.default_home() == tmp_path / "project" / ".embed_pipeline"
    monkeypatch.setenv(homes.HOME_VARIABLE, str(tmp_path / "elsewhere"))
    assert homes.default_home() == tmp_path / "elsewhere"


def test_binaries_named_by_the_user_are_never_replaced_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(binaries.BIN_DIR_VARIABLE, str(tmp_path))
    with pytest.raises(DatabaseUnavailable, match=binaries.BIN_DIR_VARIABLE):
        binaries.find_binaries()
    for name in ("initdb", "postgres"):
        (tmp_path / name).touch()
    assert binaries.find_binaries() == binaries.Binaries(tmp_path, binaries.BIN_DIR_VARIABLE)


def test_no_binaries_at_all_says_how_to_get_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "SOURCES", [lambda: None])
    with pytest.raises(DatabaseUnavailable, match=r"pip install .embed-pipeline\[embedded\]"):
        binaries.find_binaries()
