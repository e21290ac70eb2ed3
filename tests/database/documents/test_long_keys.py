"""Keys that the application's index holds and ours does not: near 2.7 kB, or longer as text than as bytes."""

from __future__ import annotations

import secrets
from contextlib import closing

import psycopg

from embed_pipeline.migrate import backfill, dead_letters, dual_write, verify
from embed_pipeline.migrate.opening import open_index
from tests.database.documents.test_keys import declared, synced


def test_ids_that_no_index_of_ours_can_hold_hold_up_nobody(database_url: str) -> None:
    """Before and after the backfill; nothing is paid for them, a cutover counts them as dead letters, and gone they are forgotten."""
    with psycopg.connect(database_url, autocommit=True) as app:
        app.execute("CREATE TABLE articles (id bytea PRIMARY KEY, body text)")
        long = [secrets.token_bytes(1_400) for _ in range(3)]
        app.execute(
            "INSERT INTO articles SELECT decode(lpad(to_hex(n), 4, '0'), 'hex'), 'body ' || n FROM generate_series(1, 20) AS n"
        )
        app.cursor().executemany("INSERT INTO articles VALUES (%s, 'long')", [(each,) for each in long[:2]])
        with closing(open_index(declared(database_url, "docs", table="articles"))) as index:
            filled = [backfill.fill_partition(index, "v1", key) for key in index.spec.partition_keys()]
            assert sum(each.written for each in filled) == 20
            app.execute("INSERT INTO articles VALUES (%s, 'long')", (long[2],))
            app.execute("UPDATE articles SET body = 'edited' WHERE body = 'body 7'")
            synced(index, written=1)
            coverage = verify.verify(index)["v1"]
            assert (coverage.differences, coverage.dead_letters, coverage.current) == (0, 3, 20)
            assert verify.reconcile(index).queued == {"v1": 0}
            (letters,) = dead_letters.letters(index)
            assert (letters.count, {each.still_so for each in letters.shown}) == (3, {True})
            assert "longer than the 2,600 bytes" in letters.shown[0].reason
            app.execute("DELETE FROM articles WHERE body = 'long'")
            dual_write.sync(index)
            verify.reconcile(index)
            assert dead_letters.letters(index)[0].count == 0
