"""Vectors that an application has made itself, in PostgreSQL, become a version: what is copied, what is refused, and what is embedded."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from pydantic import ValidationError

from embed_pipeline.documents import shape
from embed_pipeline.errors import AdoptRefused, CatalogError, EmbedderError
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import adopt, cutover, gate
from embed_pipeline.migrate.opening import opened
from embed_pipeline.search import QueryVector, Searcher
from tests.harness.adopted import Open, give_vectors, text_of, vector_of
from tests.harness.articles import DOCUMENTS, change, counted, declared, fill, settle, stored, text_hash
from tests.harness.fakes import asked_texts

PGAI = "pgai==0.12.1"


@pytest.mark.parametrize("type_", ["vector(16)", "halfvec(16)", "vector"])
def test_a_column_becomes_a_version_and_serves_without_judgements(
    app: psycopg.Connection, open_adopting: Open, calls: Path, type_: str
) -> None:
    give_vectors(app, type_, range(1, DOCUMENTS - 1))
    index = open_adopting(precision=type_.partition("(")[0])
    found = adopt.adopt(index)
    assert (found.documents, found.to_copy, found.without_vector) == (DOCUMENTS, DOCUMENTS - 2, 2)
    assert (found.sampled, found.sample_lowest) == (DOCUMENTS - 2, pytest.approx(1, abs=1e-4))
    asked = len(asked_texts(calls))
    fill(index, "v1")
    assert len(asked_texts(calls)) == asked
    assert stored(app, "v1") == {str(n): text_hash(text_of(n)) for n in range(1, DOCUMENTS - 1)}
    settle(index)
    assert sorted(asked_texts(calls)[asked:]) == sorted(" ".join(text_of(n).split()) for n in (DOCUMENTS - 1, DOCUMENTS))
    labels = app.execute(
        "SELECT count(*) FILTER (WHERE adopted_at IS NOT NULL), count(embedded_at) FROM embed_pipeline.provenance"
    )
    assert labels.fetchone() == (DOCUMENTS - 2, 2)
    result = gate.run(index, "v1")
    assert result.outcome == "pass", result.sentence
    assert result.measures["agreement"]["share"] == 1
    assert app.execute("SELECT kind, holdout_sha256 IS NULL FROM embed_pipeline.evidence").fetchall() == [("adopted", False)]
    cutover.cutover(index, "v1")
    assert [
        event
        for (event,) in app.execute("SELECT event FROM embed_pipeline.events WHERE event IN ('adopt', 'gate pass') ORDER BY id")
    ] == [
        "adopt",
        "gate pass",
    ]
    app.execute("ALTER TABLE articles DROP COLUMN embedding")
    with index.connection() as conn:
        assert shape.look(conn, index.source, "docs") == []
    fill(open_adopting(register_new=True, precision=type_.partition("(")[0]), "v1")
    settle(index)


def test_vectors_of_another_model_are_refused_with_their_share(app: psycopg.Connection, open_adopting: Open) -> None:
    give_vectors(app)
    for number in range(1, 7):
        app.execute("UPDATE articles SET embedding = %s WHERE id = %s", (str(vector_of("another text")), number))
    index = open_adopting()
    with pytest.raises(
        AdoptRefused, match=r"54 of 60 sampled vectors agree with the declared model \(90\.0%; of all between 79\.9% and"
    ) as refused:
        adopt.adopt(index)
    assert "min_agreement is 98%" in refused.value.message
    assert app.execute("SELECT count(*) FROM embed_pipeline.index_versions").fetchone() == (0,)
    lower = open_adopting({"min_agreement": 0.8})
    assert adopt.adopt(lower).agreement.startswith("54 of 60")


def test_an_adopted_version_is_registered_by_its_adoption_alone(app: psycopg.Connection, open_adopting: Open) -> None:
    give_vectors(app)
    with pytest.raises(CatalogError, match="is to be adopted, and that has not been done yet"):
        open_adopting(register_new=True)
    adopt.adopt(open_adopting())
    open_adopting(register_new=True)


REFUSED = [
    ({"column": "embeding"}, {}, "has no column 'embeding'"),
    ({"column": "body"}, {}, "is text, and vectors are adopted out of vector or halfvec"),
    ({}, {"dimensions": 8}, "holds vectors of 16 dimensions, and version v1 declares 8"),
    ({"table": "public.nowhere"}, {}, "There is no table public.nowhere"),
    ({}, {"chunker": {"size": 100}}, "declares a chunker, and public.articles has one vector for a document"),
]


@pytest.mark.parametrize(("adopted", "version", "sentence"), REFUSED)
def test_what_cannot_be_the_version_is_refused(
    app: psycopg.Connection, open_adopting: Open, adopted: dict[str, Any], version: dict[str, Any], sentence: str
) -> None:
    give_vectors(app)
    with pytest.raises(AdoptRefused, match=sentence):
        adopt.adopt(open_adopting(adopted, **version))


def test_evidence_of_an_adoption_opens_no_way_past_what_serves(
    app: psycopg.Connection, open_filled: Callable[..., OpenIndex]
) -> None:
    """The database itself refuses it for anything but a first version."""
    with pytest.raises(psycopg.errors.CheckViolation):
        app.execute(
            "INSERT INTO embed_pipeline.gate_evidence (index_name, version, fingerprint, baseline_version, outcome, sentence, kind, documents, "
            "vectors, ef_search, measures, valid_until) SELECT 'docs', 'v1', fingerprint, 'v0', 'pass', '', 'adopted', 1, 1, 100, "
            "'{\"agreement\": {}}', now() + interval '1 day' FROM embed_pipeline.index_versions"
        )


def split(number: int) -> list[str]:
    """A document of two passages."""
    return [f"title {number}", f"body {number}"]


def make_pgai(app: psycopg.Connection, numbers: range) -> None:
    """The table that pgai's ai.create_vectorizer makes beside its source."""
    app.execute(
        "CREATE TABLE articles_embedding_store (embedding_uuid uuid NOT NULL PRIMARY KEY DEFAULT gen_random_uuid(), id bigint NOT NULL, "
        "chunk_seq int NOT NULL, chunk text NOT NULL, embedding vector(16) NOT NULL, UNIQUE (id, chunk_seq), "
        "FOREIGN KEY (id) REFERENCES articles ON DELETE CASCADE)"
    )
    fill_pgai(app, numbers)


