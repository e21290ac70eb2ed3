"""What the application does to its documents in the state machine, and the dictionary that says what they are."""

from __future__ import annotations

import psycopg
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from tests.races.machine_world import Databases, Documents, reopen, title_of

KEYS = st.integers(1, 3)
# Few, so that a text often comes back.
BODIES = st.sampled_from(["a", "b", "c"])
KINDS = st.sampled_from(["write", "there and back", "delete", "strict delete", "reborn", "blank"])
UPSERT = "INSERT INTO articles VALUES (%s, %s, %s) ON CONFLICT (id) DO UPDATE SET title = excluded.title, body = excluded.body"


class Application(RuleBasedStateMachine):
    """The rules of the application. `databases` is set by the test."""

    databases: Databases

    def __init__(self) -> None:
        super().__init__()
        self.url = self.databases.fresh()
        self.names = ["v1"]
        self.index = reopen(self.url, self.names)
        self.documents = Documents()
        self.app = psycopg.connect(self.url, autocommit=True)
        self.slow = psycopg.connect(self.url)
        self.slow_key: int | None = None
        self.slow_body: str | None = None

    def _free(self, *keys: int) -> bool:
        """Whether no open transaction of the application holds one of them: it would wait for itself."""
        return self.slow_key not in keys

    @rule(key=KEYS, body=BODIES)
    def write(self, key: int, body: str) -> None:
        """An edit where the document is there, an insert where it is not: also the re-insert of a key that was deleted."""
        self._put(key, body)

    @rule(key=KEYS, body=BODIES, kind=KINDS)
    def change(self, key: int, body: str, kind: str) -> None:
        """What applications do to one document: A -> B -> A in two transactions, and the same key again in one."""
        if key not in self.documents.now or kind == "write":
            self._put(key, body)
        elif kind == "there and back":
            before = self.documents.now[key]
            self._put(key, body)
            self._put(key, before)
        elif kind == "blank":
            self._put(key, None)
        elif self._free(key):
            self._delete(key, body if kind == "reborn" else None, strict=kind == "strict delete")

    @rule(key=KEYS, other=KEYS)
    def change_key(self, key: int, other: int) -> None:
        if key in self.documents.now and other not in self.documents.now and self._free(key, other):
            self.app.execute("UPDATE articles SET id = %s WHERE id = %s", (other, key))
            body = self.documents.now[key]
            self.documents.remove(key)
            self.documents.put(other, body)

    def _put(self, key: int, body: str | None) -> None:
        if self._free(key):
            self.app.execute(UPSERT, (key, title_of(body), body))
            self.documents.put(key, body)

    def _delete(self, key: int, reborn_as: str | None, *, strict: bool) -> None:
        with self.app.transaction():
            if strict:
                self.app.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            self.app.execute("DELETE FROM articles WHERE id = %s", (key,))
            if reborn_as is not None:
                self.app.execute(UPSERT, (key, title_of(reborn_as), reborn_as))
        self.documents.remove(key)
        if reborn_as is not None:
            self.documents.put(key, reborn_as)

    def _truncate(self) -> None:
        self.app.execute("TRUNCATE articles")
        self.documents.now.clear()

    @precondition(lambda self: self.slow_key is None)
    @rule(key=KEYS, body=BODIES)
    def begin_long_transaction(self, key: int, body: str) -> None:
        """Its changes draw their numbers now and are seen later."""
        self.slow.execute(UPSERT, (key, title_of(body), body))
        self.slow_key, self.slow_body = key, body

    @precondition(lambda self: self.slow_key is not None)
    @rule(commit=st.booleans())
    def end_long_transaction(self, commit: bool) -> None:
        assert self.slow_key is not None
        if commit:
            self.slow.commit()
            self.documents.put(self.slow_key, self.slow_body)
        else:
            self.slow.rollback()
        self.slow_key = None
