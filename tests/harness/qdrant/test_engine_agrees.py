"""The operations the store relies on, on local mode, on the loopback server and on the real engine: one end state.

The engine (qdrant-edge-py) is the judge. Where local mode is known to differ, the loopback server must follow the engine,
and the difference has a test of its own that says which.
"""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qdrant_client import QdrantClient, models

from tests.harness.qdrant.conftest import REAL_URL, Target
from tests.harness.qdrant.edge import EdgeClient
from tests.harness.qdrant.loopback import Loopback

COSINE = models.VectorParams(size=4, distance=models.Distance.COSINE)
NAMED = {"v1": COSINE, "v2": models.VectorParams(size=2, distance=models.Distance.COSINE)}
SEQ = "embed_pipeline.seq"
UPDATE_ONLY, INSERT_ONLY = models.UpdateMode.UPDATE_ONLY, models.UpdateMode.INSERT_ONLY
# A float32 is good for seven digits; a vector that is normalised again moves in the last one.
CLOSE = 1e-6
LOCAL, LOOPBACK, ENGINE = "local", "loopback", "engine"

State = dict[Any, tuple[dict[str, Any], dict[str, Any]]]


class Engines:
    """The same collection on every engine. `do` gives each the same operation."""

    def __init__(self, clients: dict[str, Any], name: str) -> None:
        self.clients, self.name = clients, name

    def do(self, operation: Callable[[Any, str], Any]) -> dict[str, Any]:
        return {kind: operation(client, self.name) for kind, client in self.clients.items()}

    def refuse(self, operation: Callable[[Any, str], Any]) -> None:
        for client in self.clients.values():
            with pytest.raises(Exception, match=r"(?s).+"):
                operation(client, self.name)

    def states(self) -> dict[str, State]:
        return self.do(state)

    def agreed(self) -> State:
        """The end state, which is the same on all."""
        states = self.states()
        for kind, found in states.items():
            assert_same(found, states[ENGINE], kind)
        return states[ENGINE]

    def answer(self, operation: Callable[[Any, str], Any]) -> Any:
        """The answer that all of them give."""
        answers = self.do(operation)
        assert all(found == answers[ENGINE] for found in answers.values()), answers
        return answers[ENGINE]

    def without(self, *kinds: str) -> Engines:
        return Engines({kind: client for kind, client in self.clients.items() if kind not in kinds}, self.name)


def state(client: Any, name: str) -> State:
    """Every point: payload, and its vectors by name."""
    points, following = client.scroll(name, limit=10_000, with_vectors=True)
    assert following is None
    return {point.id: (point.payload, by_name(point.vector)) for point in points}


def by_name(vector: Any) -> dict[str, Any]:
    return vector if isinstance(vector, dict) else {"": vector}


def assert_same(found: State, wanted: State, kind: str) -> None:
    assert found.keys() == wanted.keys(), kind
    for point, (payload, vectors) in wanted.items():
        assert found[point][0] == payload, (kind, point)
        assert found[point][1].keys() == vectors.keys(), (kind, point)
        for name, vector in vectors.items():
            np.testing.assert_allclose(found[point][1][name], vector, atol=CLOSE, err_msg=f"{kind} {point} {name}")


@pytest.fixture
def make(tmp_path: Path, shared_loopback: Loopback, open_target: Callable[[str], Target]) -> Iterator[Callable[..., Engines]]:
    """Makes one collection on every engine, and on a real server too when there is one."""
    edge = EdgeClient(tmp_path / "edge")
    clients: dict[str, Any] = {LOCAL: QdrantClient(":memory:"), LOOPBACK: shared_loopback.client(), ENGINE: edge}
    made: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        if REAL_URL in os.environ:
            clients["real"] = open_target("real").client

        def one(vectors: Any = NAMED) -> Engines:
            made.append(f"agree_{uuid.uuid4().hex}")
            for client in clients.values():
                client.create_collection(made[-1], vectors_config=vectors)
            return Engines(clients, made[-1])

        yield one
    for client in clients.values():
        for name in made:
            client.delete_collection(name)


