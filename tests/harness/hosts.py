"""Machines that are none: network namespaces of Linux, each with processes, an address and a cable of its own. Needs root and iproute2."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

# The machine that everything else runs on, as its hosts know it.
CENTRE = "10.78.0.1"


def missing() -> str:
    """Why there can be none here; empty where there can."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return "network namespaces need root and iproute2"
    name = f"ep-try-{os.getpid()}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return f"network namespaces cannot be made here: {tried.stderr.strip()}" if tried.returncode else ""


class Host:
    """One of them, `number` from 1 on."""

    def __init__(self, number: int) -> None:
        self.name, self.address = f"ep-host-{number}", f"10.77.{number}.2"
        self._cable = f"ep{number}"
        self._number = number
        self._started: list[subprocess.Popen[bytes]] = []

    def plug_in(self) -> None:
        inside, mine = f"{self._cable}in", f"10.77.{self._number}.1"
        _ip("netns", "add", self.name)
        _ip("link", "add", self._cable, "type", "veth", "peer", "name", inside)
        _ip("link", "set", inside, "netns", self.name)
        _ip("addr", "add", f"{mine}/24", "dev", self._cable)
        _ip("link", "set", self._cable, "up")
        for words in (f"addr add {self.address}/24 dev {inside}", f"link set {inside} up", "link set lo up"):
            _ip("-n", self.name, *words.split())
        _ip("-n", self.name, "route", "add", "default", "via", mine)

    def start(self, command: list[str], environment: Mapping[str, str], folder: Path, log: Path) -> None:
        with log.open("ab") as out:
            words = ["ip", "netns", "exec", self.name, *command]
            self._started.append(subprocess.Popen(words, env=environment, cwd=folder, stdout=out, stderr=out))

    def cut(self) -> None:
        """Its cable is pulled: nothing is closed, nothing answers."""
        _ip("link", "set", self._cable, "down")

    def kill(self) -> None:
        """Its power is gone, for the processes on it."""
        found = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=False)
        for pid in found.stdout.split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        for each in self._started:
            each.wait()

    def unplug(self) -> None:
        self.kill()
        subprocess.run(["ip", "link", "del", self._cable], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True, check=False)


@contextmanager
def hosts(number: int) -> Iterator[list[Host]]:
    """So many, around this machine, until the end of the block."""
    made = [Host(each + 1) for each in range(number)]
    subprocess.run(["ip", "addr", "add", f"{CENTRE}/32", "dev", "lo"], capture_output=True, check=False)
    try:
        for each in made:
            each.unplug()
            each.plug_in()
        yield made
    finally:
        for each in made:
            each.unplug()
        subprocess.run(["ip", "addr", "del", f"{CENTRE}/32", "dev", "lo"], capture_output=True, check=False)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
