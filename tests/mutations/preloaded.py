"""A process that has imported the libraries and forks for each run of pytest: importing them is most of the time of a short run.

Each line of standard input is one run in JSON. It answers with the process id of the run, and when that has ended with its exit code,
each on a line. It imports neither this package nor its tests: each run imports those of its own copy.
"""

from __future__ import annotations

import importlib
import json
import os
import sys

# What the package and its tests import from elsewhere, slow ones first.
LIBRARIES = (
    "dagster", "alembic.command", "sqlalchemy.dialects.postgresql", "hypothesis.stateful", "pydantic",
    "numpy", "matplotlib.figure", "matplotlib.backends.backend_agg", "psycopg", "pgvector.psycopg", "pytest", "yaml",
)  # fmt: skip


def run(place: str, environment: dict[str, str], arguments: list[str], output: str) -> int:
    """One run, in the process that was forked for it: its group is its own, and it begins where the copy is."""
    os.setsid()
    os.chdir(place)
    written = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, descriptor in ((0, nothing), (1, written), (2, written)):
        os.dup2(descriptor, number)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = place
    import pytest

    code = int(pytest.main(arguments))
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def serve() -> None:
    for library in LIBRARIES:
        importlib.import_module(library)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code = 3
            try:
                code = run(**json.loads(line))
            finally:
                # At once: a thread that a failed test has left waits for nobody.
                os._exit(code)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