def point(number: int, seq: int, vector: Any = None, **payload: Any) -> models.PointStruct:
    wanted = {"v1": [float(number + 1), float(seq), 1.0, 0.0]} if vector is None else vector
    return models.PointStruct(id=number, vector=wanted, payload={**payload, "embed_pipeline": {"seq": seq}})


def at_seq(number: int, seq: int) -> models.Filter:
    match = models.FieldCondition(key=SEQ, match=models.MatchValue(value=seq))
    return models.Filter(must=[models.HasIdCondition(has_id=[number]), match])


def guard(seqs: dict[int, int]) -> models.Filter:
    """What every write of the store carries: each point named with the seq it must still have."""
    return models.Filter(should=[at_seq(number, seq) for number, seq in seqs.items()])


def seqs(found: State) -> dict[int, int]:
    return {number: payload["embed_pipeline"]["seq"] for number, (payload, _) in found.items()}


def matching(client: Any, name: str, condition: Any) -> list[Any]:
    """The ids of the points that the condition holds for."""
    return [found.id for found in client.scroll(name, scroll_filter=models.Filter(must=[condition]))[0]]


def counted(client: Any, name: str, wanted: models.Filter) -> int:
    return int(client.count(name, count_filter=wanted, exact=True).count)


def has(vector: str) -> models.Filter:
    return models.Filter(must=[models.HasVectorCondition(has_vector=vector)])


def dense(size: int, **options: Any) -> models.DenseVectorNameConfig:
    return models.DenseVectorNameConfig(dense=models.DenseVectorConfig(size=size, distance=models.Distance.COSINE, **options))


def test_insert_only_leaves_an_existing_point_alone(make: Callable[..., Engines]) -> None:
    engines = make()
    engines.do(lambda c, n: c.upsert(n, [point(1, 7, text="kept")]))
    engines.do(lambda c, n: c.upsert(n, [point(1, 3, text="late"), point(2, 4)], update_mode=INSERT_ONLY))
    found = engines.agreed()
    assert seqs(found) == {1: 7, 2: 4}
    assert found[1][0]["text"] == "kept"


def test_a_guarded_update_changes_exactly_the_points_still_at_their_seq(make: Callable[..., Engines]) -> None:
    engines = make()
    engines.do(lambda c, n: c.upsert(n, [point(number, number) for number in range(100)]))
    believed = {number: number + (number % 3 == 0) for number in range(90)} | {500: 1, 501: 2}
    # The last one is written without a guard of its own, and so never.
    written = [point(number, 1000 + number) for number in [*believed, 95]]
    engines.do(lambda c, n: c.upsert(n, written, update_filter=guard(believed), update_mode=UPDATE_ONLY))
    expected = {number: 1000 + number if number < 90 and number % 3 else number for number in range(100)}
    assert seqs(engines.agreed()) == expected


def test_a_filter_alone_does_not_keep_a_missing_point_out(make: Callable[..., Engines]) -> None:
    engines = make()
    engines.do(lambda c, n: c.upsert(n, [point(1, 1)], update_filter=guard({1: 9})))
    assert seqs(engines.agreed()) == {1: 1}


def test_an_id_twice_in_a_guarded_batch(make: Callable[..., Engines]) -> None:
    """The engine decides on what was stored before the batch, and the last one stays; local mode keeps the first."""
    engines = make()
    engines.do(lambda c, n: c.upsert(n, [point(1, 1)]))
    engines.do(lambda c, n: c.upsert(n, [point(1, 2), point(1, 3)], update_filter=guard({1: 1}), update_mode=UPDATE_ONLY))
    engines.do(lambda c, n: c.upsert(n, [point(2, 5), point(2, 6)], update_mode=INSERT_ONLY))
    assert seqs(engines.without(LOCAL).agreed()) == {1: 3, 2: 6}
    assert seqs(engines.states()[LOCAL]) == {1: 2, 2: 5}


