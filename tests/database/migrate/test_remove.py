"""remove leaves a database as it was before the first use, tells beforehand what goes, and can be run again after it was killed anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from embed_pipeline import Searcher, signals
from embed_pipeline.cli.main import cli
from embed_pipeline.errors import CatalogError, RemoveRefused
from embed_pipeline.migrate import remove as removing
from embed_pipeline.migrate import retire
from embed_pipeline.migrate.opening import opened
from embed_pipeline.migrate.remove import Removal
from embed_pipeline.postgres.connection import connect
from tests.harness.articles import change, declared, fill, make_articles, serve, settle

# Everything of a database that has a name, an owner or a right. Numbers are left out: a catalog that was dropped has used some up. So is what
# VACUUM alone sets back, relhastriggers.
LISTED = {
    "schemas": "SELECT nspname, nspacl::text, nspowner FROM pg_namespace WHERE nspname !~ '^pg_(toast_)?temp'",
    "relations": "SELECT relnamespace::regnamespace::text, relname, relkind, relacl::text, reloptions, relrowsecurity, reltype = 0 "
    "FROM pg_class WHERE relnamespace <> 'pg_toast'::regnamespace",
    "functions": "SELECT oid::regprocedure::text, proacl::text FROM pg_proc",
    "types": "SELECT typnamespace::regnamespace::text, typname FROM pg_type WHERE typnamespace <> 'pg_toast'::regnamespace",
    "triggers": "SELECT tgrelid::regclass::text, tgname, tgenabled FROM pg_trigger",
    "default rights": "SELECT defaclrole, defaclnamespace, defaclobjtype, defaclacl::text FROM pg_default_acl",
    "extensions": "SELECT extname, extversion FROM pg_extension",
    "settings": "SELECT setdatabase, setrole, setconfig FROM pg_db_role_setting WHERE setdatabase = "
    "(SELECT oid FROM pg_database WHERE datname = current_database())",
    "comments": "SELECT classoid::regclass::text, description FROM pg_description WHERE objoid >= 16384",
    "documents": "SELECT id, title, body FROM articles",
}


def listing(app: psycopg.Connection[Any]) -> dict[str, list[str]]:
    return {kind: sorted(map(str, app.execute(query).fetchall())) for kind, query in LISTED.items()}  # type: ignore[arg-type]


@pytest.fixture
def fresh(bare_database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A database with the application's table and nothing of ours."""
    with psycopg.connect(bare_database_url, autocommit=True) as app:
        make_articles(app)
        # As a database that this package has not made: with rights that somebody gave.
        app.execute("ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO PUBLIC")
        yield app


def remove(url: str, name: str | None, **options: Any) -> Removal:
    with connect(url, autocommit=True) as conn:
        confirm = options.pop("confirm", name or conn.info.dbname)
        return removing.remove(conn, name, confirm, unread_seconds=3_600, **options)


def test_after_a_whole_migration_everything_is_as_before_the_first_use(
    fresh: psycopg.Connection[Any], bare_database_url: str, holdout: Path
) -> None:
    before = listing(fresh)
    with opened(declared(bare_database_url, holdout, "v1", "v2")) as index:
        serve(index, "v1")
        serve(index, "v2")
        change(fresh, 1, "another")
        settle(index)
        retire.retire(index, "v1", "v1")
    with opened(declared(bare_database_url, holdout, "v1", name="other")) as index:
        fill(index, "v1")
    change(fresh, 1, "body 1")
    assert listing(fresh) != before
    removed = remove(bare_database_url, None)
    assert listing(fresh) == before
    assert {"the documents table public.articles"} < set(removed.stays)
    with pytest.raises(CatalogError, match="Nothing of embed-pipeline is in this database"):
        remove(bare_database_url, None)


