"""Against vecshift (PyPI), which migrates by updating a second column of the user's table: the same texts and vectors, the same run.

    python -m benchmarks.vecshift [--documents 20000] [--rounds 2] [--venv FOLDER] [--full]

The table is one that is searched: it has a column with the old vectors, once with its HNSW index, as a live search has, and once without.
Only the backfill is timed, no index is built on the new vectors. vecshift is installed into a venv of its own, made when it is missing: it
is no dependency of this project. Both get their vectors from the same embedder, which costs nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from psycopg import sql

from benchmarks import stage, table
from benchmarks.backfill import fill
from benchmarks.meter import server_cpu
from benchmarks.stage import Stage
from benchmarks.workers import together
from embed_pipeline.migrate.opening import opened

PACKAGE = "vecshift==0.4.0"
ROOT = Path(__file__).parents[1]
VENV = str(ROOT / ".venv-vecshift")
THEIRS, OURS = "vecshift", "backfill, processes: {}"

# What one run took: seconds, client CPU and server CPU.
Run = tuple[float, float, float]


def main() -> None:
    wanted = stage.options(__doc__, documents=(20_000, 20_000), length=(1_000, 1_000), rounds=(2, 3), venv=(VENV, VENV))
    python = _installed(Path(wanted.venv))
    with stage.running({"max_wal_size": "8GB"}) as running:
        for indexed in (False, True):
            _compare(running, python, indexed, wanted)


def _installed(venv: Path) -> Path:
    """The venv's Python; the venv is made first when it is not there."""
    python = venv / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PACKAGE], check=True)
    return python


def _compare(running: Stage, python: Path, indexed: bool, wanted: argparse.Namespace) -> None:
    template = _searched(running, indexed, wanted)
    found: dict[str, list[Run]] = defaultdict(list)
    for number in range(wanted.rounds):
        # 0 processes of ours: vecshift.
        for processes in (0, 1, 2) if number % 2 == 0 else (2, 1, 0):
            url = running.fresh(template)
            if processes:
                found[OURS.format(processes)].append(_ours(running, url, processes))
            else:
                found[THEIRS].append(_theirs(running, python, url, wanted.documents))
            running.forget(url)
    beside = "with its HNSW index" if indexed else "without an index"
    table.heading(f"{wanted.documents:,} texts of {wanted.length:,} B, {stage.DIMENSIONS}-d, the old column {beside}, {PACKAGE}")
    rows = []
    for name in sorted(found, reverse=True):
        seconds, client, server = zip(*found[name], strict=True)
        rates = [wanted.documents / each for each in seconds]
        faster = table.ratios([each for each, _, _ in found[THEIRS]], seconds)
        micro = [table.spread([1e6 * each / wanted.documents for each in values]) for values in (client, server)]
        rows.append([name, table.spread(rates), table.spread(faster), *micro])
    table.write(["", "rows/s", "times as fast as vecshift", "client CPU us/row", "server CPU us/row"], rows)


def _searched(running: Stage, indexed: bool, wanted: argparse.Namespace) -> str:
    """A template whose documents have old vectors in a column of their own."""
    url = running.fresh(running.documents(wanted.documents, wanted.length))
    column = sql.SQL("vector({})").format(sql.Literal(stage.DIMENSIONS))
    with stage.connected(url) as conn:
        conn.execute(sql.SQL("ALTER TABLE documents ADD COLUMN embedding {}").format(column))
        # It names the row: else one vector would be drawn for all.
        drawn = sql.SQL("ARRAY(SELECT random() - 0.5 + 0 * id FROM generate_series(1, {}))").format(sql.Literal(stage.DIMENSIONS))
        conn.execute(sql.SQL("UPDATE documents SET embedding = {}::{}").format(drawn, column))
        conn.execute("VACUUM FULL ANALYZE documents")
        if indexed:
            conn.execute("CREATE INDEX ON documents USING hnsw (embedding vector_cosine_ops)")
        conn.execute("VACUUM documents")
    return running.template(url)


def _ours(running: Stage, url: str, processes: int) -> Run:
    with opened(stage.declared(url, "v1")):
        pass
    cost = together(running.postmaster, fill, [(url, part, processes) for part in range(processes)]).cost
    return cost.seconds, cost.client, cost.server


def _theirs(running: Stage, python: Path, url: str, documents: int) -> Run:
    """A run of the driver; not a row may be left."""
    folder = running.folder / Stage.template(url)
    folder.mkdir()
    command = [str(python), "-m", "benchmarks.vecshift_driver", url, str(stage.DIMENSIONS), str(folder)]
    before = server_cpu(running.postmaster)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    server = server_cpu(running.postmaster) - before
    found: dict[str, Any] = json.loads(done.stdout)
    if found["status"] != "complete" or found["rows"] != documents:
        raise SystemExit(f"vecshift did not finish: {found}")
    return found["seconds"], found["cpu"], server


if __name__ == "__main__":
    main()