def test_upsert_replaces_the_whole_point(make: Callable[..., Engines]) -> None:
    engines = make()
    both = {"v1": [1.0, 2.0, 3.0, 4.0], "v2": [1.0, 0.0]}
    engines.do(lambda c, n: c.upsert(n, [point(1, 1, both, title="old", price=3)]))
    engines.do(lambda c, n: c.upsert(n, [point(1, 2, {"v1": both["v1"]}, title="new")]))
    payload, vectors = engines.agreed()[1]
    assert payload == {"title": "new", "embed_pipeline": {"seq": 2}}
    assert list(vectors) == ["v1"]


@pytest.mark.parametrize("shape", ["named", "unnamed", "unnamed and an added one", "unnamed rows"])
@pytest.mark.parametrize("before", ["new", "over an existing point"])
def test_a_point_without_vectors_is_kept_and_never_found(make: Callable[..., Engines], shape: str, before: str) -> None:
    """vector={} is a tombstone in every shape of collection: no zero vector is needed, and no search meets it."""
    rows = models.VectorParams(
        size=4,
        distance=models.Distance.COSINE,
        multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
    )
    engines = make({"named": {"v1": COSINE}, "unnamed rows": rows}.get(shape, COSINE))
    if shape == "unnamed and an added one":
        engines.do(lambda c, n: c.create_vector_name(n, "v2", dense(2)))
    vector = "v1" if shape == "named" else ""
    filled: Any = [[1.0, 0.0, 0.0, 0.0]] if shape == "unnamed rows" else [1.0, 0.0, 0.0, 0.0]
    engines.do(lambda c, n: c.upsert(n, [point(2, 2, {vector: filled})]))
    if before != "new":
        engines.do(lambda c, n: c.upsert(n, [point(1, 1, {vector: filled}, text="gone")]))
    engines.do(lambda c, n: c.upsert(n, [point(1, 3, {}, dead=True)]))
    found = state(engines.clients[ENGINE], engines.name)
    assert found[1] == ({"dead": True, "embed_pipeline": {"seq": 3}}, {})
    assert seqs(engines.agreed()) == {1: 3, 2: 2}
    assert engines.answer(lambda c, n: c.count(n).count) == 2
    assert engines.answer(lambda c, n: c.count(n, count_filter=has(vector)).count) == 1
    near = engines.answer(lambda c, n: [hit.id for hit in c.query_points(n, filled, using=vector or None).points])
    assert near == [2]


def test_a_point_without_vectors_outlives_a_restart(
    tmp_path: Path, loopback: Callable[..., Loopback], make: Callable[..., Engines]
) -> None:
    """On the engine, on local mode's folder and on the loopback server."""
    engines = make(COSINE)
    server = loopback(folder=True)
    local = QdrantClient(path=str(tmp_path / "local"))
    clients: dict[str, Any] = {LOOPBACK: server.client(), LOCAL: local}
    for client in clients.values():
        client.create_collection(engines.name, vectors_config=COSINE)
    all_of_them = Engines({**clients, ENGINE: engines.clients[ENGINE]}, engines.name)
    all_of_them.do(lambda c, n: c.upsert(n, [point(1, 1, {}, dead=True), point(2, 2, [1.0, 0.0, 0.0, 0.0])]))
    before = all_of_them.agreed()
    engines.clients[ENGINE].reopen(engines.name)
    server.restart()
    local.close()
    all_of_them.clients[LOCAL] = QdrantClient(path=str(tmp_path / "local"))
    assert all_of_them.agreed() == before
    all_of_them.clients[LOCAL].close()


def test_nested_payload_keys_in_filters(make: Callable[..., Engines]) -> None:
    engines = make()
    engines.do(lambda c, n: c.upsert(n, [point(number, number, {}) for number in range(6)]))
    engines.do(lambda c, n: c.upsert(n, [models.PointStruct(id=9, vector={}, payload={"embed_pipeline": None})]))
    key = {"key": SEQ}
    wanted: list[tuple[Any, list[int]]] = [
        (models.FieldCondition(**key, match=models.MatchValue(value=3)), [3]),
        (models.FieldCondition(**key, match=models.MatchAny(any=[1, 4, 77])), [1, 4]),
        (models.FieldCondition(**key, match=models.MatchExcept(**{"except": [1, 4]})), [0, 2, 3, 5]),
        (models.FieldCondition(**key, range=models.Range(lt=2)), [0, 1]),
        (models.FieldCondition(**key, range=models.Range(gte=4)), [4, 5]),
        (models.IsEmptyCondition(is_empty=models.PayloadField(key=SEQ)), [9]),
        (models.FieldCondition(**key, match=models.MatchValue(value="3")), []),
    ]
    for condition, ids in wanted:
        assert engines.answer(partial(matching, condition=condition)) == ids, condition


