"""The read path: a query meets the vectors of its own version or none."""

from __future__ import annotations

import asyncio
import dataclasses
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from embed_pipeline import AsyncSearcher, Searcher
from embed_pipeline.errors import CatalogError, ConfigurationError, VersionRetired, WrongSpace
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import cutover, gate, retire
from embed_pipeline.stores.pgvector import PgvectorStore
from tests.harness.articles import DOCUMENTS, fill, serve, settle
from tests.harness.postgres.standby import eventually
from tests.harness.providers.loopback import Provider

Open = Callable[..., OpenIndex]
TEXT = "title 7\n\nbody 7"


@pytest.fixture
def both(open_docs: Open) -> OpenIndex:
    """v1 serves, v2 is ready and has passed."""
    serve(open_docs("v1"), "v1")
    index = open_docs("v1", "v2")
    fill(index, "v2")
    gate.run(index, "v2")
    return index


@pytest.fixture
def searcher(both: OpenIndex) -> Iterator[Searcher]:
    with Searcher("docs", both.url, refresh_seconds=30) as opened:
        yield opened


def test_import_brings_no_dagster() -> None:
    """An application's request path must not pay for an orchestrator."""
    code = (
        "import sys; from embed_pipeline import Searcher; "
        "heavy = {'dagster', 'alembic', 'sqlalchemy', 'onnxruntime', 'matplotlib', 'pyarrow', 'qdrant_client'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_finds_the_document(searcher: Searcher) -> None:
    answer = searcher.search(TEXT, 3)
    assert (answer.version, answer.generation) == ("v1", 1)
    assert answer.hits[0].doc_id == "7"
    assert answer.hits[0].distance == pytest.approx(0, abs=1e-6)
    assert len(answer.hits) == 3
    assert [hit.distance for hit in answer.hits] == sorted(hit.distance for hit in answer.hits)


def test_named_version_and_exact_search(searcher: Searcher) -> None:
    assert searcher.search(TEXT, 1, version="v2").hits[0].doc_id == "7"
    assert searcher.search(TEXT, 1, exact=True).hits[0].doc_id == "7"
    with pytest.raises(CatalogError, match="no version 'v9'"):
        searcher.search(TEXT, version="v9")


def test_filter_by_the_documents_columns(app: psycopg.Connection, searcher: Searcher) -> None:
    """A rare filter still fills the answer: the ANN scan goes on until it has enough."""
    app.execute("UPDATE articles SET views = 5 WHERE id IN (20, 30, 40)")
    assert {hit.doc_id for hit in searcher.search(TEXT, 3, where={"views": 5}).hits} == {"20", "30", "40"}
    assert searcher.search(TEXT, 3, where={"views": 99}).hits == []
    with pytest.raises(ConfigurationError, match="has no column 'nonsense' to filter by; it has id, title, body, views"):
        searcher.search(TEXT, where={"nonsense": 1})


def test_filter_by_columns_that_were_altered(app: psycopg.Connection, searcher: Searcher) -> None:
    """A long-lived searcher learns of a column that changes its type, its name, or comes."""
    assert len(searcher.search(TEXT, 100, where={"views": 0}).hits) == DOCUMENTS
    app.execute("ALTER TABLE articles ALTER COLUMN views DROP DEFAULT, ALTER COLUMN views TYPE text")
    assert len(searcher.search(TEXT, 100, where={"views": "0"}).hits) == DOCUMENTS
    app.execute("ALTER TABLE articles RENAME COLUMN views TO looks")
    app.execute("ALTER TABLE articles ADD COLUMN seen boolean")
    assert len(searcher.search(TEXT, 100, where={"looks": "0", "seen": None}).hits) == DOCUMENTS
    with pytest.raises(ConfigurationError, match="no column 'views'"):
        searcher.search(TEXT, 100, where={"views": "0"})


def test_rare_filter_over_an_ann_index(app: psycopg.Connection, open_docs: Open) -> None:
    """A graph that is looked at 10 documents at a time, and three documents far from the query among 3,000 that pass the filter."""
    app.execute(
        "INSERT INTO articles (id, title, body, views) SELECT n, 'title ' || n, 'body ' || n, CASE WHEN n IN (2000, 2900) THEN 5 ELSE 0 END "
        "FROM generate_series(61, 3000) AS n"
    )
    app.execute("UPDATE articles SET views = 5 WHERE id = 20")
    version = {"provider": "tests.harness.fakes:HashEmbedder", "model_name": "m", "dimensions": 16, "hnsw": {"ef_search": 10}}
    index = open_docs(versions={"v1": version})
    serve(index, "v1")
    # Left alone, the planner would rather sort so few; whoever may not sort has to take the graph.
    app.execute(sql.SQL("ALTER DATABASE {} SET enable_sort = off").format(sql.Identifier(app.info.dbname)))
    with Searcher("docs", index.url) as searcher:
        assert {hit.doc_id for hit in searcher.search(TEXT, 3, where={"views": 5}).hits} == {"20", "2000", "2900"}


def test_a_threshold_is_of_the_version_that_is_searched(open_docs: Open) -> None:
    """Declared anew it counts at the next look, without another space; each version has its own, and one without leaves nothing out."""
    spaces = [
        {"provider": "tests.harness.fakes:HashEmbedder", "model_name": salt, "dimensions": 16, "options": {"salt": salt}}
        for salt in ("v1", "v2")
    ]
    serve(open_docs(versions={"v1": spaces[0] | {"min_score": -0.001}}), "v1")
    index = open_docs(versions={"v1": spaces[0] | {"min_score": -0.001}, "v2": spaces[1]})
    fill(index, "v2")
    with Searcher("docs", index.url, refresh_seconds=0) as searcher:
        assert [hit.doc_id for hit in searcher.search(TEXT, 5, min_score="declared").hits] == ["7"]
        assert [hit.doc_id for hit in searcher.search_vector(searcher.embed(TEXT), 5, min_score="declared").hits] == ["7"]
        assert len(searcher.search(TEXT, 5, min_score="declared", version="v2").hits) == 5
        scores = [hit.score for hit in searcher.search(TEXT, 5).hits]
        assert len(scores) == 5
        assert len(searcher.search(TEXT, 5, min_score=scores[2]).hits) == 3
        open_docs(versions={"v1": spaces[0] | {"min_score": scores[1]}})
        assert len(searcher.search(TEXT, 5, min_score="declared").hits) == 2


def test_query_vector_of_another_version_is_refused(searcher: Searcher) -> None:
    """The same dimension would compute, and mean nothing."""
    query = searcher.embed(TEXT, "v2")
    assert searcher.search_vector(query, 1).hits[0].doc_id == "7"
    with pytest.raises(WrongSpace, match="The query vector is of space"):
        searcher.search_vector(dataclasses.replace(query, version="v1"))
    with pytest.raises(WrongSpace, match="16 dimensions"):
        searcher.search_vector(dataclasses.replace(query, values=query.values[:8]))


def sql_search(
    app: psycopg.Connection, version: str, fingerprint: str, values: object, k: int = 3
) -> list[tuple[str, int, float]]:
    vector = str([float(each) for each in values])  # type: ignore[attr-defined]
    return app.execute(
        "SELECT * FROM embed_pipeline.search('docs', %s, %s, %s::vector, %s)", (version, fingerprint, vector, k)
    ).fetchall()


def test_sql_search_is_version_scoped(app: psycopg.Connection, searcher: Searcher) -> None:
    query = searcher.embed(TEXT, "v1")
    assert sql_search(app, "v1", query.fingerprint, query.values)[0][0] == "7"
    other = searcher.embed(TEXT, "v2")
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="of another space than version v1"):
        sql_search(app, "v1", other.fingerprint, other.values)
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="has 3 dimensions"):
        sql_search(app, "v1", query.fingerprint, [1, 2, 3])
    with pytest.raises(psycopg.errors.UndefinedObject, match="no live version v3"):
        sql_search(app, "v3", query.fingerprint, query.values)


