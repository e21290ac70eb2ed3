"""A collection's strict mode: everything works with what Qdrant Cloud sets, limits are kept to, and what cannot be is refused by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psycopg
import pytest
from qdrant_client import models

from embed_pipeline.errors import ConfigurationError
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import cutover, dual_write, gate, retire, verify
from embed_pipeline.migrate.opening import opened as index_opened
from embed_pipeline.report.status import status
from embed_pipeline.search import Searcher
from embed_pipeline.stores import patience
from embed_pipeline.stores.qdrant import compare
from embed_pipeline.stores.qdrant.own_fields import DELETED_AT, partition_of
from tests.harness.articles import DOCUMENTS, fill, require_consistent, serve, settle
from tests.harness.clock import Clock
from tests.harness.qdrant.loopback import Loopback
from tests.harness.qdrant.strict import CLOUD
from tests.harness.stores import LAYOUTS, Declared
from tests.stores.holding import store_of
from tests.stores.qdrant.by_hand import text_of
from tests.stores.qdrant.world import World

Open = Callable[..., OpenIndex]

VIEWS = {"column": "views", "index": "integer"}
ARTICLES = {"table": "articles", "key": "id", "text": ["title", "body"]}
QUERY = "title 5\n\nbody 5"
# Each limit as low as a request of ours can be cut to.
LIMITS: dict[str, Any] = {
    "upsert_max_batchsize": 7,
    "max_query_limit": 5,
    "search_max_batchsize": 1,
    "filter_max_conditions": 2,
    "condition_max_size": 9,
    "max_timeout": 1,
    "search_max_hnsw_ef": 10,
    "search_allow_exact": False,
}
CLOUD_INDEXES = {DELETED_AT: "float", partition_of("v1"): "integer"}


@pytest.fixture
def strict(shared_loopback: Loopback) -> Iterator[Callable[..., None]]:
    """Sets what new collections have beside the cloud's defaults."""

    def switch(**limits: Any) -> None:
        shared_loopback.strict(**{**CLOUD, **limits})

    yield switch
    shared_loopback.clear()


@pytest.fixture(params=LAYOUTS)
def place(request: pytest.FixtureRequest, qdrant_at: Callable[[str], Declared]) -> Declared:
    return qdrant_at(f"loopback-{request.param}-cloud")


def migrate(index: OpenIndex, app: psycopg.Connection, url: str) -> None:
    """A migration with everything that asks Qdrant for something: nothing is refused, nothing is missing."""
    serve(index, "v1")
    fill(index, "v2")
    app.execute("UPDATE articles SET body = body || ' edited', views = views + 1 WHERE id <= 20")
    app.execute("DELETE FROM articles WHERE id > 50")
    settle(index)
    assert gate.run(index, "v2").outcome == "pass"
    cutover.cutover(index, "v2")
    cutover.rollback(index)
    cutover.cutover(index, "v2", again=True)
    with Searcher("docs", url) as searcher:
        found = searcher.search(QUERY, k=30, where={"views": 1}).hits
        assert {int(hit.doc_id) for hit in found} == set(range(1, 21))
        assert searcher.search("title 30\n\nbody 30", k=3, exact=True).hits[0].doc_id == "30"
        assert len(searcher.search(QUERY, k=DOCUMENTS).hits) == 50
        # Nearly all are gone, and no worker has seen it.
        app.execute("CREATE TEMPORARY TABLE kept AS SELECT * FROM articles WHERE id <= 4")
        app.execute("BEGIN; TRUNCATE articles; INSERT INTO articles SELECT * FROM kept; COMMIT")
        assert len(searcher.search(QUERY, k=10).hits) == 4
    settle(index)
    for version in index_versions(index):
        labels = store_of(index, version)
        with index.connection() as conn:
            found_labels = labels.labels(conn)
            assert (found_labels.foreign, labels.count(conn)) == (0, 4)
    assert {each.name for each in status(index).versions} == {"v1", "v2"}
    retire.retire(index, "v1", confirm="v1")
    require_consistent(index)


def index_versions(index: OpenIndex) -> tuple[str, ...]:
    return tuple(index.spec.versions)


