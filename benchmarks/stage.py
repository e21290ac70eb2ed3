"""What benchmarks stand on: a server of their own, databases with documents, an index over them with an embedder that costs nothing.

Databases are copies of templates, so that each measurement begins with the same pages and nothing is built twice.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import ann_index, backfill, cutover, dual_write, gate
from embed_pipeline.postgres import embedded
from embed_pipeline.postgres.connection import connect
from embed_pipeline.spec import IndexSpec

DIMENSIONS = 384
DRAIN_SECONDS = 600.0
EMBEDDER = "benchmarks.embedder:InstantEmbedder"

Sizes = tuple[Any, Any]


@dataclass
class Stage:
    """A running server; `folder` is for files."""

    server: embedded.Server
    folder: Path
    postmaster: int
    _templates: set[str] = field(default_factory=set)
    _made: int = 0

    def documents(self, count: int, length: int) -> str:
        """The name of a template whose table `documents` holds ids 1 to `count` with texts of `length` characters."""
        name = f"documents_{count}_{length}"
        if name not in self._templates:
            with _administer(self._create(name, "template1")) as conn:
                conn.execute("CREATE EXTENSION vector")
                conn.execute("CREATE TABLE documents (id bigint PRIMARY KEY, body text NOT NULL)")
                insert = sql.SQL("INSERT INTO documents SELECT n, {} FROM generate_series(1, {}) AS n")
                conn.execute(insert.format(body(length), sql.Literal(count)))
                conn.execute("VACUUM ANALYZE documents")
            self._templates.add(name)
        return name

    def fresh(self, template: str) -> str:
        """The URL of a copy of `template`, its documents read once and everything on disk."""
        self._made += 1
        with _administer(self._create(f"run_{self._made}", template)) as conn:
            conn.execute("SELECT sum(length(body)) FROM documents")
            conn.execute("CHECKPOINT")
        return self.server.url(f"run_{self._made}")

    @staticmethod
    def template(url: str) -> str:
        """The name under which a database is copied; nobody may be connected to it then."""
        return url.rpartition("/")[2]

    def forget(self, url: str) -> None:
        """Drop a database when nobody needs it any more."""
        with _administer(self.server.url("postgres")) as conn:
            conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(self.template(url))))

    def _create(self, name: str, template: str) -> str:
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy")
        with _administer(self.server.url("postgres")) as conn:
            conn.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))
        return self.server.url(name)


@contextmanager
def running(settings: Mapping[str, str] | None = None) -> Iterator[Stage]:
    """A server with the settings that the package gives its own, and these; gone with the block."""
    with tempfile.TemporaryDirectory(prefix="embed-pipeline-bench-") as name:
        folder = Path(name)
        server = embedded.ensure_running(folder / "server", settings=dict(settings or {}))
        try:
            yield Stage(server, folder, int((server.data_dir / "postmaster.pid").read_text().split()[0]))
        finally:
            embedded.stop(folder / "server")
            if not server.data_dir.is_relative_to(folder.resolve()):
                # Where the server's user may not enter this folder its data is elsewhere.
                shutil.rmtree(server.data_dir.parent, ignore_errors=True)


def options(about: str | None, **sizes: Sizes) -> argparse.Namespace:
    """The command line: each size with its default, and the one that `--full` gives it. A tuple takes several values."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the sizes that the project's figures are about")
    for name, (small, full) in sizes.items():
        several = {"nargs": "+"} if isinstance(small, tuple) else {}
        shown = f"default {small}, with --full {full}"
        kind = type(small[0] if isinstance(small, tuple) else small)
        parser.add_argument("--" + name.replace("_", "-"), type=kind, help=shown, **several)  # type: ignore[arg-type]
    given = parser.parse_args()
    for name, (small, full) in sizes.items():
        if getattr(given, name) is None:
            setattr(given, name, full if given.full else small)
    return given


def _administer(url: str) -> psycopg.Connection[Any]:
    """Without pgvector's types, which a database may not have yet."""
    return psycopg.connect(url, autocommit=True)


def body(length: int) -> sql.Composed:
    """SQL for the text of document `n`: its number, filled up with what hardly repeats."""
    text = sql.SQL("left(n::text || ' ' || repeat(md5(n::text), {}), greatest({}, length(n::text)))")
    return text.format(sql.Literal(length // 32 + 1), sql.Literal(length))


def declared(url: str, *names: str, table: str = "documents", name: str = "bench", **more: Any) -> IndexSpec:
    """The declaration of an index; each version is a space of its own. `version`: fields of every version; the rest is the index's."""
    fields = {
        "provider": EMBEDDER,
        "dimensions": DIMENSIONS,
        "normalize": False,
        "batch_size": 1_000,
        # What is searched is not what is measured here: a graph that is built quickly.
        "hnsw": {"m": 8, "ef_construction": 32},
        **more.pop("version", {}),
    }
    shared = fields.pop("options", {})
    versions = {each: {**fields, "model_name": each, "options": {"salt": salt, **shared}} for salt, each in enumerate(names)}
    documents = {"table": table, "key": "id", "text": "body"}
    declaration = {"name": name, "database_url": url, "documents": documents, "partitions": 4, "versions": versions, **more}
    return IndexSpec.model_validate(declaration)


def fill(index: OpenIndex, version: str, *, ann: bool = True) -> None:
    """Backfill a version; with `ann` its index too, after which it is ready."""
    with index.connection() as conn:
        keys = backfill.unfilled(conn, index, version)
    for key in keys:
        backfill.fill_partition(index, version, key)
    if ann:
        ann_index.build(index, version)


def serve(index: OpenIndex, version: str) -> None:
    """Judge a ready version and cut over to it."""
    gate.run(index, version)
    cutover.cutover(index, version)


def drain(index: OpenIndex) -> int:
    """Work off what waits, also what another process holds first; how many vectors this one wrote."""
    written, deadline = 0, time.monotonic() + DRAIN_SECONDS
    while time.monotonic() < deadline:
        reports = dual_write.sync(index)
        written += sum(report.written for report in reports)
        failed = [f"{report.version}: {report.error}" for report in reports if report.error]
        if failed:
            raise SystemExit(f"Not everything was worked off: {'; '.join(failed)}")
        if not any(report.pending for report in reports):
            return written
        time.sleep(0.01)
    raise SystemExit(f"Not everything was worked off in {DRAIN_SECONDS:.0f} s.")


def connected(url: str) -> psycopg.Connection[Any]:
    """An application's connection, with pgvector's types, which looks its names up in `public`."""
    conn = connect(url, autocommit=True, application_name="application")
    conn.execute("SET search_path = public")
    return conn