def fill_pgai(app: psycopg.Connection, numbers: range) -> None:
    """As pgai's worker does."""
    for number in numbers:
        for seq, chunk in enumerate(split(number)):
            app.execute(
                "INSERT INTO articles_embedding_store (id, chunk_seq, chunk, embedding) VALUES (%s, %s, %s, %s)",
                (number, seq, chunk, str(vector_of(chunk))),
            )


def test_passages_of_a_vectorizers_table_become_a_version(app: psycopg.Connection, open_adopting: Open, calls: Path) -> None:
    """Found by looking. A document of which a passage is of an older text, or is missing, is embedded whole."""
    make_pgai(app, range(1, DOCUMENTS))
    app.execute("UPDATE articles_embedding_store SET chunk = 'an older body' WHERE id = 7 AND chunk_seq = 1")
    app.execute("DELETE FROM articles_embedding_store WHERE id = 8")
    index = open_adopting({"table": "public.articles_embedding_store"}, chunker={"size": 10})
    found = adopt.adopt(index)
    assert (found.to_copy, found.without_vector) == (DOCUMENTS - 3, 3)
    asked = len(asked_texts(calls))
    fill(index, "v1")
    rows = app.execute(
        "SELECT doc_id, chunk, passage_start, passage_end FROM embed_pipeline.provenance WHERE doc_id = '12' ORDER BY chunk"
    ).fetchall()
    assert rows == [("12", 0, 0, 8), ("12", 1, 10, 17)]
    assert len(asked_texts(calls)) == asked
    settle(index)
    assert {" ".join(text.split()) for text in asked_texts(calls)[asked:]} == {
        part for n in (7, 8, DOCUMENTS) for part in split(n)
    }
    assert gate.run(index, "v1").outcome == "pass"