def opened(open_docs: Open, place: Declared, *names: str, **overrides: Any) -> OpenIndex:
    return open_docs(*(names or ("v1", "v2")), **({"store": place, "documents": {**ARTICLES, "payload": [VIEWS]}} | overrides))


def test_a_migration_under_every_limit(
    app: psycopg.Connection, open_docs: Open, place: Declared, strict: Callable[..., None], database_url: str
) -> None:
    strict(**LIMITS)
    migrate(opened(open_docs, place), app, database_url)


@pytest.mark.soak
@pytest.mark.parametrize("limit", [*LIMITS, "none but the cloud's"])
def test_a_migration_under_one_limit(
    app: psycopg.Connection, open_docs: Open, place: Declared, strict: Callable[..., None], database_url: str, limit: str
) -> None:
    strict(**({limit: LIMITS[limit]} if limit in LIMITS else {}))
    migrate(opened(open_docs, place), app, database_url)


@pytest.mark.parametrize("limits", [{}, LIMITS], ids=["cloud", "every limit"])
@pytest.mark.parametrize("world", [("", "collections"), ("dense", "named_vectors")], indirect=True, ids="-".join)
def test_an_adoption_under_strict_mode(world: World, strict: Callable[..., None], limits: dict[str, Any]) -> None:
    """Found, marked, migrated, searched and retired; its indexes are made when it is this index's, and not before."""
    strict()
    world.collection.make()
    client = world.collection.client
    client.update_collection(world.collection.name, strict_mode_config=models.StrictModeConfig(**{**CLOUD, **limits}))
    assert not set(client.get_collection(world.collection.name).payload_schema) & set(CLOUD_INDEXES)
    done = world.adopt()
    assert (done.adopted, done.differing) == (60, 0)
    schema = client.get_collection(world.collection.name).payload_schema
    assert {field: schema[field].data_type.value for field in CLOUD_INDEXES} == CLOUD_INDEXES
    with index_opened(world.spec("v1", "v2")) as index:
        fill(index, "v1")
        gate.run(index, "v1")
        cutover.cutover(index, "v1")
        fill(index, "v2")
        world.app.execute("UPDATE docs SET text = text || ' edited' WHERE id = '1'")
        world.app.execute("DELETE FROM docs WHERE id = '40'")
        settle(index)
        gate.run(index, "v2")
        cutover.cutover(index, "v2")
        with Searcher("docs", world.database_url) as searcher:
            assert searcher.search(text_of(4), k=1, where={"lang": "en"}).hits[0].doc_id == "4"
        retire.retire(index, "v1", confirm="v1")
        settle(index)


def test_a_collection_is_made_with_the_indexes_of_our_own_fields(
    open_docs: Open, place: Declared, shared_loopback: Loopback
) -> None:
    index = opened(open_docs, place, "v1")
    collection = store_of(index, "v1").place.collection
    schema = shared_loopback.client().get_collection(collection).payload_schema
    assert {field: info.data_type.value for field, info in schema.items()} == {**CLOUD_INDEXES, "views": "integer"}
    made = [each["path"] for each in shared_loopback.requests() if f"/{collection}" in each["path"] and each["method"] == "PUT"]
    # Before the data: the graph does not use one that is made later.
    assert [path.rsplit("/", 1)[-1] for path in made[:4]].count("index") == 3


def test_a_filter_on_a_column_without_an_index_names_the_index_to_make(
    app: psycopg.Connection, open_docs: Open, place: Declared, database_url: str
) -> None:
    payload = {"documents": {**ARTICLES, "payload": ["views", "title"]}}
    index = opened(open_docs, place, "v1", **payload)
    serve(index, "v1")
    with Searcher("docs", database_url) as searcher:
        for where, words in (
            ({"views": 1}, r"documents.payload: \[\{column: views, index: integer\}\]"),
            ({"title": None}, r"documents.payload: \[\{column: title, index: keyword\}\]"),
            ({"views": {"gt": 1}}, r"has no payload index, and its strict mode .*unindexed_filtering_retrieve"),
        ):
            with pytest.raises(ConfigurationError, match=words):
                searcher.search(QUERY, k=3, where=where)
    # Declared: the next command makes it, in the collection that is there.
    opened(open_docs, place, "v1", documents={**ARTICLES, "payload": [VIEWS, {"column": "title", "index": "bool"}]})
    with Searcher("docs", database_url) as searcher:
        assert len(searcher.search(QUERY, k=DOCUMENTS, where={"views": 0}).hits) == DOCUMENTS
        with pytest.raises(ConfigurationError, match="a payload index of kind bool, which does not serve this"):
            searcher.search(QUERY, k=3, where={"title": "title 1"})