def test_sql_search_gives_as_many_as_there_are(app: psycopg.Connection, searcher: Searcher) -> None:
    """Of all, of some, of passages of which many belong to one document; and what is no number of documents is refused."""
    query = searcher.embed(TEXT, "v1")
    nearest = [hit.doc_id for hit in searcher.search(TEXT, DOCUMENTS, exact=True).hits]

    def found(k: object, among: list[str] | None) -> list[str]:
        values = str([float(each) for each in query.values])
        rows = app.execute(
            "SELECT doc_id FROM embed_pipeline.search('docs', 'v1', %s, %s::vector, %s, among => %s)",
            (query.fingerprint, values, k, among),
        )
        return [doc_id for (doc_id,) in rows]

    assert found(DOCUMENTS * 2, None) == nearest
    some = [doc_id for doc_id in nearest if int(doc_id) % 4 == 0]
    for wanted, k in ((some, 5), (some[::-1], 100), (["no document", *some[-3:]], 2), ([], 3)):
        assert found(k, wanted) == [doc_id for doc_id in nearest if doc_id in wanted][:k]
    app.execute("DELETE FROM articles WHERE id = %s", (some[0],))
    assert found(3, some) == some[1:4]
    for k in (0, -1, None, 100_001):
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="a search gives from 1 to 100000 documents"):
            found(k, None)


