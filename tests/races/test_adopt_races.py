"""Adoption against a collection and a table that change, against its own death, and against itself."""

from __future__ import annotations

import signal

import pytest

from embed_pipeline import signals
from embed_pipeline.errors import Stopped
from embed_pipeline.migrate import adopt as adopting
from embed_pipeline.migrate.opening import opened
from tests.harness.articles import settle
from tests.harness.forkserver import CONTEXT, preload
from tests.races import workers
from tests.stores.qdrant.by_hand import DOCUMENTS, vector_of
from tests.stores.qdrant.world import (
    World,
    close_to,
    dense,
    own_payload,
    provenance,
)

preload("tests.races.workers")

pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect")


def test_a_point_edited_while_it_is_adopted_keeps_the_edit(world: World) -> None:
    """Between reading the point and marking it, a writer that knows nothing of us replaces it."""
    collection = world.collection
    collection.make()
    edited = collection.point(7, body="edited in Qdrant", lang="fr")

    def edit() -> None:
        signals.forget_all()
        collection.write(edited)

    with opened(world.spec(), register_new=False) as index:
        signals.listen("points.decided", edit)
        done = adopting.adopt(index)
        assert (done.adopted, done.differing) == (DOCUMENTS, 0)
        point = collection.points()["7"]
        assert own_payload(point) == collection.kept["7"]
        assert close_to(dense(point, ""), vector_of("edited in Qdrant"))
        assert world.documents()["7"][0] == "edited in Qdrant"
        settle(index)
    assert len(world.embedded("v1")) == adopting.SAMPLE


@pytest.mark.soak
def test_a_document_changed_in_the_table_during_adoption_is_brought_up_to_date(world: World) -> None:
    """No trigger sees it: the version is not registered yet."""
    collection = world.collection
    collection.make()

    def change() -> None:
        signals.forget_all()
        world.app.execute("UPDATE docs SET text = 'edited after it was marked' WHERE id = (SELECT min(id) FROM docs)")
        world.app.execute("DELETE FROM docs WHERE id = (SELECT max(id) FROM docs)")

    with opened(world.spec(), register_new=False) as index:
        signals.listen("adopt.marked", change)
        assert adopting.adopt(index).queued == 2
        assert set(world.documents()) < set(collection.kept)
        settle(index)
    assert world.embedded("v1")[adopting.SAMPLE :] == ["edited after it was marked"]
    alive = [key for key, point in collection.points().items() if point.vector]
    assert sorted(alive) == sorted(world.documents())


def killed_in_adoption(world: World, moment: str) -> int | None:
    """The exit code of a process that was killed when it came to `moment` for the second time."""
    worker = CONTEXT.Process(target=workers.adopt_and_die, args=(world.spec().model_dump_json(), moment))
    worker.start()
    worker.join()
    return worker.exitcode


@pytest.mark.parametrize(
    "moment",
    ["adopt.inserted", *(pytest.param(each, marks=pytest.mark.soak) for each in ("qdrant.written", "adopt.marked"))],
)
def test_a_killed_adoption_goes_on_where_it_was(world: World, moment: str) -> None:
    world.collection.make()
    assert killed_in_adoption(world, moment) == -signal.SIGKILL
    marked = [point for point in world.collection.points().values() if provenance(point)]
    assert 0 < len(marked) < DOCUMENTS
    again = world.adopt()
    assert (again.documents, again.adopted, again.differing) == (DOCUMENTS - len(marked), DOCUMENTS - len(marked), 0)
    assert {key: own_payload(point) for key, point in world.collection.points().items()} == world.collection.kept
    with opened(world.spec()) as index:
        settle(index)
    assert len(world.embedded("v1")) == adopting.SAMPLE + again.sampled


def test_a_document_deleted_between_two_runs_stays_deleted(world: World) -> None:
    world.collection.make()
    assert killed_in_adoption(world, "adopt.inserted") == -signal.SIGKILL
    in_doubt = {key for key in world.documents() if provenance(world.collection.points()[key]) is None}
    assert in_doubt
    deleted = min(in_doubt)
    world.app.execute("DELETE FROM docs WHERE id = %s", (deleted,))
    world.adopt()
    assert deleted not in world.documents()
    with opened(world.spec()) as index:
        settle(index)
    assert not world.collection.points()[deleted].vector
    assert len(world.documents()) == DOCUMENTS - 1


@pytest.mark.soak
def test_two_adoptions_at_once_are_one(world: World) -> None:
    world.collection.make(20)
    with opened(world.spec(), register_new=False) as first, opened(world.spec(), register_new=False) as second:
        refusals: list[str] = []

        def meanwhile() -> None:
            signals.forget_all()
            with pytest.raises(Stopped, match=r"is being adopted by another run: pid \d+ \(embed-pipeline, role") as refused:
                adopting.adopt(second)
            refusals.append(str(refused.value))

        signals.listen("adopt.inserted", meanwhile)
        assert adopting.adopt(first).adopted == 20
        assert len(refusals) == 1