def test_delete_by_filter_takes_only_what_is_still_at_its_seq(make: Callable[..., Engines]) -> None:
    engines = make()
    engines.do(lambda c, n: c.upsert(n, [point(number, number) for number in range(6)]))
    engines.do(lambda c, n: c.delete(n, guard({1: 1, 2: 99, 3: 3, 700: 1})))
    assert list(engines.agreed()) == [0, 2, 4, 5]


def test_set_payload_by_filter_and_by_key(make: Callable[..., Engines]) -> None:
    """A null given to set_payload takes the key away; given to upsert or overwrite_payload it is kept."""
    engines = make()
    engines.do(lambda c, n: c.upsert(n, [point(number, number, kept="yes", old=None) for number in range(4)]))
    engines.do(lambda c, n: c.set_payload(n, {"seq": 50, "hash": "h"}, guard({1: 1, 2: 99}), key="embed_pipeline"))
    engines.do(lambda c, n: c.set_payload(n, {"color": "red", "old": None}, guard({3: 3})))
    engines.do(lambda c, n: c.overwrite_payload(n, {"null": None, "embed_pipeline": {"seq": 8}}, guard({0: 0})))
    engines.do(lambda c, n: c.delete_payload(n, ["kept"], guard({2: 2})))
    payloads = {number: payload for number, (payload, _) in engines.agreed().items()}
    assert payloads[1] == {"kept": "yes", "old": None, "embed_pipeline": {"seq": 50, "hash": "h"}}
    assert payloads[2] == {"old": None, "embed_pipeline": {"seq": 2}}
    assert payloads[3] == {"kept": "yes", "color": "red", "embed_pipeline": {"seq": 3}}
    assert payloads[0] == {"null": None, "embed_pipeline": {"seq": 8}}


def test_a_missing_id_in_set_payload_and_delete(make: Callable[..., Engines]) -> None:
    """set_payload writes the others and then refuses; delete takes no notice."""
    engines = make()
    engines.do(lambda c, n: c.upsert(n, [point(1, 1), point(2, 2)]))
    engines.refuse(lambda c, n: c.set_payload(n, {"x": 1}, [1, 99, 2]))
    engines.do(lambda c, n: c.delete(n, [1, 99]))
    assert {number: payload.get("x") for number, (payload, _) in engines.agreed().items()} == {2: 1}


def test_a_missing_id_in_update_vectors_leaves_part_of_the_batch_unwritten(make: Callable[..., Engines]) -> None:
    """The engine stops behind the portion of 32 with the missing id. Local mode writes all the others first."""
    batch = [models.PointVectors(id=number, vector={"v2": [1.0, 0.0]}) for number in range(256)]
    held = guard(dict.fromkeys(range(256), 0))
    short = {LOOPBACK: False, ENGINE: False}
    # The order of the portions is drawn: one time in eight the missing id is in the last one and nothing is left out.
    for _ in range(12):
        engines = make()
        engines.do(lambda c, n: c.upsert(n, [point(number, 0) for number in range(256)]))
        engines.do(lambda c, n: c.delete(n, [100]))
        engines.refuse(lambda c, n: c.update_vectors(n, batch, update_filter=held))
        written = engines.do(partial(counted, wanted=has("v2")))
        assert written[LOCAL] == 255
        for kind in short:
            assert (written[kind] + 1) % 32 == 0
            short[kind] |= written[kind] < 255
        engines.do(lambda c, n: c.update_vectors(n, [vector for vector in batch if vector.id != 100]))
        assert engines.answer(partial(counted, wanted=has("v2"))) == 255
        if all(short.values()):
            return
    pytest.fail(f"no batch was left short: {short}")