def test_reader_role_needs_select_only(app: psycopg.Connection, searcher: Searcher) -> None:
    query = searcher.embed(TEXT, "v1")
    role = sql.Identifier(f"reader_{app.info.dbname}")
    app.execute(sql.SQL("CREATE ROLE {}").format(role))
    try:
        app.execute(sql.SQL("GRANT USAGE ON SCHEMA embed_pipeline TO {}").format(role))
        app.execute(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA embed_pipeline TO {}").format(role))
        app.execute(sql.SQL("SET ROLE {}").format(role))
        assert sql_search(app, "v1", query.fingerprint, query.values)[0][0] == "7"
        app.execute("BEGIN READ ONLY")
        assert sql_search(app, "v1", query.fingerprint, query.values)[0][0] == "7"
        app.execute("ROLLBACK")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            app.execute("DELETE FROM embed_pipeline.pending")
    finally:
        app.execute("RESET ROLE")
        app.execute(sql.SQL("DROP OWNED BY {}").format(role))
        app.execute(sql.SQL("DROP ROLE {}").format(role))


def test_query_version_survives_flip(both: OpenIndex, searcher: Searcher) -> None:
    """A reader that resolved just before the flip still finds its version, and its answer says which."""
    query = searcher.embed(TEXT)
    cutover.cutover(both, "v2")
    answer = searcher.search_vector(query, 1)
    assert (answer.version, answer.hits[0].doc_id) == ("v1", "7")


def test_flip_is_heard_by_notify(both: OpenIndex, searcher: Searcher) -> None:
    """The cache would be trusted for another thirty seconds; the notification ends that."""
    assert searcher.search(TEXT, 1).version == "v1"
    cutover.cutover(both, "v2")
    eventually(lambda: not searcher._resolved, "the flip was heard")
    assert searcher.search(TEXT, 1).version == "v2"


def test_retired_under_a_cached_pointer(both: OpenIndex, searcher: Searcher) -> None:
    """The version goes away between the look at the pointer and the search: the searcher looks again, the caller sees nothing."""
    look = searcher._resolve
    seen = [look(None)]
    cutover.cutover(both, "v2")
    retire.retire(both, "v1", "v1")
    searcher._resolve = lambda version: seen.pop() if seen else look(version)  # type: ignore[method-assign]
    assert searcher.search(TEXT, 1).version == "v2"
    assert not seen, "it had looked before"


def test_retired_under_the_search(searcher: Searcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store says it in its own way; the searcher looks at the pointer again, once."""
    real, retired = PgvectorStore.search, ["once"]

    def search(*given: Any, **options: Any) -> Any:
        if retired:
            retired.pop()
            raise VersionRetired("v1 of docs was retired meanwhile.")
        return real(*given, **options)

    monkeypatch.setattr(PgvectorStore, "search", search)
    assert searcher.search(TEXT, 1).hits[0].doc_id == "7"
    retired += ["first", "second"]
    with pytest.raises(VersionRetired):
        searcher.search(TEXT, 1)


def test_many_threads_across_a_flip(both: OpenIndex, searcher: Searcher) -> None:
    """Every answer is wholly of one version: its hits are what that version's own exact search gives."""
    expected = {name: searcher.search(TEXT, 5, version=name, exact=True).hits for name in ("v1", "v2")}
    problems: list[object] = []
    seen: set[str] = set()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            answer = searcher.search(TEXT, 5, exact=True)
            seen.add(answer.version)
            if list(answer.hits) != list(expected[answer.version]):
                problems.append(answer)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    cutover.cutover(both, "v2")
    cutover.rollback(both)
    cutover.cutover(both, "v2", again=True)
    searcher._forget()
    while "v2" not in seen:
        searcher._forget()
    stop.set()
    for thread in threads:
        thread.join()
    assert problems == []


def test_async_searcher(both: OpenIndex) -> None:
    async def ask() -> list[str]:
        async with AsyncSearcher("docs", both.url) as searcher:
            answers = await asyncio.gather(*(searcher.search(f"title {n}\n\nbody {n}", 1) for n in range(1, 9)))
            return [answer.hits[0].doc_id for answer in answers]

    assert asyncio.run(ask()) == [str(n) for n in range(1, 9)]


def test_index_that_serves_nothing(open_docs: Open) -> None:
    index = open_docs("v1")
    with Searcher("docs", index.url) as searcher, pytest.raises(CatalogError, match="serves nothing yet"):
        searcher.search(TEXT)


def test_halfvec_and_other_distances(open_docs: Open) -> None:
    base = {"provider": "tests.harness.fakes:HashEmbedder", "model_name": "m", "dimensions": 16}
    for distance in ("cosine", "inner_product", "l2"):
        version = base | {"precision": "halfvec", "distance": distance, "options": {"salt": distance}}
        name = f"docs_{distance}"
        index = open_docs(name=name, versions={"v1": version})
        serve(index, "v1")
        settle(index)
        with Searcher(name, index.url) as searcher:
            assert searcher.search(TEXT, 3).hits[0].doc_id == "7"


def test_a_provider_that_moved_is_asked_where_it_was_last_declared(open_docs: Open, provider: Provider) -> None:
    """A version keeps the declaration that it was registered with; the way to its provider is none of its space."""
    version = {"provider": "openai", "model_name": "text-embedding-3-small", "dimensions": 16}
    open_docs(versions={"v1": version | {"base_url": "http://127.0.0.1:9/v1"}})
    serve(open_docs(versions={"v1": version | {"base_url": provider.base_url("openai")}}), "v1")
    with Searcher("docs", open_docs(versions={"v1": version}).url) as elsewhere:
        # Declared a third time, without a server of its own: now it is the provider itself, which no test asks.
        assert elsewhere._resolve(None).embedder.spec.base_url is None
    index = open_docs(versions={"v1": version | {"base_url": provider.base_url("openai")}})
    with Searcher("docs", index.url) as searcher:
        assert searcher.search(TEXT, 1).hits[0].doc_id == "7"
