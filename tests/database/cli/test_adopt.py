"""The road of vectors that are there already, from the command line: adopt, backfill, gate, cutover, and what refuses."""

from __future__ import annotations

from collections.abc import Callable

import psycopg

from tests.database.cli.conftest import DOCUMENTS, Place, Ran, text_of, version
from tests.harness.fakes import WordsEmbedder

Run = Callable[..., Ran]


def make_notes(app: psycopg.Connection, salt: str = "one") -> None:
    """A table with the vectors of the model that `version()` declares under this salt; the last note has none."""
    model = WordsEmbedder(dimensions=32, model_name="words-1", salt=salt)
    app.execute("CREATE TABLE notes (id bigint PRIMARY KEY, body text, embedding vector(32))")
    for number in range(DOCUMENTS):
        vector = str(model.vector(text_of(number)).tolist()) if number < DOCUMENTS - 1 else None
        app.execute("INSERT INTO notes VALUES (%s, %s, %s)", (number, text_of(number), vector))


def declare(place: Place) -> None:
    place.declare(
        documents={"table": "notes", "key": "id", "text": ["body"]},
        store={"kind": "pgvector", "adopt": {"version": "v1"}},
        versions={"v1": version()},
    )


def test_a_column_is_adopted_copied_and_serves(place: Place, run: Run, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as app:
        make_notes(app)
    declare(place)
    early = run("backfill", "docs", "v1")
    assert (early.code, "next: embed-pipeline adopt docs" in early.err or "Run: embed-pipeline adopt docs" in early.err) == (
        1,
        True,
    )
    planned = run("plan", "docs", "v1")
    assert "vectors: copied from notes, where they are of the texts" in planned.out
    adopted = run("adopt", "docs")
    assert adopted.code == 0, adopted.err
    assert adopted.out.splitlines() == [
        "docs.v1: 49 documents of 50 with a vector to copy.",
        "49 of 49 sampled vectors agree with the declared model (100.0%; of all between 92.7% and 100.0%, 95 % interval).",
        "1 document without a vector of its text: queued, and embedded.",
        "next: embed-pipeline backfill docs v1",
    ]
    filled = run("backfill", "docs", "v1", "--json")
    assert (filled.code, filled.value["stored"]) == (0, DOCUMENTS - 1), filled.err
    assert run("sync", "docs").code == 0
    judged = run("gate", "docs", "v1")
    assert judged.code == 0, judged.err
    assert "v1 is adopted and the first version of docs; 50 of 50 sampled vectors agree" in judged.out
    assert run("cutover", "docs", "v1").code == 0
    assert run("search", "docs", "number7").code == 0


def test_vectors_of_another_model_are_refused_in_one_sentence(place: Place, run: Run, database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as app:
        make_notes(app, salt="another")
    declare(place)
    refused = run("adopt", "docs")
    assert refused.code == 1
    assert (
        "The vectors of public.notes.embedding are not what words-1 makes of the texts: 0 of 49 sampled vectors agree"
        in refused.err
    )
    assert "Nothing was written." in refused.err