def test_a_filter_of_more_conditions_than_a_collection_takes(
    open_docs: Open, place: Declared, strict: Callable[..., None], database_url: str
) -> None:
    strict(filter_max_conditions=2, condition_max_size=2)
    index = opened(open_docs, place, "v1")
    serve(index, "v1")
    with Searcher("docs", database_url) as searcher:
        assert len(searcher.search(QUERY, k=DOCUMENTS, where={"views": [0, 1, 2, 3]}).hits) == DOCUMENTS
        with pytest.raises(ConfigurationError, match=r"comes to 3 conditions, .* takes 2 \(filter_max_conditions\)"):
            searcher.search(QUERY, k=3, where={"views": [0, 1, 2, 3, 4]})


@pytest.mark.parametrize(
    ("limits", "version", "words"),
    [
        ({"max_payload_index_count": 2}, {}, r"max_payload_index_count is 2, and it has 0 payload indexes, .*embed_pipeline"),
        ({"max_points_count": 59}, {}, "max_points_count is 59, and there are 60 documents"),
        ({"filter_max_conditions": 1}, {}, "filter_max_conditions is 1, and a comparison needs 2"),
        (
            {"search_max_oversampling": 2.0},
            {"store_config": {"search_params": {"quantization": {"oversampling": 3.0}}}},
            "search_max_oversampling is 2.0, and store_config.search_params asks for an oversampling of 3",
        ),
        (
            {"multivector_config": {"": {"max_vectors": 3}}},
            {"chunker": {"size": 20}},
            "multivector_config is 3, and a document of a version with a chunker may have more passages",
        ),
    ],
)
def test_what_cannot_be_kept_to_is_refused_at_registration(
    open_docs: Open,
    qdrant_at: Callable[[str], Declared],
    shared_loopback: Loopback,
    strict: Callable[..., None],
    limits: dict[str, Any],
    version: dict[str, Any],
    words: str,
) -> None:
    place = qdrant_at("loopback-collections")
    strict(**limits)
    model = {"provider": "tests.harness.fakes:HashEmbedder", "model_name": "m", "dimensions": 16}
    with pytest.raises(ConfigurationError, match=words):
        opened(open_docs, place, versions={"v1": model | version})
    names = [each.name for each in shared_loopback.client().get_collections().collections]
    assert not [name for name in names if name.startswith(place["collection"])]


def test_the_status_of_a_version_where_nothing_may_be_counted_exactly(
    open_docs: Open, place: Declared, strict: Callable[..., None]
) -> None:
    strict(search_allow_exact=False)
    index = opened(open_docs, place, "v1")
    fill(index, "v1")
    (found,) = status(index).versions
    assert found.stored == DOCUMENTS


def test_the_gate_compares_vectors_that_it_has_read_where_no_search_is_exact(
    open_docs: Open, place: Declared, strict: Callable[..., None]
) -> None:
    """The same documents at the same distances as the server finds where it is let."""
    index = opened(open_docs, place, "v1")
    fill(index, "v1")
    store = store_of(index, "v1")
    queries = np.stack([index.embedder("v1").embed_documents([f"title {n}\n\nbody {n}"]).vectors[0] for n in (3, 5)])
    with index.connection() as conn:
        asked = store.search_exact(conn, queries, 10)
        info = models.StrictModeConfig(enabled=True, search_allow_exact=False)
        store._engine.call(lambda client: client.update_collection(store.place.collection, strict_mode_config=info))
        store._engine.forget(store.place.collection)
        read = store.search_exact(conn, queries, 10)
    assert [[hit.doc_id for hit in hits] for hits in read] == [[hit.doc_id for hit in hits] for hits in asked]
    for one, other in zip(asked, read, strict=True):
        assert [hit.distance for hit in other] == pytest.approx([hit.distance for hit in one], abs=1e-5)


