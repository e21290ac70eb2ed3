"""The bridge: what serves is asked by another version's queries, mapped into its space; and who may move the pointer to that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from embed_pipeline.catalog import serving
from embed_pipeline.catalog.route import Route
from embed_pipeline.errors import AdapterRefused, CutoverRefused, RetireRefused
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import cutover, fit, gate, retire
from embed_pipeline.search import Searcher
from tests.harness import fakes
from tests.harness.articles import fill, leave_behind, serve
from tests.harness.two_spaces import NEW, OLD, text, write_documents, write_holdout

Open = Callable[..., OpenIndex]
DOCUMENTS = 320


@pytest.fixture
def fitted(app: psycopg.Connection, open_docs: Open, holdout: Path) -> OpenIndex:
    """v1 serves; v2 is v1's space in other axes, and an adapter leads back exactly."""
    return prepared(app, open_docs, holdout, NEW)


def prepared(app: psycopg.Connection, open_docs: Open, holdout: Path, new: dict[str, Any]) -> OpenIndex:
    write_documents(app, 1, DOCUMENTS)
    write_holdout(holdout, 40)
    serve(open_docs(versions={"v1": OLD}), "v1")
    index = open_docs(versions={"v1": OLD, "v2": new})
    fill(index, "v2")
    fit.fit(index, "v2")
    return index


def bridged(index: OpenIndex) -> Route:
    gate.run(index, "v2", route="bridge")
    route = cutover.cutover(index, "v2", route="bridge").route
    assert route is not None
    return route


def test_the_old_vectors_answer_the_new_queries(fitted: OpenIndex) -> None:
    """One list, in the space that is searched: the same as the old queries find, since here the map is exact."""
    with Searcher("docs", fitted.url, refresh_seconds=0) as searcher:
        alone = searcher.search(text(7), 10, version="v1", exact=True)
    route = bridged(fitted)
    assert (route.version, route.queries, route.kind) == ("v1", "v2", "bridge")
    with Searcher("docs", fitted.url, refresh_seconds=0, query_cache=10) as searcher:
        answer = searcher.search(text(7), 10, exact=True)
        assert (answer.route, answer.version, answer.generation, answer.note) == (route, "v1", 2, "")
        assert [hit.doc_id for hit in answer.hits] == [hit.doc_id for hit in alone.hits]
        assert [hit.distance for hit in answer.hits] == pytest.approx([hit.distance for hit in alone.hits], abs=1e-5)
        assert searcher.search(text(7), 10, exact=True).hits == answer.hits, "from the cache of queries"
        assert searcher.search(text(7), 3, version="v1").route == Route("v1")
        assert cutover.rollback(fitted).route == Route("v1")
        assert searcher.search(text(7), 3).route == Route("v1")


def test_the_old_model_is_gone(app: psycopg.Connection, open_docs: Open, holdout: Path, tmp_path: Path) -> None:
    """The road that a bridge is for: v1 is measured by the vectors of these queries that were kept when it still answered."""
    gone = tmp_path / "gone"
    old = OLD | {"options": {"raise_while": str(gone)}}
    write_documents(app, 1, DOCUMENTS)
    write_holdout(holdout, 40)
    serve(open_docs(versions={"v1": old}), "v1")
    index = open_docs(versions={"v1": old, "v2": NEW})
    fill(index, "v2")
    gone.touch()
    fit.fit(index, "v2")
    result = gate.run(index, "v2", route="bridge")
    assert result.outcome == "pass", result.sentence
    assert "The model of v1 does not answer" in result.sentence
    assert "as they were kept" in result.sentence
    assert cutover.cutover(index, "v2", route="bridge").route == Route("v1", queries="v2", adapter=1)
    with Searcher("docs", index.url, refresh_seconds=0) as searcher:
        assert searcher.search(text(7), 1).hits[0].doc_id == "7"


def test_a_losing_bridge_is_refused(app: psycopg.Connection, open_docs: Open, holdout: Path) -> None:
    """Two models that know nothing of each other: the map leads nowhere, and the gate says so."""
    index = prepared(
        app, open_docs, holdout, {"provider": OLD["provider"], "model_name": "other", "dimensions": 16, "options": {"salt": "x"}}
    )
    result = gate.run(index, "v2", route="bridge")
    assert result.outcome == "fail"
    assert "v1 asked by v2" in result.sentence
    assert result.measures["pairs"] >= 300
    with pytest.raises(CutoverRefused, match="did not pass v2"):
        cutover.cutover(index, "v2", route="bridge")


