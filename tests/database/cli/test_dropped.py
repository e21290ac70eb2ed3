"""Something of ours that somebody dropped: each verb says so in one sentence, or does what it can do without it."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from psycopg import sql

from tests.database.cli.conftest import Place, Ran

Run = Callable[..., Ran]

VERBS = (
    ("status", "docs"), ("health", "docs"), ("history", "docs"), ("doctor", "docs"), ("plan", "docs", "v2"), ("backfill", "docs", "v2"),
    ("sync", "docs"), ("sync", "docs", "--full"), ("verify", "docs"), ("gate", "docs", "v2"), ("cutover", "docs", "v2"), ("rollback", "docs"),
    ("pause", "docs"), ("resume", "docs"), ("search", "docs", "amber"), ("dead-letters", "docs"),
)  # fmt: skip
FEW = ("inbox", "adapters", "gate_evidence", "schema_version")
TABLES = """
SELECT relname FROM pg_class WHERE relnamespace = 'embed_pipeline'::regnamespace AND relkind IN ('r', 'p')
  AND relname NOT LIKE 'docs\\_\\_%' ORDER BY 1
"""
# The refusals that verbs have for where the last ones have left the index.
OTHERWISE = ("was rolled back", "nothing to roll docs back to")


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.soak)])
def test_each_verb_names_what_somebody_dropped_or_does_without(place: Place, run: Run, database_url: str, whole: bool) -> None:
    """By another name a table is as good as dropped, and can be put back. What is no exit of a verb raises in `run`."""
    assert run("load", "docs", place.write_documents()).code == 0
    for each in (
        ("backfill", "docs", "v1"),
        ("gate", "docs", "v1"),
        ("cutover", "docs", "v1"),
        ("backfill", "docs", "v2"),
        ("gate", "docs", "v2"),
    ):
        assert run(*each).code == 0
    with psycopg.connect(database_url, autocommit=True) as conn:
        tables = [name for (name,) in conn.execute(TABLES)] if whole else FEW
        for table in tables:
            there, away = sql.Identifier("embed_pipeline", table), sql.Identifier("embed_pipeline", f"{table}_away")
            conn.execute(sql.SQL("ALTER TABLE {} RENAME TO {}").format(there, sql.Identifier(f"{table}_away")))
            named = 0
            for verb in VERBS:
                ran = run(*verb)
                says = f"embed_pipeline.{table} is gone from this database" in ran.out + ran.err
                named += says
                assert says or ran.code == 0 or any(words in ran.out + ran.err for words in OTHERWISE), (table, verb, ran)
            assert named > 0 or table not in FEW, table
            conn.execute(sql.SQL("ALTER TABLE {} RENAME TO {}").format(away, sql.Identifier(table)))