@pytest.mark.soak
def test_the_table_that_pgai_itself_makes(app: psycopg.Connection, open_adopting: Open, calls: Path, tmp_path: Path) -> None:
    """By the SQL that `pgai install` runs, out of pgai's wheel. Its worker asks a provider: the rows are written as it writes them."""
    pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "-d", str(tmp_path), PGAI]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"{PGAI} cannot be had here: {done.stderr.strip().splitlines()[-1]}")
    (wheel,) = tmp_path.glob("pgai-*.whl")
    with zipfile.ZipFile(wheel) as files, app.transaction():
        # As its installer does.
        app.execute(files.read("pgai/data/ai.sql").replace(b"@extschema:vector@", b"public"))
    app.execute(
        "SELECT ai.create_vectorizer('articles'::regclass, loading => ai.loading_column('body'), embedding => ai.embedding_openai('m', 16), "
        "indexing => ai.indexing_none(), scheduling => ai.scheduling_none(), enqueue_existing => false)"
    )
    fill_pgai(app, range(1, DOCUMENTS))
    index = open_adopting({"table": "public.articles_embedding_store"}, chunker={"size": 10})
    assert adopt.adopt(index).to_copy == DOCUMENTS - 1
    asked = len(asked_texts(calls))
    fill(index, "v1")
    assert len(asked_texts(calls)) == asked, "nothing is embedded again"
    settle(index)
    assert gate.run(index, "v1").outcome == "pass"
    # Its own view over source and vectors answers as before.
    assert app.execute("SELECT count(DISTINCT id) FROM articles_embedding").fetchone() == (DOCUMENTS - 1,)


def test_a_table_beside_the_documents_is_taken_where_its_text_is_theirs(app: psycopg.Connection, open_adopting: Open) -> None:
    """Its key is of another type, and it keeps what it has embedded: an older text is seen there."""
    app.execute("CREATE TABLE vectors (of varchar, said text, v halfvec(16))")
    for number in range(1, DOCUMENTS + 1):
        said = text_of(number) if number != 9 else "an older text"
        app.execute("INSERT INTO vectors VALUES (%s, %s, %s)", (str(number), said, str(vector_of(said))))
    place = {"table": "vectors", "key": ["of"], "text": "said"}
    with pytest.raises(AdoptRefused, match="no index that begins with of") as refused:
        adopt.adopt(open_adopting(place))
    app.execute((refused.value.next_step or "").removeprefix("Run: "))
    index = open_adopting(place)
    assert adopt.adopt(index).to_copy == DOCUMENTS - 1
    fill(index, "v1")
    assert sorted(stored(app, "v1"), key=int) == [str(n) for n in range(1, DOCUMENTS + 1) if n != 9]
    settle(index)


# As the frameworks make them: langchain-postgres 0.0.19 (PGVector, and PGVectorStore), llama-index-vector-stores-postgres 0.9.0.
FRAMEWORKS = {
    "langchain_pg_embedding": (
        "id varchar PRIMARY KEY, collection_id uuid, embedding vector, document varchar, cmetadata jsonb",
        "id",
        "document",
        "gen_random_uuid()::text",
    ),
    "vectorstore": (
        "langchain_id uuid PRIMARY KEY, content text NOT NULL, embedding vector(16) NOT NULL, langchain_metadata json",
        "langchain_id",
        "content",
        "gen_random_uuid()",
    ),
    "data_notes": (
        "id bigserial PRIMARY KEY, text varchar NOT NULL, metadata_ json, node_id varchar, embedding vector(16)",
        "id",
        "text",
        "nextval('data_notes_id_seq')",
    ),
}


