"""Copies of the database in the middle of a migration, and what goes on from them: a dump, a promoted standby, a branch, a point in time.

The pages are docs/how-to/backup-and-restore.md. Index `docs` keeps its vectors in pgvector and `points` keeps them in Qdrant, of the same table.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import conninfo

from embed_pipeline import Searcher
from embed_pipeline.errors import AnotherLedger, VersionRetired
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import ann_index, backfill, cutover, dual_write, gate, refill, retire, take_over, verify
from embed_pipeline.migrate.opening import opened
from embed_pipeline.postgres.binaries import find_binaries
from embed_pipeline.report.status import status_of
from embed_pipeline.spec import IndexSpec
from tests.harness.articles import (
    DOCUMENTS,
    change,
    counted,
    declared,
    fill,
    make_articles,
    require_consistent,
    serve,
    settle,
    text_hash,
)
from tests.harness.fakes import asked_texts
from tests.harness.postgres.on_disk import Original, by_name, original  # noqa: F401  (fixture)
from tests.harness.postgres.standby import eventually
from tests.harness.qdrant.loopback import Loopback
from tests.stores.holding import hashes

SpecOf = Callable[..., IndexSpec]


@pytest.fixture
def qdrant() -> Iterator[Loopback]:
    with Loopback() as server:
        yield server


@pytest.fixture
def spec_of(holdout: Path, tmp_path: Path, qdrant: Loopback) -> SpecOf:
    """The declaration of index `docs`, or of `points`, in the database of a URL."""

    def spec(url: str, index: str = "docs", *names: str, **more: Any) -> IndexSpec:
        store: dict[str, Any] = {"kind": "pgvector"}
        if index == "points":
            store = {"kind": "qdrant", "layout": "collections", "collection": "restored", "url": qdrant.url}
        calls = {name: counted(tmp_path / f"calls-{name}", model_name=f"model-{name}") for name in names or ("v1", "v2")}
        for name, version in calls.items():
            version["options"] |= {"salt": name}
        return declared(url, holdout, name=index, versions=calls, store=store, partitions=4, **more)

    return spec


def asked(tmp_path: Path, version: str) -> list[str]:
    path = tmp_path / f"calls-{version}"
    return asked_texts(path) if path.exists() else []


def half_way(spec: IndexSpec) -> None:
    """v1 serves, two of the four partitions of v2 are filled, and changes wait: some distributed, some not yet."""
    with opened(spec) as index, psycopg.connect(spec.database_url or "", autocommit=True) as app:
        serve(index, "v1")
        for key in index.spec.partition_keys()[:2]:
            backfill.fill_partition(index, "v2", key)
        change(app, 1, "edited once")
        with index.connection() as conn:
            dual_write.distributor(index).distribute(conn)
        change(app, 2, "edited later")
        app.execute("DELETE FROM articles WHERE id = 3")


def worked_off(index: OpenIndex) -> None:
    """Compare everything and dual-write: v1 agrees then, and the doubts are gone. v2 lacks what a backfill has still to fill."""
    verify.reconcile(index)
    for result in dual_write.sync(index):
        assert (result.error, result.pending) == ("", 0)
    assert verify.verify(index)["v1"].differences == 0
    assert status_of(index.spec).doubts == ()


def to_the_end(spec: IndexSpec) -> None:
    """What is left of the migration: the queue, the partitions, the gate, the cutover, the retire."""
    with opened(spec) as index:
        for key in spec.partition_keys():
            backfill.fill_partition(index, "v2", key)
        settle(index)
        ann_index.build(index, "v2")
        assert gate.run(index, "v2").outcome == "pass"
        cutover.cutover(index, "v2")
        require_consistent(index)
        retire.retire(index, "v1", "v1", accept_unseen_reads=True)


def restore_dump(url: str, there: str, role: str) -> None:
    """`pg_dump | psql` of a database, behind the role that reads it: a dump has the grants, and the server has the roles."""
    programs = find_binaries()

    def said(*words: str) -> str:
        done = subprocess.run(
            [str(programs.program(words[0])), *words[1:], "-d", url], check=True, stdout=subprocess.PIPE, text=True
        )
        return done.stdout

    # Only this one: the statements about `postgres` would give it the other server's password.
    roles = [line for line in said("pg_dumpall", "--roles-only").splitlines() if role in line]
    into = [str(programs.program("psql")), "-q", "-v", "ON_ERROR_STOP=1", "-d", there]
    for script in ("\n".join(roles), said("pg_dump")):
        done = subprocess.run(into, input=script, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["docs", pytest.param("points", marks=pytest.mark.soak)])
def test_a_dump_in_the_middle_of_a_migration_goes_on_elsewhere(
    database_url: str,
    postgres_server: object,
    app: psycopg.Connection,
    reader_url: Callable[[], str],
    original: Original,  # noqa: F811
    spec_of: SpecOf,
    tmp_path: Path,
    kind: str,
) -> None:
    half_way(spec_of(database_url, kind))
    reader = conninfo.conninfo_to_dict(reader_url())
    with original.database("restored_dump"):
        url = original.server.url("restored_dump")
        restore_dump(database_url, url, str(reader["user"]))
        spec = spec_of(url, kind)
        # What applications do there before anybody has run a verb.
        with psycopg.connect(url, autocommit=True) as there:
            change(there, 4, "edited in the copy")
            assert there.execute("SELECT count(*) FROM embed_pipeline.inbox").fetchone() == (3,)
        before = {name: len(asked(tmp_path, name)) for name in ("v1", "v2")}
        if kind == "points":
            with pytest.raises(AnotherLedger, match=f"take-over {kind} --confirm {kind}"), opened(spec):
                pass
            with opened(spec, register_new=False, ours=False) as index:
                assert list(take_over.take_over(index, kind).before) == ["v1", "v2"]
        reader_there = conninfo.make_conninfo(url, user=reader["user"], password=reader["password"])
        with Searcher(kind, reader_there) as searcher:
            assert searcher.search("title 7\n\nbody 7", 1).version == "v1"
        shown = status_of(spec)
        assert shown.doubts
        assert shown.next.command == f"embed-pipeline sync {kind} --full"
        with opened(spec) as index:
            worked_off(index)
            texts = {f"title {n} {body}" for n, body in ((1, "edited once"), (2, "edited later"), (4, "edited in the copy"))}
            assert set(asked(tmp_path, "v1")[before["v1"] :]) - {"title 7 body 7"} == texts
            for key in spec.partition_keys():
                backfill.fill_partition(index, "v2", key)
            again = asked(tmp_path, "v2")
            assert len(again) == len(set(again)), "a document was embedded twice"
            with psycopg.connect(url, autocommit=True) as there:
                held = hashes(index, there, "v2")
            assert len(held) == DOCUMENTS - 1
        to_the_end(spec)
        assert status_of(spec).serving.version == "v2"
    if kind == "docs":
        to_the_end(spec_of(database_url, kind))
    else:
        with pytest.raises(AnotherLedger), opened(spec_of(database_url, kind)):
            pass


KINDS = ("docs", "points")


@contextmanager
def beside(original: Original, name: str, spec_of: SpecOf) -> Iterator[tuple[Any, str, dict[str, IndexSpec]]]:  # noqa: F811
    """A database in which both indexes are half way; its address."""
    with original.database(name) as proxy:
        url = by_name(proxy)
        with psycopg.connect(url, autocommit=True) as app:
            app.execute("CREATE EXTENSION vector")
            make_articles(app)
        yield proxy, url, {kind: spec_of(url, kind) for kind in KINDS}


def test_a_promoted_standby_that_lacks_the_last_transactions(original: Original, spec_of: SpecOf) -> None:  # noqa: F811
    with beside(original, "failed_over", spec_of) as (proxy, url, specs), ExitStack() as held:
        for spec in specs.values():
            half_way(spec)
        standby = held.enter_context(original.started(original.copied("-R"), primary_conninfo=original.server.url("postgres")))
        caught_up = "SELECT bool_and(state = 'streaming' AND replay_lsn = pg_current_wal_lsn()) FROM pg_stat_replication"
        eventually(lambda: original.sql(caught_up), "the standby has everything")
        searchers = {kind: held.enter_context(Searcher(kind, url, refresh_seconds=0.05)) for kind in KINDS}
        for searcher in searchers.values():
            assert searcher.search("title 7\n\nbody 7", 1).version == "v1"
        standby.stop()
        # Acknowledged by the primary, written to both stores, and never seen by the standby.
        with psycopg.connect(url, autocommit=True) as app:
            change(app, 10, "lost")
            app.execute("DELETE FROM articles WHERE id = 11")
            app.execute("INSERT INTO articles (id, title, body) VALUES (1000, 'lost', 'too')")
        for spec in specs.values():
            with opened(spec) as index:
                assert not any(each.error for each in dual_write.sync(index))
                backfill.fill_partition(index, "v2", index.spec.partition_keys()[2])
        original.start(standby, primary_conninfo="")
        standby.sql("SELECT pg_promote()")
        eventually(standby.has_taken_over, "the standby is the primary")
        proxy.lead_to(standby.port)
        for searcher in searchers.values():
            eventually(lambda searcher=searcher: _answers(searcher), "the searcher is back")
        with psycopg.connect(url, autocommit=True) as app:
            change(app, 12, "edited after it")
            change(app, 10, "edited after it")
        for kind, spec in specs.items():
            with opened(spec) as index:
                dual_write.sync(index)
                assert any("another server took over" in doubt for doubt in status_of(spec).doubts), kind
                worked_off(index)
                with psycopg.connect(url, autocommit=True) as app:
                    if kind == "points":
                        found = hashes(index, app, "v1")
                        assert "1000" not in found
                        assert found["11"] == text_hash("title 11\n\nbody 11")
                        assert found["10"] == text_hash("title 10\n\nedited after it")
            to_the_end(spec)
            assert _answers(searchers[kind]) == "v2"
        for searcher in searchers.values():
            searcher.close()


def _answers(searcher: Searcher) -> str:
    try:
        return searcher.search("title 7\n\nbody 7", 1).version
    except Exception:
        return ""


@pytest.mark.soak
def test_a_branch_of_the_disk_is_another_ledger(original: Original, spec_of: SpecOf, tmp_path: Path) -> None:  # noqa: F811
    """Same system identifier, same timeline, same number: all but the address. What is in the database goes on there; what is not is refused."""
    with beside(original, "branched", spec_of) as (_, url, specs), ExitStack() as held:
        for spec in specs.values():
            half_way(spec)
        branch = held.enter_context(original.started(original.copied()))
        there = original.url(branch.port, "branched").replace("127.0.0.1", "branch.internal") + "?hostaddr=127.0.0.1"
        with pytest.raises(AnotherLedger, match=r"at db\.internal:\d+ .*at branch\.internal:"), opened(spec_of(there, "points")):
            pass
        assert "belongs to index points" in status_of(spec_of(there, "points")).versions[0].another
        before = asked(tmp_path, "v2")
        assert status_of(spec_of(there)).doubts == ()
        with opened(spec_of(there)) as index:
            for key in spec.partition_keys():
                backfill.fill_partition(index, "v2", key)
        again = asked(tmp_path, "v2")[len(before) :]
        # Those that wait are a worker's; two partitions are there.
        assert len(again) == len(set(again)) == DOCUMENTS // 2
        to_the_end(spec_of(there))
        for kind, spec in specs.items():
            with Searcher(kind, url) as searcher:
                assert searcher.search("title 7\n\nbody 7", 1).version == "v1"
            to_the_end(spec)


@pytest.mark.soak
def test_a_point_in_time_before_a_cutover(original: Original, spec_of: SpecOf) -> None:  # noqa: F811
    """The pointer and the vectors of the past. A collection that was dropped since stays dropped: what is complete serves instead."""
    with beside(original, "recovered", spec_of) as (proxy, url, specs), ExitStack() as held:
        base = original.copied()
        for spec in specs.values():
            half_way(spec)
            with opened(spec) as index:
                fill(index, "v2")
                settle(index)
                assert gate.run(index, "v2").outcome == "pass"
        original.sql("SELECT pg_create_restore_point('before_cutover')")
        for spec in specs.values():
            with opened(spec) as index:
                cutover.cutover(index, "v2")
        with psycopg.connect(url, autocommit=True) as app:
            change(app, 10, "of another future")
        for spec in specs.values():
            with opened(spec) as index:
                settle(index)
                retire.retire(index, "v1", "v1", accept_unseen_reads=True)
        original.sql("SELECT pg_switch_wal()")
        archived = "SELECT last_archived_wal >= pg_walfile_name(pg_current_wal_lsn() - 1) FROM pg_stat_archiver"
        eventually(lambda: original.sql(archived), "the segment with the point is in the archive")
        recovered = held.enter_context(original.started(base, **original.recover_to(base, "before_cutover")))
        eventually(recovered.has_taken_over, "it is recovered")
        proxy.lead_to(recovered.port)
        with psycopg.connect(url, autocommit=True) as app:
            change(app, 10, "of this one")
        expected = {"docs": "embed-pipeline sync docs --full", "points": "embed-pipeline backfill points v1"}
        for kind, spec in specs.items():
            shown = status_of(spec)
            assert shown.serving.version == "v1"
            assert any("the database was restored" in doubt for doubt in shown.doubts)
            assert shown.next.command == expected[kind]
        with Searcher("docs", url) as searcher:
            assert searcher.search("title 7\n\nbody 7", 1).version == "v1"
        with Searcher("points", url) as searcher, pytest.raises(VersionRetired, match="embed-pipeline status points"):
            searcher.search("title 7\n\nbody 7", 1)
        with opened(specs["points"]) as index:
            refill.make_again(index, "v1", lambda found: None)
            refill.work_off(index, "v1")
        for kind, spec in specs.items():
            with opened(spec) as index:
                worked_off(index)
                with psycopg.connect(url, autocommit=True) as app:
                    assert hashes(index, app, "v2")["10"] == text_hash("title 10\n\nof this one")
                assert gate.run(index, "v2").outcome == "pass"
                cutover.cutover(index, "v2")
                require_consistent(index)
            with Searcher(kind, url) as searcher:
                assert searcher.search("title 7\n\nbody 7", 1).version == "v2"