def test_of_two_indexes_over_one_table_the_other_one_goes_on(
    fresh: psycopg.Connection[Any], bare_database_url: str, holdout: Path
) -> None:
    with opened(declared(bare_database_url, holdout, "v1")) as index:
        serve(index, "v1")
    # Its name begins with that of the other one.
    spec = declared(bare_database_url, holdout, "v1", name="docs_more")
    with opened(spec) as other:
        serve(other, "v1")
        remove(bare_database_url, "docs")
        left = {
            table: fresh.execute(f"SELECT count(*) FROM embed_pipeline.{table} WHERE index_name = 'docs'").fetchone()  # type: ignore[arg-type]
            for (table,) in fresh.execute(
                "SELECT relname FROM pg_class c JOIN pg_attribute a ON attrelid = c.oid "
                "WHERE relnamespace = 'embed_pipeline'::regnamespace AND relkind = 'r' AND attname = 'index_name'"
            ).fetchall()
        }
        assert len(left) > 15
        assert set(left.values()) == {(0,)}
        triggers = fresh.execute("SELECT tgname FROM pg_trigger WHERE tgrelid = 'articles'::regclass").fetchall()
        assert {name.startswith("embed_pipeline_docs_more_") for (name,) in triggers} == {True}
        change(fresh, 1, "another")
        settle(other)
        assert fresh.execute("SELECT DISTINCT index FROM embed_pipeline.provenance").fetchall() == [("docs_more",)]
        with pytest.raises(psycopg.errors.CheckViolation, match="append-only"):
            fresh.execute("DELETE FROM embed_pipeline.audit_events")


@pytest.mark.parametrize("moment", ["remove.disarmed", "remove.left", "remove.catalog"])
def test_a_remove_that_was_killed_is_run_again(
    fresh: psycopg.Connection[Any], bare_database_url: str, holdout: Path, moment: str
) -> None:
    before = listing(fresh)
    with opened(declared(bare_database_url, holdout, "v1")) as index:
        serve(index, "v1")

    def killed() -> None:
        raise ConnectionError(moment)

    signals.listen(moment, killed)
    with pytest.raises(ConnectionError, match=moment):
        remove(bare_database_url, None)
    signals.forget_all()
    assert listing(fresh) != before
    remove(bare_database_url, None)
    assert listing(fresh) == before


def test_it_is_refused_while_it_is_read_or_others_stand_on_it(
    fresh: psycopg.Connection[Any], bare_database_url: str, holdout: Path
) -> None:
    spec = declared(bare_database_url, holdout, "v1")
    with opened(spec) as index:
        serve(index, "v1")
    with Searcher("docs", bare_database_url) as searcher:
        assert searcher.search("title 1", k=1)
        before = listing(fresh)
        for options, reason in (({"confirm": "dogs"}, "not_confirmed"), ({}, "read_lately")):
            with pytest.raises(RemoveRefused) as refused:
                remove(bare_database_url, "docs", **options)
            assert refused.value.fields["reason"] == reason
    fresh.execute("CREATE VIEW mine AS SELECT * FROM embed_pipeline.provenance")
    with pytest.raises(RemoveRefused, match="view public.mine") as refused:
        remove(bare_database_url, None, anyway=True)
    assert refused.value.fields["reason"] == "others_depend"
    fresh.execute("DROP VIEW mine")
    assert listing(fresh) == before
    remove(bare_database_url, "docs", anyway=True)


def test_the_command_says_what_goes_before_anything_does(
    fresh: psycopg.Connection[Any], bare_database_url: str, holdout: Path
) -> None:
    with opened(declared(bare_database_url, holdout, "v1")) as index:
        fill(index, "v1")
    before = listing(fresh)
    said = CliRunner().invoke(cli, ["remove", "docs", "--database-url", bare_database_url])
    assert said.exit_code == 0, said.output
    for words in (
        "goes: trigger embed_pipeline_docs_insert on public.articles  (lock: ACCESS EXCLUSIVE on public.articles",
        "goes: table embed_pipeline.docs__v1",
        "stays: the documents table public.articles",
        "Nothing was removed",
    ):
        assert words in said.stdout, words
    assert listing(fresh) == before
    done = CliRunner().invoke(cli, ["remove", "docs", "--database-url", bare_database_url, "--confirm", "docs"])
    assert (done.exit_code, "docs: removed" in done.stdout) == (0, True)
    again = CliRunner().invoke(cli, ["remove", "docs", "--database-url", bare_database_url, "--confirm", "docs"])
    assert (again.exit_code, "Nothing of index 'docs'" in again.stderr) == (1, True)
