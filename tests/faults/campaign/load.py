"""The application that writes: a seeded process with its own connection, doing to the documents whatever applications do.

The application is free of deadlocks among its own processes, so that the number of its transactions that may be killed is zero: who
holds one row and wants a second one has at least one of the two to itself (`private`). REPEATABLE READ and SERIALIZABLE are used on private
rows only, and so is whatever does not wait (`impatient.py`). Whatever is killed, or comes away empty-handed, then is so because of us.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import IsolationLevel

from tests.faults.campaign.impatient import LEAVE_ALONE, LOCK_TIMEOUT, TAKE_ALONE, Impatient, in_turn
from tests.faults.campaign.records import Log, Record

# Documents that no writer changes: the held-out set and the readers' known items.
ANCHORS = 30
FIRST = 1_000

# Keys that a writer makes up: each has a range of its own, and a part of it for each time that the load was started.
FRESH = 100_000_000
SEASON = 1_000_000

# The most that a writer itself waits in the middle of a transaction, holding its locks.
LATE_SECONDS = 0.15

# So many transactions of a writer pass between two looks at what waits.
LOOK_EVERY = 20

TABLE = """
CREATE TABLE articles (id bigint PRIMARY KEY, title text, body text, draft text, views integer NOT NULL DEFAULT 0)
"""
# The application's own trigger: the text is derived from another column.
DERIVE = """
CREATE FUNCTION derive() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.draft IS NOT NULL AND (TG_OP = 'INSERT' OR NEW.draft IS DISTINCT FROM OLD.draft) THEN
        NEW.body := 'derived from ' || NEW.draft;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER derive BEFORE INSERT OR UPDATE ON articles FOR EACH ROW EXECUTE FUNCTION derive();
"""
REFILL = """
INSERT INTO articles (id, title, body) SELECT n, 'title ' || n, 'anchor ' || n FROM generate_series(1, %(anchors)s) AS n;
"""
UPSERT = (
    "INSERT INTO articles (id, title, body) VALUES (%s, 'born', %s) "
    "ON CONFLICT (id) DO UPDATE SET title = excluded.title, body = excluded.body"
)


@dataclass(frozen=True)
class Table:
    """A documents table. `key`: its columns; `keyed`: the key of the document with the number n, in SQL."""

    create: str
    key: tuple[str, ...]
    keyed: str


PLAIN = Table(TABLE, ("id",), "n")


@dataclass(frozen=True)
class Load:
    """How the application writes. `keys`: how many documents it works on; few make them hot. `pause`: seconds between transactions.
    `captured`: its changes are heard of at once. `most_waiting`: it pauses while more documents than that wait for a version, as an application
    must whose store takes fewer than it writes; 0: never.

    `hot`: texts that can have no vector, and rows that are held for nothing, come often. `long_texts`: from one to about six chunks of a
    chunked version, so that documents grow and shrink all the time.
    """

    url: str
    keys: int
    writers: int
    pause: float = 0.002
    truncates: bool = False
    hot: bool = False
    long_texts: bool = False
    captured: bool = True
    most_waiting: int = 0


def prepare(conn: psycopg.Connection, keys: int, table: Table = PLAIN) -> None:
    """The application's table: the anchors, and documents to work on."""
    conn.execute(table.create)  # type: ignore[arg-type]
    conn.execute(DERIVE)
    insert = f"INSERT INTO articles ({', '.join(table.key)}, title, body) SELECT {table.keyed}, "
    conn.execute(insert + "'title ' || n, 'anchor ' || n FROM generate_series(1, %s) AS n", (ANCHORS,))  # type: ignore[arg-type]
    conn.execute(
        insert + "'title ' || n - %(first)s, 'first text of ' || n - %(first)s "  # type: ignore[arg-type]
        "FROM generate_series(%(first)s, %(first)s + %(keys)s - 1) AS n",
        {"first": FIRST, "keys": keys},
    )


def anchor_text(number: int) -> str:
    return f"title {number}\n\nanchor {number}"


