"""To add a kind of store: its folder, and one line in KINDS. Forgetting either is an error in a sentence, and never another kind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import pytest
from pydantic import ValidationError

from embed_pipeline.accounts.terms import Terms
from embed_pipeline.configuration import parse_index
from embed_pipeline.demo.stages import stage_of
from embed_pipeline.errors import ConfigurationError
from embed_pipeline.migrate.frozen import Registered, differences, not_yet_set
from embed_pipeline.spec import KINDS, IndexSpec, QdrantSpec, StoreSpec, read_store
from embed_pipeline.spec.frozen import Fate
from embed_pipeline.stores import registry
from embed_pipeline.stores.kind import Disk, StoreKind, kind_named, kind_of

PLACE = "tests.unit.stores.test_kind"
VERSION = {"provider": "tests.harness.fakes:HashEmbedder", "model_name": "m", "dimensions": 3}


class ShelfSpec(StoreSpec):
    """A kind as somebody would add one."""

    max_dimensions: ClassVar[Mapping[str, int]] = {"vector": 5, "halfvec": 5}
    fates: ClassVar[Mapping[str, Fate]] = {"kind": "frozen", "row": "frozen", "label": "free"}

    kind: Literal["shelf"]
    row: int = 1
    label: str = ""


def _opened(version: Any, source: Any, store: ShelfSpec) -> Any:
    return ("a shelf", version, source, store)


KIND = StoreKind(ShelfSpec, lambda: _opened, lambda store, documents, version, passages: Disk(1, 2, 3, "its size"), "nothing")


def index(**store: Any) -> IndexSpec:
    return IndexSpec.model_validate({"name": "docs", "store": store, "versions": {"v1": VERSION}})


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "shelf", PLACE)


@pytest.mark.usefixtures("added")
def test_one_line() -> None:
    """Declared, kept, opened, foretold and listed."""
    spec = index(kind="shelf", row=2)
    assert spec.store == ShelfSpec(kind="shelf", row=2)
    assert read_store(json.loads(spec.model_dump_json())["store"]) == spec.store, "written by its own fields"
    assert registry.open_store(spec.store, "v1", "documents") == ("a shelf", "v1", "documents", spec.store)  # type: ignore[arg-type,comparison-overlap]
    assert kind_of(spec.store).disk(spec.store, 1, spec.versions["v1"], 1.0).total == 6
    with pytest.raises(ValidationError, match="an index over vector in shelf takes at most 5 dimensions, not 6"):
        IndexSpec.model_validate({"name": "docs", "store": {"kind": "shelf"}, "versions": {"v1": VERSION | {"dimensions": 6}}})


@pytest.mark.usefixtures("added")
def test_what_is_frozen_of_it() -> None:
    was, now = index(kind="shelf", row=1, label="a"), index(kind="shelf", row=2, label="b")
    known = Registered(was.source(), was.store, (), Terms.declared(was))
    assert [each.fact for each in differences(known, now)] == ["store.row"]
    assert [each.fact for each in not_yet_set(known, index(kind="shelf", row=1, label="b"))] == ["store.label"]
    assert [each.fact for each in differences(known, index())] == ["store.kind"]


@pytest.mark.usefixtures("added")
def test_the_schema_lists_those_there_are() -> None:
    schema = IndexSpec.model_json_schema()
    mapping = schema["properties"]["store"]["discriminator"]["mapping"]
    assert mapping.keys() == KINDS.keys() > {"pgvector", "qdrant"}
    for kind, place in mapping.items():
        assert schema["$defs"][place.rpartition("/")[2]]["properties"]["kind"]["const"] == kind
    assert {each["$ref"] for each in schema["properties"]["store"]["oneOf"]} == set(mapping.values())


def test_without_its_line(tmp_path: Any) -> None:
    declared = {"name": "docs", "store": {"kind": "shelf"}, "versions": {"v1": VERSION}}
    with pytest.raises(ConfigurationError, match=r"defs\.yaml: store: there is no kind of store 'shelf'; use pgvector, qdrant"):
        parse_index(declared, tmp_path / "defs.yaml")


@pytest.mark.usefixtures("added")
def test_a_line_that_was_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has not the line, and reads a catalog that has the kind."""
    store = index(kind="shelf").store
    monkeypatch.delitem(KINDS, "shelf")
    for use in (lambda: kind_of(store), lambda: registry.load(store), lambda: read_store({"kind": "shelf", "row": 1})):
        with pytest.raises(
            ConfigurationError, match="There is no kind of store 'shelf' in this process; there are pgvector, qdrant"
        ):
            use()


@pytest.mark.usefixtures("added")
def test_a_kind_without_a_stage_is_not_shown_on_another() -> None:
    with pytest.raises(ConfigurationError, match="The demo cannot be shown on a store of kind 'shelf'"):
        stage_of(index(kind="shelf"))


@pytest.mark.usefixtures("added")
@pytest.mark.parametrize("half", [None, "KIND", PLACE])
def test_without_its_declaration(monkeypatch: pytest.MonkeyPatch, half: Any) -> None:
    monkeypatch.setattr(f"{PLACE}.KIND", half)
    with pytest.raises(ConfigurationError, match=f"The module {PLACE} of the kind of store 'shelf' declares no KIND"):
        index(kind="shelf")


@pytest.mark.usefixtures("added")
def test_with_a_declaration_and_nothing_that_acts(monkeypatch: pytest.MonkeyPatch) -> None:
    class Half:
        spec = ShelfSpec

    monkeypatch.setattr(f"{PLACE}.KIND", Half)
    with pytest.raises(ConfigurationError, match=f"KIND of the module {PLACE} is no StoreKind"):
        registry.load(index(kind="shelf").store)


@pytest.mark.usefixtures("added")
@pytest.mark.parametrize(
    "fates", [{"kind": "frozen", "row": "frozen"}, {"kind": "frozen", "row": "free", "label": "free", "x": "free"}]
)
def test_a_field_without_its_fate(monkeypatch: pytest.MonkeyPatch, fates: Mapping[str, Fate]) -> None:
    monkeypatch.setattr(ShelfSpec, "fates", fates)
    with pytest.raises(
        ConfigurationError, match="ShelfSpec of the kind of store 'shelf' does not say what is frozen of (label|x)"
    ):
        index(kind="shelf")


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_those_that_are_there(kind: str) -> None:
    found = kind_named(kind)
    assert callable(found.load())
    assert found.in_tables == (kind == "pgvector")


def test_what_is_wrong_with_a_field_is_said_where_it_is(tmp_path: Any) -> None:
    declared = {"name": "docs", "store": {"kind": "qdrant", "timeout_seconds": 0}, "versions": {"v1": VERSION}}
    with pytest.raises(ConfigurationError, match=r"defs\.yaml: store\.timeout_seconds: Input should be greater than 0"):
        parse_index(declared, tmp_path / "defs.yaml")
    assert isinstance(index(kind="qdrant").store, QdrantSpec)