@pytest.mark.parametrize("table", FRAMEWORKS)
def test_a_frameworks_table_is_adopted_where_it_is(
    app: psycopg.Connection, database_url: str, holdout: Path, calls: Path, table: str
) -> None:
    """Each row is a document with its vector: the framework goes on with its table, which is only read."""
    columns, key, text, drawn = FRAMEWORKS[table]
    app.execute(f"CREATE TABLE {table} ({columns})")
    for number in range(DOCUMENTS):
        body = f"body {number}"
        app.execute(f"INSERT INTO {table} ({key}, {text}, embedding) VALUES ({drawn}, %s, %s)", (body, str(vector_of(body))))
    before = app.execute(f"SELECT xmin::text, * FROM {table} ORDER BY {key}").fetchall()
    spec = declared(
        database_url,
        holdout,
        documents={"table": table, "key": key, "text": [text]},
        store={"kind": "pgvector", "adopt": {"version": "v1"}},
        versions={"v1": counted(calls)},
    )
    with opened(spec, register_new=False) as index:
        assert adopt.adopt(index).to_copy == DOCUMENTS
        asked = len(asked_texts(calls))
        fill(index, "v1")
        settle(index)
        assert gate.run(index, "v1").outcome == "pass"
        cutover.cutover(index, "v1")
    # The sample, and once more at the gate.
    assert len(asked_texts(calls)) == 2 * asked
    # But for the canary's one row, which is locked.
    assert app.execute(f"SELECT xmin::text, * FROM {table} ORDER BY {key}").fetchall() == before


def test_vectors_whose_model_is_gone_are_the_old_side_of_a_migration(
    app: psycopg.Connection, database_url: str, holdout: Path, calls: Path
) -> None:
    give_vectors(app, numbers=range(1, DOCUMENTS))
    gone = {"provider": "retired", "model_name": "ada", "dimensions": 16}
    store = {"kind": "pgvector", "adopt": {"version": "v1"}}
    rule = {"min_queries": 2, "margin": 0.2, "max_dead_letters": 2, "floor": 0.5, "floor_alone": True}
    with opened(declared(database_url, holdout, store=store, gate=rule, versions={"v1": gone}), register_new=False) as index:
        assert adopt.adopt(index).agreement == "Nothing was compared: the model ada is retired"
        fill(index, "v1")
        change(app, 7, "another body")
        settle(index)
        letters = app.execute("SELECT doc_id, reason FROM embed_pipeline.dead_letters ORDER BY 1").fetchall()
        assert letters == [(str(DOCUMENTS), "the model ada is retired"), ("7", "the model ada is retired")]
        assert "7" not in stored(app, "v1")
        assert "is retired, so nothing was compared" in gate.run(index, "v1").sentence
        cutover.cutover(index, "v1")
    both = {"v1": gone, "v2": counted(calls)}
    with opened(declared(database_url, holdout, store=store, gate=rule, versions=both)) as index:
        with Searcher("docs", database_url=database_url) as searcher:
            with pytest.raises(EmbedderError, match="Nobody can search by a text: the model ada is retired"):
                searcher.search("title 3")
            fingerprint = app.execute("SELECT fingerprint FROM embed_pipeline.serving").fetchone()
            assert fingerprint is not None
            asked = QueryVector("v1", fingerprint[0], np.asarray(vector_of(text_of(3)), dtype=np.float32))
            assert searcher.search_vector(asked, 1).hits[0].doc_id == "3"
        fill(index, "v2")
        assert gate.run(index, "v2").outcome == "pass"
        assert cutover.cutover(index, "v2").previous == "v1"


def test_a_retired_model_is_declared_for_vectors_that_are_there(database_url: str, holdout: Path) -> None:
    with pytest.raises(ValidationError, match="retired is for a version whose vectors are there"):
        declared(database_url, holdout, versions={"v1": {"provider": "retired", "model_name": "ada", "dimensions": 16}})