def test_an_index_of_ours_that_somebody_has_dropped(
    app: psycopg.Connection, open_docs: Open, place: Declared, shared_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tombstones are swept all the same, and a partition is compared without it."""
    index = opened(open_docs, place, "v1")
    fill(index, "v1")
    store = store_of(index, "v1")
    for field in CLOUD_INDEXES:
        shared_loopback.client().delete_payload_index(store.place.collection, field)
    store._engine.forget(store.place.collection)
    app.execute("DELETE FROM articles WHERE id = 1")
    dual_write.sync(index)
    now = compare.clock()
    monkeypatch.setattr(compare, "clock", lambda: now + compare.TOMBSTONE_SECONDS + 60)
    verify.verify(index)
    points, _ = shared_loopback.client().scroll(store.place.collection, limit=1_000)
    assert len(points) == DOCUMENTS - 1
    with index.connection() as conn:
        app.execute("UPDATE embed_pipeline.partitions SET epoch = epoch + 1, completed_at = NULL WHERE version = 'v1'")
        assert store.count(conn) == DOCUMENTS - 1
    fill(index, "v1")
    require_consistent(index)


def test_time_that_a_store_asks_for_is_no_slowness(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock.of(patience, monkeypatch)
    watch = patience.Stopwatch()
    patience.wait(9.0)
    clock.now += 1.0
    assert watch.seconds == 1.0


def test_what_a_backfill_costs_under_rate_limits(
    app: psycopg.Connection, open_docs: Open, place: Declared, shared_loopback: Loopback
) -> None:
    """A token for each document written, and next to none for what is read; batches as large as a quarter of a minute's tokens."""
    app.execute("INSERT INTO articles (id, title, body) SELECT n, 'title ' || n, 'body' FROM generate_series(61, 600) AS n")
    # As much in a second as is said for a minute.
    shared_loopback.strict(1.0, **CLOUD, write_rate_limit=400, read_rate_limit=400)
    index = opened(open_docs, place, "v1")
    fill(index, "v1")
    collection = store_of(index, "v1").place.collection
    rates = shared_loopback.rates(collection)
    assert rates["spent"]["Write"] <= 1.05 * 600
    assert rates["spent"]["Read"] <= 0.2 * 600
    written = [
        each for each in shared_loopback.requests() if each["path"].endswith(f"/{collection}/points") and each["method"] == "PUT"
    ]
    assert len([each for each in written if each["status"] == 200]) <= 10
    require_consistent(index)


def test_a_backfill_does_not_take_a_rate_limit_for_slowness(
    open_docs: Open, place: Declared, shared_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server asks to wait for 30 s, which take no time here."""
    index = opened(open_docs, place, "v1")
    told: list[float] = []
    monkeypatch.setattr("embed_pipeline.throttle.loop.Throttle.wrote", lambda self, seconds: told.append(seconds))
    Clock.of(patience, monkeypatch)
    shared_loopback.fail("error", status=429, retry_after=30, method="^PUT$", path="/points$")
    fill(index, "v1")
    assert told
    assert max(told) < 30


@pytest.mark.parametrize("place", ["named_vectors"], indirect=True)
def test_requests_on_more_points_than_a_minute_allows(
    app: psycopg.Connection, open_docs: Open, place: Declared, shared_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retire takes a label off every point, and a sweep removes many: each is a write of so many points, and no bucket holds them."""
    shared_loopback.strict(0.5, **CLOUD, write_rate_limit=40, read_rate_limit=400)
    index = opened(open_docs, place)
    serve(index, "v1")
    serve(index, "v2")
    retire.retire(index, "v1", confirm="v1")
    collection, client = store_of(index, "v2").place.collection, shared_loopback.client()
    points, _ = client.scroll(collection, limit=1_000)
    assert {tuple((point.payload or {})["embed_pipeline"]["versions"]) for point in points} == {("v2",)}
    assert set(client.get_collection(collection).payload_schema) == {DELETED_AT, "views", partition_of("v2")}
    app.execute("DELETE FROM articles WHERE id > 5")
    settle(index)
    now = compare.clock()
    monkeypatch.setattr(compare, "clock", lambda: now + compare.TOMBSTONE_SECONDS + 60)
    verify.verify(index)
    assert client.count(collection).count == 5
