"""The component: a `defs.yaml` of `type: embed_pipeline.EmbeddingIndex` becomes the definitions of one index.

The attributes are `embed_pipeline.spec.IndexSpec` and are read by the reader of the command line, so that both always mean the
same by one file. Dagster's own templates differ in what hurts: `{{ env.DATABASE_URL }}` without that variable is None there, and
None means the embedded PostgreSQL. Nothing here opens a database: code locations load without one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import BaseModel, RootModel

from embed_pipeline import configuration
from embed_pipeline.dagster_layer.assets import build_assets
from embed_pipeline.dagster_layer.bridges import bridge_assets, bridge_checks
from embed_pipeline.dagster_layer.doctors_check import doctor_check
from embed_pipeline.dagster_layer.jobs import build_jobs
from embed_pipeline.dagster_layer.looks import watch_job, watch_sensor
from embed_pipeline.dagster_layer.schedules import build_schedules
from embed_pipeline.dagster_layer.sensors import dual_write_sensor
from embed_pipeline.dagster_layer.serving import serving_checks, state_sensor
from embed_pipeline.dagster_layer.unreadable import unreadable_definitions
from embed_pipeline.errors import EmbedPipelineError
from embed_pipeline.spec import IndexSpec, is_name

# Set by `dg check defs`, which is to fail where a server is to run all other indexes.
CHECKING = "DAGSTER_IS_DEFS_VALIDATION_CLI"

EXAMPLE = Path(__file__).with_name("example.yaml")


def build_definitions(spec: IndexSpec, as_wanted: Callable[[dg.AssetSpec], dg.AssetSpec] = lambda made: made) -> dg.Definitions:
    """Everything Dagster knows about one index: its assets, jobs, sensors and schedules. `as_wanted`: an asset's spec as the user wants it."""
    jobs = build_jobs(spec)
    looks = [] if spec.watch is None else [watch_job(spec)]
    assets = [*build_assets(spec), *bridge_assets(spec)]
    return dg.Definitions(
        assets=dg.map_asset_specs(lambda made: _with_its_key(made, as_wanted(made)), assets),
        asset_checks=[*bridge_checks(spec), *serving_checks(spec), doctor_check(spec)],
        jobs=[*jobs, *looks],
        schedules=build_schedules(spec),
        sensors=[dual_write_sensor(spec, jobs), state_sensor(spec), *(watch_sensor(spec, job) for job in looks)],
    )


def _with_its_key(made: dg.AssetSpec, wanted: dg.AssetSpec) -> dg.AssetSpec:
    if wanted.key != made.key:
        # Jobs, sensors, the state sensor's events and other code locations know the node by it.
        raise dg.DagsterInvalidDefinitionError(
            f"get_asset_spec gives {made.key.to_user_string()} the key {wanted.key.to_user_string()}; a key stays as it is."
        )
    return wanted


class IndexScaffolder(dg.Scaffolder[Any]):
    """Writes a commented example for `dg scaffold defs embed_pipeline.EmbeddingIndex NAME`."""

    def scaffold(self, request: dg.ScaffoldRequest[Any]) -> None:
        """Write the defs.yaml of an index named like its folder."""
        if request.scaffold_format != "yaml":
            raise dg.DagsterInvalidDefinitionError(
                "An index is declared in YAML; for Python call embed_pipeline.dagster_layer.component.build_definitions(spec)."
            )
        text = EXAMPLE.read_text(encoding="utf-8").replace("NAME", name_of(request.target_path))
        # A subclass is scaffolded by its own name.
        text = text.replace(configuration.COMPONENT_TYPE, request.type_name, 1)
        file = request.target_path / "defs.yaml"
        if request.append and file.exists():
            text = f"{file.read_text(encoding='utf-8').rstrip()}\n---\n{text}"
        request.target_path.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


class Attributes(RootModel[dict[str, Any]]):
    """The attributes as written, with the schema of IndexSpec for `dg check yaml` and editors.

    Dagster shows the input when a model refuses it, and the input may hold a password; so it is `load` that refuses.
    """

    @classmethod
    def model_json_schema(cls, *arguments: Any, **options: Any) -> dict[str, Any]:
        """The schema of an index's declaration."""
        return IndexSpec.model_json_schema(*arguments, **options)


@dataclass(frozen=True)
class Unreadable:
    """An index whose declaration cannot be read, and why not. `name`: as far as that can be told."""

    name: str
    sentence: str


@dg.scaffold_with(IndexScaffolder)
@dataclass(frozen=True)
class EmbeddingIndex(dg.Component):
    """One search index whose embedding model can be changed like a schema: documents, store, versions, gate."""

    spec: IndexSpec | Unreadable

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """What the attributes of the YAML are read into."""
        return Attributes

    @classmethod
    def get_spec(cls) -> dg.ComponentTypeSpec:
        """What component listings show."""
        return dg.ComponentTypeSpec(
            description="A search index whose embedding model changes like a schema: dual-write, backfill, gate, cutover.",
            tags=["embeddings", "search", "migration"],
        )

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> EmbeddingIndex:
        """Resolve `{{ env.NAME }}`, check the result, anchor relative paths at the file's folder."""
        given = attributes.root if isinstance(attributes, Attributes) else {}
        file = configuration.file_of(context.path)
        try:
            return cls(configuration.parse_index(given, file))
        except EmbedPipelineError as problem:
            if os.environ.get(CHECKING):
                # Without our frames: the sentence names file, attribute and remedy.
                raise dg.DagsterInvalidDefinitionError(str(problem)) from None
            named = given.get("name")
            return cls(Unreadable(named if isinstance(named, str) and is_name(named) else name_of(file.parent), str(problem)))

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The index's definitions."""
        if isinstance(self.spec, Unreadable):
            return unreadable_definitions(self.spec.name, self.spec.sentence)
        return build_definitions(self.spec, self.get_asset_spec)

    def get_asset_spec(self, spec: dg.AssetSpec) -> dg.AssetSpec:
        """Override it to give the assets of the index owners, tags, a group, metadata or an automation condition of your own. `spec` is as it is
        made here, one call for each asset; everything but its key may be changed."""
        return spec


def name_of(folder: Path) -> str:
    """What an index in `folder` is called as long as its declaration does not say."""
    name = folder.name.lower().replace("-", "_")
    return name if is_name(name) else "docs"
