"""What an application does that waits for nobody: locks with NOWAIT or a timeout, queues that skip what is locked, prepared transactions that
are forgotten for a while. All of it on rows that no other writer touches: who is in its way is one of us."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg

from tests.faults.campaign import models, oracle

if TYPE_CHECKING:
    from tests.faults.campaign.load import Writer

LOCK_TIMEOUT = "SET LOCAL lock_timeout = '50ms'"
# One transaction of the application's wants the table for itself now and then; all others of its processes let it, so that whoever holds
# it up is one of us.
TABLE = 4711
TAKE_TURNS = f"SELECT pg_advisory_lock_shared({TABLE})"
LET_OTHERS = f"SELECT pg_advisory_unlock_shared({TABLE})"
TAKE_ALONE, LEAVE_ALONE = f"SELECT pg_advisory_lock({TABLE})", f"SELECT pg_advisory_unlock({TABLE})"

# A document for each writer that only its prepared transactions change.
PREPARED = 900
OWN_PREPARED = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() AND gid LIKE %s ORDER BY prepared"
# Documents that nobody ever misses: they are deleted and inserted again as they were, in one transaction. The first ones are never touched,
# so that the canary, which takes the first document that it finds, takes no other.
SAME_FROM, SAME_TO = 11, 30
NEAREST = "SELECT doc_id FROM embed_pipeline.search('docs', %s, %s, %s::public.vector, 3)"
IN_TABLES = "SELECT store ->> 'kind' = 'pgvector' FROM embed_pipeline.indexes WHERE index_name = 'docs'"
# The version was retired between the look at the catalog and the search.
RETIRED = (psycopg.errors.UndefinedObject, psycopg.errors.UndefinedTable)


class Impatient:
    """These habits, of one writer."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        # Its transactions have names that no other database of the server has.
        self._name = f"{self.conn.info.dbname} {writer.me}"
        self._number = 0
        self._deletes: set[str] = set()
        self._prepares = writer.load.truncates is False and self._ask("SHOW max_prepared_transactions") != "0"
        self._in_tables = bool(self._ask(IN_TABLES))

    @property
    def conn(self) -> psycopg.Connection:
        return self._writer.conn

    def weighted(self) -> dict[Callable[[], None], int]:
        habits = {self.nowait: 3, self.hurried: 3, self.take_what_is_free: 2, self.same_rows: 3}
        habits |= {self.delete_and_search: 3} if self._in_tables and self._writer.load.captured else {}
        return habits | ({self.prepared: 4} if self._prepares else {})

    def nowait(self) -> None:
        key = self._writer.private()
        with self.conn.transaction():
            self.conn.execute("SELECT FROM articles WHERE id = %s FOR UPDATE NOWAIT", (key,))
            self._writer.set_body(key, self._writer.text())

    def hurried(self) -> None:
        """An edit and a delete, each of which would rather fail than wait."""
        edited, deleted = self._writer.private(), self._writer.private()
        with self.conn.transaction():
            self.conn.execute(LOCK_TIMEOUT)
            self._writer.set_body(edited, self._writer.text())
            self.conn.execute("DELETE FROM articles WHERE id = %s", (deleted,))
        self._writer.gone(deleted)

    def take_what_is_free(self) -> None:
        """As a queue is read: nobody else locks these rows, so all of them are free."""
        keys = self._writer.all_private()
        with self.conn.transaction():
            there = self.conn.execute("SELECT id FROM articles WHERE id = ANY (%s)", (keys,)).fetchall()
            free = self.conn.execute("SELECT id FROM articles WHERE id = ANY (%s) FOR UPDATE SKIP LOCKED", (keys,)).fetchall()
        if set(there) != set(free):
            raise AssertionError(f"{len(set(there) - set(free))} rows were passed over, and nobody of the application had them")

    def same_rows(self) -> None:
        """Documents are deleted and inserted as they were, in one transaction: no search misses them."""
        first = self._writer.chosen.randint(SAME_FROM, SAME_TO)
        keys = [key for key in range(first, first + 3) if key <= SAME_TO and key % self._writer.load.writers == self._writer.me]
        with self.conn.transaction():
            rows = self.conn.execute("DELETE FROM articles WHERE id = ANY (%s) RETURNING id, title, body", (keys,)).fetchall()
            with self.conn.cursor() as cursor:
                cursor.executemany("INSERT INTO articles (id, title, body) VALUES (%s, %s, %s)", rows)

    def delete_and_search(self) -> None:
        """Deleted, a document is in no answer any more, by whatever version could serve."""
        key = self._writer.private()
        row = self.conn.execute("SELECT title, body FROM articles WHERE id = %s", (key,)).fetchone()
        if row is None or not self.conn.execute("DELETE FROM articles WHERE id = %s", (key,)).rowcount:
            return
        self._writer.gone(key)
        text = "\n\n".join(part for part in row if part)
        for version in oracle.versions(self.conn):
            if version.state in ("ready", "active", "standby"):
                vector = models.query_vector(version.space, version.passages(text)[0] if text.strip() else "nothing")
                try:
                    hits = self.conn.execute(NEAREST, (version.name, version.fingerprint, str(vector.tolist()))).fetchall()
                except RETIRED:
                    continue
                if (str(key),) in hits:
                    raise AssertionError(f"a document is deleted, and {version.name}, which is {version.state}, answers with it")

    def prepared(self) -> None:
        """A transaction is prepared, or one that was prepared before is ended."""
        left = self._left()
        if left:
            self._end(left[0], commit=self._writer.chosen.random() < 0.8)
            return
        self._number += 1
        name = f"{self._name} {self._writer.season} {self._number}"
        key, deletes = PREPARED + self._writer.me, self._writer.chosen.random() < 0.4
        self.conn.execute("BEGIN")
        if deletes:
            self._deletes.add(name)
            self.conn.execute("DELETE FROM articles WHERE id = %s", (key,))
        else:
            self._writer.upsert_text(key)
        self.conn.execute(f"PREPARE TRANSACTION '{name}'")  # type: ignore[arg-type]

    def remember(self) -> None:
        """End what is still prepared."""
        for name in self._left() if self._prepares else []:
            self._end(name, commit=True)

    def _left(self) -> list[str]:
        return [name for (name,) in self.conn.execute(OWN_PREPARED, (f"{self._name} %",))]

    def _end(self, name: str, *, commit: bool) -> None:
        key = PREPARED + self._writer.me
        if name not in self._deletes:
            self._writer.born(key)
        self.conn.execute(f"{'COMMIT' if commit else 'ROLLBACK'} PREPARED '{name}'")  # type: ignore[arg-type]
        if commit and name in self._deletes:
            self._writer.gone(key)

    def _ask(self, query: str) -> Any:
        row = self.conn.execute(query).fetchone()  # type: ignore[arg-type]
        return None if row is None else row[0]


@contextmanager
def in_turn(conn: psycopg.Connection) -> Iterator[None]:
    """Beside others of the application's, but not beside one that has the table for itself."""
    conn.execute(TAKE_TURNS)
    try:
        yield
    finally:
        if not conn.closed:
            conn.execute(LET_OTHERS)