def write(load: Load, me: int, season: int, seed: int, stop: Path, log_file: Path) -> None:
    """One writer, until `stop` exists. `season`: how often the load was started, so that no key or text is made up twice."""
    with Log(log_file) as log:
        Writer(load, me, season, seed, log).run(stop)


class Writer:
    """One process of the application."""

    def __init__(self, load: Load, me: int, season: int, seed: int, log: Log) -> None:
        self.load = load
        self.me = me
        self.season = season
        self.chosen = random.Random(f"{seed} writer {me}")
        self.log = log
        self.number = season * SEASON
        self.texts = itertools.count()
        self.fresh = (me + 1) * FRESH + season * SEASON
        self.own_fresh: list[int] = []
        self.conn = psycopg.connect(load.url, autocommit=True, application_name=f"application {me}")
        self.record: Record = {}
        self.impatient = Impatient(self)
        self.actions = self._weighted()

    def run(self, stop: Path) -> None:
        while not stop.exists():
            self._perform(self.chosen.choice(self.actions))
            if self.me == 0:
                self._perform(self._hottest)
            if self.conn.closed:
                self._reconnect(stop)
            time.sleep(self.load.pause)
            if self.load.most_waiting and self.number % LOOK_EVERY == 0:
                self._let_them_catch_up(stop)
        self._perform(self.impatient.remember)
        self.conn.close()

    def _perform(self, action: Callable[[], None]) -> None:
        self.number += 1
        with self.log.timed(action.__name__.strip("_")) as self.record:
            if not self.load.truncates or action == self._truncate:
                action()
                return
            asked = time.monotonic()
            with in_turn(self.conn):
                self._planned(time.monotonic() - asked)
                action()

    def _weighted(self) -> list[Callable[[], None]]:
        weights = {
            self._edit: 6,
            self._upsert: 4,
            self._delete: 3,
            self._reborn_at_once: 4,
            self._reborn: 3,
            self._rename: 2,
            self._copy: 1,
            self._late: 2,
            self._rolled_back: 2,
            self._derived: 3,
            self._locked_update: 3,
            self._strict: 3,
            self._pair: 6,
            self._back_and_forth: 5,
            self._blank_and_back: 3,
            self._poisoned: 6 if self.load.hot else 1,
            self._held: 4 if self.load.hot else 1,
            self._other_column: 2,
            self._tidy: 1,
            **self.impatient.weighted(),
        }
        actions = [action for action, weight in weights.items() for _ in range(weight)]
        return [*actions, self._truncate] if self.load.truncates and self.me == 0 else actions

    def _let_them_catch_up(self, stop: Path) -> None:
        with suppress(psycopg.OperationalError):
            while not stop.exists() and self._waiting() > self.load.most_waiting:
                time.sleep(0.1)

    def _waiting(self) -> int:
        row = self.conn.execute(
            "SELECT max(waiting) FROM (SELECT count(*) AS waiting FROM embed_pipeline.pending GROUP BY version) AS each_version"
        ).fetchone()
        return (row and row[0]) or 0

    def _reconnect(self, stop: Path) -> None:
        """As an application does when its server went away."""
        while not stop.exists():
            try:
                self.conn = psycopg.connect(self.load.url, autocommit=True, application_name=f"application {self.me}")
            except psycopg.OperationalError:
                time.sleep(0.1)
            else:
                return

    # Keys and texts

    def text(self) -> str:
        """A text that was never there before, in any document."""
        # Numbered on: two documents of one transaction with one text would pass for one that is paid for twice.
        text = f"text {self.number}.{next(self.texts)} of writer {self.me}"
        more = self.chosen.randint(0, 5) if self.load.long_texts else 0
        return "\n".join([text, *(f"line {line} after {text}" for line in range(more))])

    def _shared(self) -> int:
        """A document that every writer changes; one row at a time, or beside a private one."""
        return FIRST + self.chosen.randrange(0, self.load.keys, self.load.writers + 1)

    def private(self) -> int:
        """A document that no other writer touches."""
        return FIRST + 1 + self.me + self.chosen.randrange(0, self.load.keys, self.load.writers + 1)

    def all_private(self) -> list[int]:
        return [FIRST + 1 + self.me + number for number in range(0, self.load.keys, self.load.writers + 1)]

    def _any(self) -> int:
        return self._shared() if self.chosen.random() < 0.5 else self.private()

    def _wait(self, most: float) -> None:
        """A wait of the application's own making, which no pause of ours is measured with."""
        seconds = self.chosen.uniform(0, most)
        self._planned(seconds)
        time.sleep(seconds)

    def _planned(self, seconds: float) -> None:
        self.record["planned"] = self.record.get("planned", 0.0) + seconds

    def gone(self, *keys: int) -> None:
        """Note that these documents are deleted, now that it is committed."""
        if self.load.captured:
            self.record.setdefault("gone", []).extend(map(str, keys))

    def born(self, *keys: int) -> None:
        """Note that these documents may be there from now on."""
        self.record.setdefault("born", []).extend(map(str, keys))

    def _moved(self, key: int) -> None:
        """Note a text that will be embedded again with good reason: its document gets another key, or loses its vector meanwhile."""
        self.record.setdefault("moved", []).extend(
            f"{title}\n\n{body}" for title, body in self.conn.execute("SELECT title, body FROM articles WHERE id = %s", (key,))
        )

    # What it does

    def _edit(self) -> None:
        self.set_body(self._any(), self.text())

    def set_body(self, key: int, body: str) -> None:
        self.conn.execute("UPDATE articles SET body = %s WHERE id = %s", (body, key))

    def _hottest(self) -> None:
        """One document is edited all the time."""
        self.upsert_text(FIRST + 1 + self.me)

    def _upsert(self) -> None:
        self.upsert_text(self._any())

    def upsert_text(self, key: int) -> None:
        self.born(key)
        self.conn.execute(UPSERT, (key, self.text()))

    def _delete(self) -> None:
        key = self._any()
        self.conn.execute("DELETE FROM articles WHERE id = %s", (key,))
        self.gone(key)

    def _reborn_at_once(self) -> None:
        self._replace(self._any())

    def _replace(self, key: int) -> None:
        """Deleted and inserted again in one transaction."""
        with self.conn.transaction():
            self.conn.execute("DELETE FROM articles WHERE id = %s", (key,))
            self.upsert_text(key)

    def _reborn(self) -> None:
        key = self._any()
        self.conn.execute("DELETE FROM articles WHERE id = %s", (key,))
        self._wait(0.01)
        self.upsert_text(key)

    def _rename(self) -> None:
        key = self._any()
        self._moved(key)
        self.fresh += 1
        self.born(self.fresh)
        if self.conn.execute("UPDATE articles SET id = %s WHERE id = %s", (self.fresh, key)).rowcount:
            self.own_fresh.append(self.fresh)
            self.gone(key)

    def _copy(self) -> None:
        """COPY in bulk, of keys that are new."""
        count = self.chosen.randrange(5, 40)
        with self.conn.cursor() as cursor, cursor.copy("COPY articles (id, title, body) FROM STDIN") as copy:
            for number in range(count):
                self.fresh += 1
                self.own_fresh.append(self.fresh)
                self.born(self.fresh)
                copy.write_row((self.fresh, "copied", f"{self.text()}, row {number}"))

    def _tidy(self) -> None:
        """Delete most of the keys made up, so that the table keeps its size."""
        gone, self.own_fresh = self.own_fresh[:-5], self.own_fresh[-5:]
        self.conn.execute("DELETE FROM articles WHERE id = ANY (%s)", (gone,))
        self.gone(*gone)

    def _late(self) -> None:
        """A transaction with an early number that commits late."""
        with self.conn.transaction():
            self.set_body(self.private(), self.text())
            self._wait(LATE_SECONDS)
            self.upsert_text(self._shared())

    def _rolled_back(self) -> None:
        with self.conn.transaction(force_rollback=True):
            key = self._any()
            if self.chosen.random() < 0.5:
                self.set_body(key, f"{self.text()}, never")
            else:
                self.conn.execute("DELETE FROM articles WHERE id = %s", (key,))
            self._wait(0.02)

    def _derived(self) -> None:
        self.conn.execute("UPDATE articles SET draft = %s WHERE id = %s", (self.text(), self._any()))

    def _locked_update(self) -> None:
        key = self._any()
        with self.conn.transaction():
            row = self.conn.execute("SELECT body FROM articles WHERE id = %s FOR UPDATE", (key,)).fetchone()
            self._wait(0.01)
            if row is not None:
                self.set_body(key, self.text())

    def _held(self) -> None:
        """A row is locked for a while, and nothing comes of it."""
        with self.conn.transaction():
            self.conn.execute("SELECT FROM articles WHERE id = %s FOR UPDATE", (self.private(),))
            self._wait(LATE_SECONDS)

    def _strict(self) -> None:
        """Read, then write, under a snapshot; one writer alone is SERIALIZABLE, so that no two of them can be in each other's way."""
        key = self.private()
        with self._isolated(IsolationLevel.SERIALIZABLE if self.me == 0 else IsolationLevel.REPEATABLE_READ):
            row = self.conn.execute("SELECT body FROM articles WHERE id = %s", (key,)).fetchone()
            self._wait(0.02)
            deletes = row is not None and self.chosen.random() < 0.5
            if row is None:
                self.born(key)
                self.conn.execute("INSERT INTO articles (id, title, body) VALUES (%s, 'strict', %s)", (key, self.text()))
            elif deletes:
                self.conn.execute("DELETE FROM articles WHERE id = %s", (key,))
            else:
                self.set_body(key, self.text())
        if deletes:
            self.gone(key)

    @contextmanager
    def _isolated(self, level: IsolationLevel) -> Iterator[None]:
        self.conn.isolation_level = level
        try:
            with self.conn.transaction():
                yield
        finally:
            if not self.conn.closed:
                self.conn.isolation_level = None

    def _pair(self) -> None:
        """Two documents in one transaction, in either order: who waits for both of them in a batch deadlocks with this."""
        keys = [self.private(), self._shared()]
        self.chosen.shuffle(keys)
        kind = self.chosen.randrange(3)
        with self.conn.transaction():
            for key in keys:
                if kind == 0:
                    self.set_body(key, self.text())
                elif kind == 1:
                    self._replace(key)
                else:
                    self.conn.execute("SELECT FROM articles WHERE id = %s FOR UPDATE", (key,))
                self._wait(0.005)

    def _back_and_forth(self) -> None:
        """A text is edited, and the old text comes back."""
        key = self.private()
        row = self.conn.execute("SELECT body FROM articles WHERE id = %s", (key,)).fetchone()
        if row is not None:
            self.set_body(key, self.text())
            self._wait(0.05)
            self.set_body(key, row[0])

    def _blank_and_back(self) -> None:
        """A text that can have no vector for a while, and then the old one again."""
        key = self.private()
        row = self.conn.execute("SELECT title, body FROM articles WHERE id = %s", (key,)).fetchone()
        if row is not None:
            self._moved(key)
            self.conn.execute("UPDATE articles SET title = '', body = '' WHERE id = %s", (key,))
            self._wait(0.05)
            self.conn.execute("UPDATE articles SET title = %s, body = %s WHERE id = %s", (*row, key))

    def _poisoned(self) -> None:
        self.set_body(self._any(), f"poison {self.text()}")

    def _other_column(self) -> None:
        self.conn.execute("UPDATE articles SET views = views + 1 WHERE id = %s", (self._any(),))

    def _truncate(self) -> None:
        """The table is emptied and filled again in one transaction, which would rather fail than wait."""
        if self.chosen.random() < 0.7:
            return
        asked = time.monotonic()
        self.conn.execute(TAKE_ALONE)
        self._planned(time.monotonic() - asked)
        try:
            with self.conn.transaction():
                self.conn.execute(LOCK_TIMEOUT)
                self.conn.execute("TRUNCATE articles")
                self.conn.execute(REFILL, {"anchors": ANCHORS})
                self.born(*range(1, ANCHORS + 1))
                for _ in range(20):
                    self.upsert_text(self.private())
            self.record["truncated"] = True
        finally:
            if not self.conn.closed:
                self.conn.execute(LEAVE_ALONE)
