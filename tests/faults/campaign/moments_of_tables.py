"""Another documents table: partitioned, its key a time and some bytes, which every session of the application writes as text in its own way.

One version is live, and it serves. The oracle reads the keys in binary and makes the ids itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from psycopg import sql

from tests.faults.campaign.load import Table
from tests.faults.campaign.oracle import doc_id_of
from tests.faults.campaign.scenes import empty
from tests.faults.campaign.stage import SOON, Scene, Stage, Transaction

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
# What a campaign begins with is before the first of these hours; the scenes have the others.
SOME, OTHERS, LATER, END = 10_000, 20_000, 30_000, 40_000

BY_TIME = Table(
    # The body is of a type of the application's own. Whoever makes a text of it passes a gate, which a scene may close.
    """
    CREATE TYPE words AS (words text);
    CREATE FUNCTION words_of(words) RETURNS text LANGUAGE sql AS 'SELECT $1.words';
    CREATE FUNCTION as_words(text) RETURNS words LANGUAGE sql AS 'SELECT ROW ($1)::words';
    CREATE CAST (words AS text) WITH FUNCTION words_of(words);
    CREATE CAST (text AS words) WITH FUNCTION as_words(text) AS ASSIGNMENT;
    CREATE TABLE articles (
        at timestamptz, code bytea, title text, body words, draft text, views integer NOT NULL DEFAULT 0, PRIMARY KEY (at, code)
    ) PARTITION BY RANGE (at);
    CREATE TABLE first_articles PARTITION OF articles FOR VALUES FROM (MINVALUE) TO ('2027-02-21 16:00:00+00');
    CREATE TABLE some_articles PARTITION OF articles FOR VALUES FROM ('2027-02-21 16:00:00+00') TO ('2028-04-13 08:00:00+00');
    CREATE TABLE other_articles PARTITION OF articles FOR VALUES FROM ('2028-04-13 08:00:00+00') TO ('2029-06-04 00:00:00+00');
    """,
    ("at", "code"),
    "'2026-01-01 00:00:00+00'::timestamptz + n * interval '1 hour', int4send(n)",
)
# As the sessions of three applications have them.
SESSIONS = (
    {"TimeZone": "Asia/Kolkata", "DateStyle": "German", "bytea_output": "escape"},
    {"TimeZone": "America/St_Johns", "DateStyle": "SQL, DMY", "bytea_output": "hex"},
    {"TimeZone": "UTC", "DateStyle": "Postgres, MDY", "bytea_output": "escape"},
)
# The partition of a version in which the scenes' documents are.
LAST = "03"
WANTED = "WHERE at = %s AND code = %s"

Key = tuple[datetime, bytes]
_numbers = itertools.count(1)


def _key(hour: int) -> Key:
    """A new key after this hour. Its bytes are written in two ways, and one of them is no character."""
    number = next(_numbers)
    return BEGINNING + (hour + number) * HOUR, b"\x00\xff" + number.to_bytes(2)


@contextmanager
def _session(stage: Stage, **settings: str) -> Iterator[Transaction]:
    """A transaction in a session of its own with these settings."""
    with stage.transaction() as opened:
        for name, value in settings.items():
            opened.do("SELECT set_config(%s, %s, true)", name, value)
        yield opened


def _insert(stage: Stage, key: Key, table: str = "articles", **settings: str) -> None:
    with _session(stage, **settings) as writer:
        writer.do(f"INSERT INTO {table} (at, code, title, body) VALUES (%s, %s, 'scene', %s::text)", *key, stage.text())


def _documents(stage: Stage, count: int, hour: int = SOME) -> list[Key]:
    keys = [_key(hour) for _ in range(count)]
    for key in keys:
        _insert(stage, key)
    stage.sync()
    return keys


def _delete(stage: Stage, key: Key, table: str = "articles", **settings: str) -> None:
    """Deleted, it is in no answer any more, whoever deletes it."""
    text = stage.ask(f"SELECT concat_ws(E'\\n\\n', title, body::text) FROM {table} {WANTED}", *key)
    with _session(stage, **settings) as writer:
        writer.do(f"DELETE FROM {table} {WANTED}", *key)
    stage.hidden(doc_id_of(key), text)


def written_by_sessions_of_all_kinds(stage: Stage) -> None:
    """Each session writes the same key as another text."""
    keys = _documents(stage, 3 * len(SESSIONS))
    for number, settings in enumerate(SESSIONS):
        edited, deleted, moved = keys[3 * number : 3 * number + 3]
        _insert(stage, _key(SOME), **settings)
        with _session(stage, **settings) as writer:
            writer.do(f"UPDATE articles SET body = %s::text {WANTED}", stage.text(), *edited)
            # Into another partition.
            writer.do(f"UPDATE articles SET at = at + %s {WANTED}", (OTHERS - SOME) * HOUR, *moved)
        _delete(stage, deleted, **settings)
    stage.look()
    stage.sync()


def written_past_the_table(stage: Stage) -> None:
    """Writes that name a partition, also one that is attached now."""
    edited, deleted = _documents(stage, 2)
    stage.do(f"UPDATE some_articles SET body = %s::text {WANTED}", stage.text(), *edited)
    _delete(stage, deleted, "some_articles")
    _insert(stage, _key(SOME), "some_articles")
    stage.look()
    stage.do("CREATE TABLE later_articles (LIKE articles INCLUDING ALL)")
    lower, upper = (sql.Literal(BEGINNING + hour * HOUR) for hour in (LATER, END))
    attach = sql.SQL("ALTER TABLE articles ATTACH PARTITION later_articles FOR VALUES FROM ({}) TO ({})").format(lower, upper)
    stage.do(attach.as_string(None))
    _insert(stage, _key(LATER), "later_articles")
    stage.look()
    stage.sync()


def replicated(stage: Stage) -> None:
    """Written as logical replication does it: ordinary triggers do not fire."""
    edited, deleted = _documents(stage, 2)
    replica = {"session_replication_role": "replica"}
    with _session(stage, **replica, **SESSIONS[0]) as applied:
        applied.do(f"UPDATE articles SET body = %s::text {WANTED}", stage.text(), *edited)
    _delete(stage, deleted, **replica)
    _insert(stage, _key(OTHERS), "other_articles", **replica)
    stage.look()
    stage.sync()


def partition_truncated(stage: Stage) -> None:
    """One partition goes at once, by its own name; the others stay."""
    _documents(stage, 2, SOME)
    _documents(stage, 2, OTHERS)
    stage.do("TRUNCATE other_articles")
    stage.look()
    _documents(stage, 1, OTHERS)


def our_sessions_have_other_settings(stage: Stage) -> None:
    """The database gets settings in which our own sessions would write the keys otherwise: a worker and a registration begin under them."""
    edited, deleted = _documents(stage, 2)
    name = sql.Identifier(stage.ask("SELECT current_database()"))
    # With another DateStyle a client would stop at the first time that it reads, and no key would be compared.
    for setting in ("TimeZone", "bytea_output"):
        value = SESSIONS[0][setting]
        change = sql.SQL("ALTER DATABASE {} SET {} = {}").format(name, sql.Identifier(setting), sql.Literal(value))
        stage.do(change.as_string(None))
    stage.do(f"UPDATE articles SET body = %s::text {WANTED}", stage.text(), *edited)
    _delete(stage, deleted)
    stage.sync()
    stage.look()
    stage.register("v2")
    stage.steps("v2", "backfill")
    stage.run.finish(stage.run.start("reconcile", ""))
    stage.sync()


def moved_under_a_backfill(stage: Stage) -> None:
    """A document goes to another partition while a backfill has it in its hands."""
    (moved,) = _documents(stage, 1)
    empty(stage.run, "v2")
    filler = stage.holding("insert_new.held", "backfill", "v2", LAST)
    stage.held(filler)
    stage.do(f"UPDATE articles SET at = at + %s {WANTED}", (OTHERS - SOME) * HOUR, *moved)
    stage.go(filler)
    stage.look()
    stage.sync()


def rotated(stage: Stage) -> None:
    """As each day: a partition that was filled before is attached, the oldest one is detached, and a worker lives through it. Whoever
    truncates the new one by its own name is heard. Nobody is alarmed."""
    worker = stage.run.start("sync", "")
    (last,) = _documents(stage, 1, OTHERS)
    lower, upper = (sql.Literal(BEGINNING + hour * HOUR) for hour in (END, END + SOME))
    stage.do("CREATE TABLE next_articles (LIKE articles INCLUDING ALL)")
    attach = sql.SQL("ALTER TABLE articles ATTACH PARTITION next_articles FOR VALUES FROM ({}) TO ({})").format(lower, upper)
    arrived = [_key(END) for _ in range(3)]
    for key in arrived:
        stage.do("INSERT INTO next_articles (at, code, title, body) VALUES (%s, %s, 'scene', %s::text)", *key, stage.text())
    stage.do(attach.as_string(None))
    _stored(stage, arrived, True, "of a partition that was attached with its rows")
    stage.do("ALTER TABLE articles DETACH PARTITION other_articles")
    _stored(stage, [last], False, "of a partition that was detached")
    stage.do("TRUNCATE next_articles")
    _stored(stage, arrived, False, "of a partition that was attached and truncated")
    if stage.ask("SELECT count(*) FROM embed_pipeline.doubts"):
        stage.problem("the rotation of partitions has alarmed somebody")
    worker.kill()
    stage.run.judge(worker)
    stage.look()


def _stored(stage: Stage, keys: list[Key], wanted: bool, what: str) -> None:
    ids = [doc_id_of(key) for key in keys]
    count = "SELECT count(*) FROM embed_pipeline.docs__v1 WHERE doc_id = ANY (%s)"
    stage.wait(lambda: stage.ask(count, ids) == (len(ids) if wanted else 0), f"the {'arrival' if wanted else 'end'} {what}", SOON)


SCENES: tuple[Scene, ...] = (
    written_by_sessions_of_all_kinds,
    written_past_the_table,
    replicated,
    partition_truncated,
    our_sessions_have_other_settings,
    moved_under_a_backfill,
    rotated,
)