def test_one_query_vector_against_rows_scores_the_best_row(make: Callable[..., Engines]) -> None:
    rows = models.VectorParams(
        size=2,
        distance=models.Distance.COSINE,
        multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
    )
    engines = make({"v1": rows})
    near, half = [1.0, 0.0], [1.0, 1.0]
    written = {1: [[0.0, 1.0], near], 2: [half, [-1.0, 0.0]], 3: [[0.0, 1.0]]}
    engines.do(lambda c, n: c.upsert(n, [point(number, 0, {"v1": vector}) for number, vector in written.items()]))
    hits = engines.do(lambda c, n: c.query_points(n, [near], using="v1").points)
    hits |= {
        f"{kind}, flat": c.query_points(engines.name, near, using="v1").points
        for kind, c in engines.without(LOCAL).clients.items()
    }
    for kind, found in hits.items():
        assert [hit.id for hit in found] == [1, 2, 3], kind
        assert [hit.score for hit in found] == pytest.approx([1.0, 0.5**0.5, 0.0], abs=CLOSE), kind
    # Local mode takes a flat vector for a query of another kind.
    with pytest.raises(ValueError, match="Dense vector"):
        engines.clients[LOCAL].query_points(engines.name, near, using="v1")


@pytest.mark.parametrize("datatype", [None, models.Datatype.FLOAT16])
def test_vectors_read_and_written_again_stay_what_they_are(make: Callable[..., Engines], datatype: Any) -> None:
    """Cosine vectors are normalised at every write: twenty rounds move no component by more than the datatype's last digit."""
    params = models.VectorParams(size=64, distance=models.Distance.COSINE, datatype=datatype)
    engines = make({"v1": params})
    dice = np.random.default_rng(5)
    first = dice.normal(size=(20, 64))
    batch = [point(number, 0, {"v1": vector.tolist()}) for number, vector in enumerate(first)]
    engines.do(lambda c, n: c.upsert(n, batch))
    # Local mode keeps float32 whatever is declared; the others must round like each other.
    judged = engines if datatype is None else engines.without(LOCAL)
    last_digit = CLOSE if datatype is None else 2.0**-11
    begun = judged.states()
    for kind, client in judged.clients.items():
        for _ in range(20):
            again = [
                models.PointStruct(id=number, vector=vectors, payload=payload)
                for number, (payload, vectors) in state(client, judged.name).items()
            ]
            client.upsert(judged.name, again)
        for number, (_, vectors) in state(client, judged.name).items():
            np.testing.assert_allclose(vectors["v1"], begun[kind][number][1]["v1"], atol=last_digit, err_msg=kind)
            np.testing.assert_allclose(vectors["v1"], begun[ENGINE][number][1]["v1"], atol=last_digit, err_msg=kind)


def test_a_named_vector_comes_and_goes(make: Callable[..., Engines]) -> None:
    engines = make({"v1": COSINE})
    engines.do(lambda c, n: c.upsert(n, [point(number, number) for number in range(5)]))
    engines.do(lambda c, n: c.create_vector_name(n, "new", dense(2)))
    engines.do(lambda c, n: c.create_vector_name(n, "new", dense(2)))
    engines.refuse(lambda c, n: c.create_vector_name(n, "new", dense(3)))
    assert engines.answer(partial(counted, wanted=models.Filter(must_not=[models.HasVectorCondition(has_vector="new")]))) == 5
    engines.do(lambda c, n: c.update_vectors(n, [models.PointVectors(id=2, vector={"new": [0.0, 1.0]})]))
    assert engines.answer(lambda c, n: c.count(n, count_filter=has("new")).count) == 1
    assert set(engines.agreed()[2][1]) == {"v1", "new"}
    engines.do(lambda c, n: c.delete_vector_name(n, "v1"))
    engines.do(lambda c, n: c.delete_vector_name(n, "v1"))
    engines.refuse(lambda c, n: c.upsert(n, [point(7, 7)]))
    found = engines.agreed()
    assert [list(vectors) for _, vectors in found.values()] == [[], [], ["new"], [], []]
    assert seqs(found) == {number: number for number in range(5)}


