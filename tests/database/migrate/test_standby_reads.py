"""Readers on a standby: they search, learn of a cutover without a word from the server, and nobody can see which version they read."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from embed_pipeline import Searcher
from embed_pipeline.errors import RetireRefused
from embed_pipeline.migrate import retire
from embed_pipeline.migrate.opening import opened
from tests.harness.articles import DOCUMENTS, declared, fill, serve
from tests.harness.postgres.seen import wait_until
from tests.harness.postgres.standby import Replicated, replicated, replicated_servers  # noqa: F401  (fixtures)

TEXT = "title 7\n\nbody 7"


def test_a_searcher_on_a_standby(replicated: Replicated, holdout: Path) -> None:  # noqa: F811
    with replicated.database() as url:
        with psycopg.connect(url, autocommit=True) as app:
            app.execute("CREATE TABLE articles (id bigint PRIMARY KEY, title text, body text, views integer NOT NULL DEFAULT 0)")
            app.execute(
                "INSERT INTO articles (id, title, body) SELECT n, 'title ' || n, 'body ' || n FROM generate_series(1, %s) AS n",
                (DOCUMENTS,),
            )
        there = url.replace(f":{replicated.primary.port}/", f":{replicated.port}/")
        with opened(declared(url, holdout, "v1", "v2", partitions=1)) as index:
            serve(index, "v1")
            fill(index, "v2")
            wait_until(replicated.has_caught_up, "the standby has v1")
            with Searcher("docs", there, refresh_seconds=0.05) as searcher:
                assert searcher.search(TEXT, 1, where={"views": 0}, with_documents=True, visible_only=True).hits[0].doc_id == "7"
                serve(index, "v2")
                wait_until(lambda: searcher.search(TEXT, 1).version == "v2", "the searcher has looked")
                with pytest.raises(RetireRefused, match=r"A standby follows this server \(standby1\).*nobody can say"):
                    retire.retire(index, "v1", "v1")
                with psycopg.connect(url) as conn:
                    assert conn.execute("SELECT count(*) FROM embed_pipeline.version_reads").fetchone() == (0,)
                retire.retire(index, "v1", "v1", accept_unseen_reads=True)
                assert searcher.search(TEXT, 1).hits[0].doc_id == "7"
            with pytest.raises(RetireRefused, match="v2 serves docs"):
                retire.retire(index, "v2", "v2", accept_unseen_reads=True)
