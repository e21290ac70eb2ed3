"""Reasons, errors, actors and sentences with characters that the database cannot hold: they are kept, escaped."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg import sql
from psycopg.rows import TupleRow

from embed_pipeline import Searcher
from embed_pipeline.catalog import batch_jobs, control, dead_letters, evidence, model_samples
from embed_pipeline.catalog.control import ThrottleEvent
from embed_pipeline.documents import queue
from embed_pipeline.embedders.protocol import Embedded
from embed_pipeline.errors import DatabaseUnavailable
from embed_pipeline.migrate import dual_write
from embed_pipeline.migrate.model_sample import TEXTS
from embed_pipeline.migrate.opening import open_index
from embed_pipeline.postgres import failures
from embed_pipeline.postgres.connection import connect
from embed_pipeline.report.status import status_of
from tests.harness.articles import declared, fill
from tests.harness.fakes import HashEmbedder

WORDS = "内容 \ud83d \x00 “café”"
SHOWN = {"UTF8": "内容 \\ud83d \\x00 “café”", "LATIN1": "\\u5185\\u5bb9 \\ud83d \\x00 \\u201ccafé\\u201d"}
SECRET = "geheim-0123456789"


class Rejecting(HashEmbedder):
    """Rejects what holds `reject`, and fails on what holds `burst`, in words that the database cannot hold."""

    def embed(self, texts: Any, role: Any) -> Embedded:
        if any("burst" in text for text in texts):
            raise RuntimeError(f"{WORDS} {SECRET}")
        answer = super().embed(texts, role)
        return Embedded(answer.vectors, {n: f"{WORDS} {SECRET}" for n, text in enumerate(texts) if "reject" in text})


@pytest.fixture
def encoded_url(postgres_admin: psycopg.Connection[TupleRow], server_url: Callable[[str], str]) -> Iterator[Callable[[str], str]]:
    """Makes a database in an encoding, and gives its URL."""
    made: list[str] = []

    def make(encoding: str) -> str:
        name = f"test_{uuid.uuid4().hex}"
        postgres_admin.execute(
            sql.SQL("CREATE DATABASE {} ENCODING {} LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0").format(
                sql.Identifier(name), sql.Literal(encoding)
            )
        )
        made.append(name)
        return server_url(name)

    yield make
    for name in made:
        postgres_admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.mark.parametrize("encoding", ["UTF8", "LATIN1"])
def test_foreign_words_are_kept_whatever_they_hold(
    encoding: str, encoded_url: Callable[[str], str], holdout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBED_PIPELINE_ACTOR", "内容 \udc80")
    monkeypatch.setenv("SOME_KEY", SECRET)
    url, shown = encoded_url(encoding), SHOWN[encoding]
    actor = shown.partition(" ")[0] + " \\udc80"
    with psycopg.connect(url, autocommit=True) as app:
        app.execute("CREATE EXTENSION vector")
        app.execute("CREATE TABLE articles (id bigint PRIMARY KEY, title text, body text)")
        app.execute("INSERT INTO articles SELECT n, 'café', 'body ' || n FROM generate_series(1, 9) n")
        app.execute("UPDATE articles SET body = 'reject' WHERE id = 5")
    spec = declared(
        url,
        holdout,
        "v1",
        versions={"v1": {"provider": "tests.database.test_storable:Rejecting", "model_name": "m", "dimensions": 16}},
    )
    index = open_index(spec)
    try:
        fill(index, "v1")
        with connect(url, autocommit=True) as conn:
            (letter,) = dead_letters.first(conn, "docs", "v1")
            assert letter.reason == f"{shown} ***"
            conn.execute("UPDATE public.articles SET body = 'burst' WHERE id = 6")
            (synced,) = dual_write.sync(index)
            assert "***" in synced.error
            row = conn.execute("SELECT last_error FROM embed_pipeline.queue").fetchone()
            assert row is not None
            assert f"RuntimeError: {shown} ***" in row[0]

            control.set_state(conn, "docs", "paused", WORDS)
            control.note_throttle(
                conn, "docs", "v1", "wait", "store", WORDS, ThrottleEvent("go", "wait", {WORDS: [WORDS, 1, None]})
            )
            batch_jobs.intend(conn, "docs", "v1", "00", "t", ["1"], is_last=True, tokens=1)
            assert batch_jobs.collected(conn, "t", WORDS)
            present = evidence.Present("f" * 64, None, None, 9, None, 100)
            evidence.store(
                conn,
                "docs",
                "v1",
                present=present,
                baseline_fingerprint=None,
                outcome="pass",
                sentence=WORDS,
                vectors=9,
                measures={WORDS: WORDS},
                max_age_seconds=60,
            )
            assert model_samples.keep(conn, "docs", "v1", TEXTS, np.ones((len(TEXTS), 16), dtype=np.float32), late=False)
            sample = model_samples.read(conn, "docs", "v1")
            assert sample is not None
            assert sample.texts == TEXTS
            monkeypatch.setattr(queue, "worker", lambda: WORDS)
            claim = queue.claim(conn, "docs", "v1", limit=1)
            queue.release(conn, claim, claim.seqs, error=WORDS)

            kept = [
                row[0]
                for row in conn.execute(
                    "SELECT reason FROM embed_pipeline.control UNION ALL SELECT changed_by FROM embed_pipeline.control "
                    "UNION ALL SELECT reason FROM embed_pipeline.throttle UNION ALL SELECT ended FROM embed_pipeline.batch_jobs "
                    "UNION ALL SELECT sentence FROM embed_pipeline.evidence UNION ALL SELECT last_error FROM embed_pipeline.queue "
                    "UNION ALL SELECT who FROM embed_pipeline.claims"
                )
            ]
            assert kept == [shown, actor, shown, shown, shown, shown, shown]
            event = conn.execute("SELECT detail, actor, reason FROM embed_pipeline.events WHERE event = 'throttle'").fetchone()
            assert event is not None
            assert event[0] == {"signal": "store", shown: [shown, 1, None]}
            assert event[2] == shown
        assert shown in [each.reason for each in status_of(spec).events]
        with Searcher("docs", url) as searcher:
            assert len(searcher.search("caf\ud83d 日本語", 3, version="v1").hits) == 3
    finally:
        index.close()


def test_a_text_that_the_database_cannot_hold_is_refused_in_a_sentence(encoded_url: Callable[[str], str]) -> None:
    lacks = r"The encoding of this database lacks a character: .*ENCODING 'UTF8'"
    with (
        connect(encoded_url("LATIN1"), autocommit=True) as conn,
        pytest.raises(DatabaseUnavailable, match=lacks),
        failures.as_sentences(),
    ):
        conn.execute("SELECT %s::text", ("日本",))


def test_sql_ascii_is_refused_in_a_sentence(encoded_url: Callable[[str], str], holdout: Path) -> None:
    spec = declared(encoded_url("SQL_ASCII"), holdout, "v1")
    for verb in (open_index, status_of):
        with pytest.raises(DatabaseUnavailable, match=r"encoded in SQL_ASCII.*ENCODING 'UTF8'"):
            verb(spec)
