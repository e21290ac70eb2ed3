"""`make dev`: the Dagster UI, daemon and code location on this machine, with their state in the project.

    python -m embed_pipeline.dagster_layer.dev [--port 3000]

DAGSTER_HOME is `.embed_pipeline/dagster_home`; the project's dagster.yaml is linked into it, so that editing the one in the
project counts. Stop it with Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from embed_pipeline.errors import ConfigurationError, EmbedPipelineError
from embed_pipeline.postgres.home import default_home

HOST = "127.0.0.1"
FILES = ("dagster.yaml", "workspace.yaml")


def main(arguments: list[str] | None = None) -> int:
    """Run until it is stopped; returns the exit code of `dagster dev`."""
    parser = argparse.ArgumentParser(prog="python -m embed_pipeline.dagster_layer.dev", description="The Dagster UI.")
    parser.add_argument("--port", type=int, default=3000)
    port: int = parser.parse_args(arguments).port
    try:
        project = find_project(Path.cwd())
        home = prepare_home(project)
    except EmbedPipelineError as problem:
        print(problem, file=sys.stderr)
        return problem.exit_code
    print(f"Dagster on http://{HOST}:{port}; Ctrl-C stops it. State is in {home}.")
    print("Its warning about dagster.yaml is of no matter here: this folder's file is linked there.", flush=True)
    return run(command(port), project, os.environ | {"DAGSTER_HOME": str(home)})


def find_project(start: Path) -> Path:
    """The nearest folder from `start` upwards that holds dagster.yaml and workspace.yaml."""
    for folder in (start, *start.parents):
        if all((folder / name).is_file() for name in FILES):
            return folder
    raise ConfigurationError(
        f"Neither {start} nor a folder above it holds {' and '.join(FILES)}.", next_step="Run it in the project's folder."
    )


def prepare_home(project: Path) -> Path:
    """The DAGSTER_HOME, with the project's dagster.yaml in it."""
    home = default_home() / "dagster_home"
    home.mkdir(parents=True, exist_ok=True)
    link, target = home / "dagster.yaml", project / "dagster.yaml"
    if not (link.is_symlink() and link.readlink() == target):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    return home


def command(port: int) -> list[str]:
    """What is started: the webserver, the daemon and the code location of workspace.yaml."""
    # Not `dg dev`: it runs this and adds nothing here. The advice to use it is silenced.
    quiet = "ignore:Function `dev_command` is superseded"
    return [sys.executable, "-W", quiet, "-m", "dagster", "dev", "-w", "workspace.yaml", "-h", HOST, "-p", str(port)]


def run(command: list[str], folder: Path, environment: dict[str, str]) -> int:
    """Run `command` and hand on SIGINT and SIGTERM, each once, as the SIGINT that makes Dagster stop its own processes.

    A session of its own, so that the terminal's Ctrl-C does not reach Dagster's processes beside ours. Handlers are set before
    the start, so that nothing is inherited as ignored where a shell started us in the background.
    """
    process: subprocess.Popen[bytes] | None = None

    def stop(number: int, frame: FrameType | None) -> None:
        if process is not None:
            process.send_signal(signal.SIGINT)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    process = subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True)
    return process.wait()


if __name__ == "__main__":
    sys.exit(main())
