"""An index in a project of the user's own: his asset upstream, his subclass, his owners and groups, and what the command line makes of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster.components.core.component_tree import ComponentTree

from embed_pipeline.configuration import load_indexes
from embed_pipeline.dagster_layer import freshness
from embed_pipeline.dagster_layer.component import EXAMPLE, build_definitions
from embed_pipeline.errors import ConfigurationError
from embed_pipeline.spec import IndexSpec
from tests.unit.dagster_layer.test_definitions import SPEC

VERSIONS = 'versions: {v1: {provider: "tests.harness.fakes:HashEmbedder", model_name: m, dimensions: 8}}'
DECLARATION = f"""
type: my_search.components.SearchIndex
attributes:
  name: docs
  partitions: 4
  documents: {{asset: warehouse/articles}}
  {VERSIONS}
post_processing:
  assets:
    - target: "*"
      attributes: {{group_name: search, tags: {{team: search}}}}
"""
COMPONENTS = """
import dagster as dg
from embed_pipeline import EmbeddingIndex

class SearchIndex(EmbeddingIndex):
    def get_asset_spec(self, spec: dg.AssetSpec) -> dg.AssetSpec:
        return spec.replace_attributes(owners=["team:search"])
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project as create-dagster makes one, with a component of its own and `defs.yml`."""
    (tmp_path / "pyproject.toml").write_text(
        '[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "my_search"\nregistry_modules = ["my_search.components"]\n'
    )
    package = tmp_path / "src" / "my_search"
    (package / "defs" / "docs").mkdir(parents=True)
    for module in (package, package / "defs"):
        (module / "__init__.py").touch()
    (package / "components.py").write_text(COMPONENTS)
    (package / "defs" / "docs" / "defs.yml").write_text(DECLARATION)
    monkeypatch.syspath_prepend(str(tmp_path / "src"))
    with contextlib.chdir(tmp_path):
        yield package / "defs"


def test_a_subclass_and_what_dagster_lets_everybody_declare(project: Path) -> None:
    graph = ComponentTree.for_project(project.parent).build_defs().resolve_asset_graph()
    ours = [graph.get(key) for key in graph.get_all_asset_keys() if key.path[0] == "docs"]
    assert {tuple(each.owners) for each in ours} == {("team:search",)}
    assert {each.group_name for each in ours} == {"search"}
    assert {each.tags.get("team") for each in ours} == {"search"}
    upstream = graph.get(dg.AssetKey(["warehouse", "articles"]))
    assert {key.path[-1] for key in upstream.child_keys} == {"embeddings", "dual_write", "comparison"}
    assert not graph.has(dg.AssetKey(["docs", "documents"]))

    # Without Dagster, and without the project's code.
    spec = load_indexes(project)["docs"]
    assert (spec.makes_table, spec.source().table) == (True, "public.docs")
    (project / "docs" / "defs.yaml").write_text(DECLARATION.replace("name: docs", "name: first"))
    assert list(load_indexes(project)) == ["first"], "of two files in one folder the one that Dagster reads"
    (project / "docs" / "defs.yaml").write_text(
        "type: dagster.TemplatedSqlComponent\nattributes: {versions: {v1: {provider: x}}}"
    )
    with pytest.raises(ConfigurationError, match="No index is declared"):
        load_indexes(project)


def test_a_key_stays_as_it_is() -> None:
    with pytest.raises(dg.DagsterInvalidDefinitionError, match="gives docs/documents the key mine; a key stays as it is"):
        build_definitions(SPEC, lambda made: made.replace_attributes(key="mine"))


def test_the_users_asset_may_have_partitions_of_its_own() -> None:
    @dg.asset(key=["warehouse", "articles"], partitions_def=dg.DailyPartitionsDefinition("2026-01-01"))
    def articles() -> None: ...

    spec = IndexSpec.model_validate(
        SPEC.model_dump()
        | {"documents": {"table": "warehouse.articles", "key": "id", "text": "body", "asset": "warehouse/articles"}}
    )
    definitions = dg.Definitions.merge(dg.Definitions([articles]), build_definitions(spec))
    dg.Definitions.validate_loadable(definitions)
    embeddings = definitions.resolve_asset_graph().get(dg.AssetKey(["docs", "v1", "embeddings"]))
    assert isinstance(embeddings.partition_mappings[articles.key], dg.AllPartitionMapping)
    assert embeddings.code_version == spec.versions["v1"].fingerprint({})[:12]


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"asset": "/articles"}, "String should match pattern"),
        ({"asset": "articles", "table": "t"}, "needs key and text, or nothing but the asset"),
        ({"asset": "articles", "payload": ["year"]}, "payload is of a table of your own"),
        ({}, "needs table and key and text"),
    ],
)
def test_documents_are_a_table_or_an_asset(declared: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        IndexSpec.model_validate(SPEC.model_dump() | {"documents": declared})


@pytest.mark.parametrize(
    ("schedule", "fails"),
    [("17 5 * * *", timedelta(hours=60)), ("0 6 * * 1-5", timedelta(days=7.5)), ("* * * * *", timedelta(minutes=5))],
)
def test_a_comparison_is_late_by_its_own_schedule(schedule: str, fails: timedelta) -> None:
    found = freshness.of_comparison(schedule)
    assert found.fail_window.to_timedelta() == fails  # type: ignore[attr-defined]


def test_what_is_scaffolded_says_what_it_may_come_after() -> None:
    assert "asset: warehouse/articles" in EXAMPLE.read_text()