def test_refusals(app: psycopg.Connection, fitted: OpenIndex) -> None:
    with pytest.raises(CutoverRefused, match="no evidence that v2 may ask what serves docs"):
        cutover.cutover(fitted, "v2", route="bridge")
    with pytest.raises(CutoverRefused, match="v1 serves docs itself"):
        gate.run(fitted, "v1", route="bridge")
    gate.run(fitted, "v2", route="bridge")
    newer = fit.fit(fitted, "v2")
    with pytest.raises(CutoverRefused, match=rf"it judged adapter \d+, and {newer.adapter_id} was fitted since"):
        cutover.cutover(fitted, "v2", route="bridge")
    gate.run(fitted, "v2", route="bridge")
    leave_behind(app, "v2")
    with pytest.raises(CutoverRefused, match="cannot embed queries for v2"):
        cutover.cutover(fitted, "v2", route="bridge")
    assert cutover.cutover(fitted, "v2", route="bridge", anyway=True).route is not None
    with pytest.raises(RetireRefused, match="v2 is on the route that serves docs: v1 asked by v2"):
        retire.retire(fitted, "v2", confirm="v2")


def test_without_an_adapter(open_served: Open) -> None:
    index = open_served("v1", "v2")
    for ask in (lambda: gate.run(index, "v2", route="bridge"), lambda: cutover.cutover(index, "v2", route="bridge")):
        with pytest.raises(AdapterRefused, match="no adapter from v2 into what serves docs"):
            ask()


TO = (
    "UPDATE embed_pipeline.serving_pointer SET generation = generation + 1, move = 'cutover', previous_version = version, "
    "query_version = '{queries}', adapter_id = {adapter}, evidence_id = (SELECT max(id) FROM embed_pipeline.gate_evidence)"
)
NEWEST = "(SELECT max(id) FROM embed_pipeline.adapters)"


def test_by_hand_no_bridge_without_its_adapter_and_evidence(app: psycopg.Connection, fitted: OpenIndex) -> None:
    """Evidence of the version, of another adapter, of none; an adapter that leads the other way, or between other spaces."""

    def move(queries: str = "v2", adapter: str = NEWEST) -> None:
        app.execute(TO.format(queries=queries, adapter=adapter))  # type: ignore[arg-type]

    gate.run(fitted, "v2")
    with pytest.raises(psycopg.errors.CheckViolation, match="no fresh, passing evidence for v1 asked by v2"):
        move()
    gate.run(fitted, "v2", route="bridge")
    fit.fit(fitted, "v2")
    with pytest.raises(psycopg.errors.CheckViolation, match="no fresh, passing evidence for v1 asked by v2"):
        move()
    with pytest.raises(psycopg.errors.CheckViolation, match="adapter 99 does not lead from v2 into v1"):
        move(adapter="99")
    # The same map the other way round.
    app.execute(
        "INSERT INTO embed_pipeline.adapters (index_name, from_version, from_fingerprint, from_dimensions, to_version, to_fingerprint, "
        "to_dimensions, kind, weights, bias, pairs, pairs_sha256) SELECT index_name, to_version, to_fingerprint, to_dimensions, from_version, "
        "from_fingerprint, from_dimensions, kind, weights, CASE WHEN bias IS NULL THEN NULL ELSE substr(weights, 1, 4 * from_dimensions) END, "
        "pairs, pairs_sha256 FROM embed_pipeline.adapters ORDER BY id LIMIT 1"
    )
    with pytest.raises(psycopg.errors.CheckViolation, match="does not lead from v2 into v1"):
        move()
    assert serving.read(app, "docs").route == Route("v1")


def test_a_machine_without_the_new_model_goes_on_with_the_old_one(fitted: OpenIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    route = bridged(fitted)

    def missing(*_: Any, **options: Any) -> Any:
        raise OSError("no such file")

    monkeypatch.setattr(fakes.TurnedEmbedder, "__init__", missing)
    with Searcher("docs", fitted.url) as searcher:
        answer = searcher.search(text(7), 5)
    assert (answer.route, answer.version, len(answer.hits)) == (Route("v1"), "v1", 5)
    assert "no such file" in answer.note
    assert route.kind == "bridge"


def test_a_machine_without_the_old_model_needs_it_no_more(fitted: OpenIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a bridge is for: the old model can no longer be asked."""
    route = bridged(fitted)
    made = fakes.WordsEmbedder.__init__

    def missing(self: Any, **options: Any) -> None:
        if options["model_name"] == OLD["model_name"]:
            raise OSError("the model is gone")
        made(self, **options)

    monkeypatch.setattr(fakes.WordsEmbedder, "__init__", missing)
    with Searcher("docs", fitted.url) as searcher:
        answer = searcher.search(text(7), 5)
    assert (answer.route, answer.hits[0].doc_id) == (route, "7")