def test_a_name_added_to_a_collection_with_an_unnamed_vector(make: Callable[..., Engines]) -> None:
    """The unnamed vector is then called "", for reading and for writing, and can be dropped."""
    engines = make(COSINE)
    engines.do(lambda c, n: c.upsert(n, [point(1, 1, [1.0, 2.0, 2.0, 0.0])]))
    engines.do(lambda c, n: c.create_vector_name(n, "v2", dense(2)))
    engines.do(lambda c, n: c.update_vectors(n, [models.PointVectors(id=1, vector={"v2": [3.0, 4.0]})]))
    engines.do(lambda c, n: c.upsert(n, [point(2, 2, {"": [0.0, 1.0, 0.0, 0.0], "v2": [1.0, 0.0]})]))
    assert all(set(vectors) == {"", "v2"} for _, vectors in engines.agreed().values())
    assert engines.answer(lambda c, n: [hit.id for hit in c.query_points(n, [0.0, 1.0, 0.0, 0.0]).points]) == [2, 1]
    engines.do(lambda c, n: c.delete_vector_name(n, ""))
    assert all(set(vectors) == {"v2"} for _, vectors in engines.agreed().values())


def test_counts_of_points_with_and_without_a_vector(make: Callable[..., Engines]) -> None:
    engines = make()
    shapes: list[Any] = [{"v1": [1.0, 0.0, 0.0, 0.0]}, {"v2": [1.0, 0.0]}, {}, {"v1": [0.0, 1.0, 0.0, 0.0], "v2": [0.0, 1.0]}]
    engines.do(lambda c, n: c.upsert(n, [point(number, 0, shapes[number % 4]) for number in range(40)]))
    engines.do(lambda c, n: c.delete_vectors(n, ["v2"], [3]))
    for vector, count in {"v1": 20, "v2": 19, "unknown": 0}.items():
        assert engines.answer(partial(counted, wanted=has(vector))) == count
        missing = models.Filter(must_not=[models.HasVectorCondition(has_vector=vector)])
        assert engines.answer(partial(counted, wanted=missing)) == 40 - count


NUMBERS = st.integers(0, 12)
SEQS = st.integers(0, 3)
BATCH = st.dictionaries(NUMBERS, SEQS, min_size=1, max_size=8)
KINDS = st.sampled_from(["guarded", "insert", "upsert", "tombstone", "delete", "payload", "vectors"])
STEPS = st.lists(st.tuples(KINDS, BATCH, SEQS), min_size=1, max_size=12)


def taken(client: Any, name: str, kind: str, believed: dict[int, int], seq: int) -> None:
    """One step of a random history: the points of `believed`, each expected at its seq, brought to `seq`."""
    written, held = [point(number, seq, step=kind) for number in believed], guard(believed)
    match kind:
        case "guarded":
            client.upsert(name, written, update_filter=held, update_mode=UPDATE_ONLY)
        case "insert":
            client.upsert(name, written, update_mode=INSERT_ONLY)
        case "upsert":
            client.upsert(name, written)
        case "tombstone":
            dead = [point(number, seq, {}, dead=True) for number in believed]
            client.upsert(name, dead, update_filter=held, update_mode=UPDATE_ONLY)
        case "delete":
            client.delete(name, held)
        case "payload":
            client.set_payload(name, {"seq": seq}, held, key="embed_pipeline")
        case "vectors":
            there = {found.id for found in client.retrieve(name, list(believed))}
            batch = [models.PointVectors(id=number, vector={"v2": [1.0, float(seq)]}) for number in believed if number in there]
            if batch:
                client.update_vectors(name, batch, update_filter=held)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(steps=STEPS)
def test_random_histories_of_guarded_writes_end_the_same(make: Callable[..., Engines], steps: list[Any]) -> None:
    engines = make()
    for kind, believed, seq in steps:
        engines.do(partial(taken, kind=kind, believed=believed, seq=seq))
    engines.agreed()
