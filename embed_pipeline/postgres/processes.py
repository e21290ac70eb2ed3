"""A PostgreSQL server as the operating system sees it: its pid file, whether it lives and answers, starting one."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from embed_pipeline.postgres import launch
from embed_pipeline.postgres.unprivileged import RunAs

LOOPBACK = "127.0.0.1"
# Sent before a real login: every PostgreSQL answers S or N to it, and nothing else does.
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)
# Below the range from which Linux (32768) and macOS (49152) take the ports of outgoing connections.
_FIRST_PORT, _PORTS = 20000, 12000
# A process id that the kernel never hands out (Linux's limit is 2**22).
_NO_PROCESS = 2**31 - 1


@dataclass(frozen=True)
class Postmaster:
    """The content of `postmaster.pid`: a claim, to be checked by `alive` and `answers`."""

    pid: int
    data_dir: str
    started: str
    port: int
    ready: bool

    @property
    def identity(self) -> str:
        """Tells one run of the server from the next, also when the process id comes round again."""
        return f"{self.pid}:{self.started}"


def read_postmaster(data_dir: Path) -> Postmaster | None:
    """The pid file of a data directory; None when there is none, or when it is still being written."""
    try:
        lines = (data_dir / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return None
    if len(lines) < 4 or not lines[0].lstrip("-").isdigit():
        return None
    ready = len(lines) > 7 and lines[7].strip() == "ready"
    return Postmaster(int(lines[0]), lines[1], lines[2], int(lines[3]), ready)


def alive(postmaster: Postmaster) -> bool:
    """Whether that server is a living process: no zombie, and no stranger that was given the same process id."""
    found = _look_up(postmaster.pid)
    return found is not None and found[0] not in "ZX" and postmaster.data_dir in found[1]


def exists(pid: int) -> bool:
    """Whether the process lives, whatever it runs; a zombie does not."""
    found = _look_up(pid)
    return found is not None and found[0] not in "ZX"


def answers(port: int) -> bool:
    """Whether a PostgreSQL listens on this loopback port. Costs one connection, no login."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=5) as connection:
            connection.sendall(_SSL_REQUEST)
            return connection.recv(1) in (b"S", b"N")
    except OSError:
        return False


def free_port(seed: int, preferred: int | None = None) -> int:
    """A loopback port nobody listens on: the preferred one if it is free, else the next free one after `seed`."""
    candidates = [] if preferred is None else [preferred]
    candidates += [_FIRST_PORT + (seed + step) % _PORTS for step in range(_PORTS)]
    for port in candidates:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            # As PostgreSQL does: a port in TIME_WAIT is free, one that somebody listens on is not.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
    raise OSError("no free port on 127.0.0.1")


def disown_dead_pid(data_dir: Path) -> None:
    """Make a pid file whose server is dead harmless, if its process id now belongs to a zombie or a stranger.

    PostgreSQL would refuse to start for ever. Only the number is replaced: the rest of the file lets PostgreSQL
    itself check that no backend of the killed server is left.
    """
    path = data_dir / "postmaster.pid"
    lines = path.read_text().splitlines() if path.exists() else []
    if path.exists() and not lines:
        # What a crash of the machine can leave; PostgreSQL asks for its removal.
        path.unlink()
    claim = read_postmaster(data_dir)
    if claim is not None and not alive(claim) and claim.pid != _NO_PROCESS:
        # Written in place, so that the file keeps its owner.
        path.write_text("\n".join([str(_NO_PROCESS), *lines[1:]]) + "\n")


def run(program: Path, arguments: list[str], run_as: RunAs) -> tuple[int, str]:
    """Run a program to its end; its exit code and everything it wrote."""
    done = subprocess.run(
        _command(program, arguments, run_as, detach=False),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=_environment(),
        text=True,
        errors="replace",
        check=False,
    )
    return done.returncode, done.stdout


def run_detached(program: Path, arguments: list[str], run_as: RunAs, log: Path) -> int:
    """Start a program that outlives us, its output appended to `log` (mode 0600); its process id."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        done = subprocess.run(
            _command(program, arguments, run_as, detach=True),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=descriptor,
            env=_environment(),
            text=True,
            check=True,
        )
    finally:
        os.close(descriptor)
    return int(done.stdout)


def _command(program: Path, arguments: list[str], run_as: RunAs, *, detach: bool) -> list[str]:
    how = json.dumps({**asdict(run_as), "detach": detach})
    return [sys.executable, "-I", "-S", str(launch.__file__), how, str(program), *arguments]


def _environment() -> dict[str, str]:
    # The server outlives its caller and may run as another user: it has no business with the caller's API keys.
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH") if name in os.environ}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}


def _look_up(pid: int) -> tuple[str, str] | None:
    """State letter and command of a process, None when it is gone. In the middle of exec the command is empty."""
    if not sys.platform.startswith("linux"):
        done = subprocess.run(["ps", "-o", "stat=,command=", "-p", str(pid)], capture_output=True, text=True, check=False)
        state, _, command = done.stdout.strip().partition(" ")
        return (state[0], command) if state else None
    try:
        # The state follows the command's name, which stands in brackets and may hold anything.
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (OSError, IndexError):
        return None
    return state, command
