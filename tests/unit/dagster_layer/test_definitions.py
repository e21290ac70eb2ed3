"""What one index is in Dagster, as a snapshot: names here are what pipelines and dashboards rely on."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster.components.core.component_tree import ComponentTreeException
from dagster.components.core.defs_module import CompositeYamlComponent
from dagster.components.core.package_entry import discover_entry_point_package_objects
from dagster.components.core.snapshot import get_package_entry_snap
from dagster_shared.serdes.objects import EnvRegistryKey

from embed_pipeline import EmbeddingIndex
from embed_pipeline.configuration import load_indexes
from embed_pipeline.dagster_layer.component import CHECKING, EXAMPLE, IndexScaffolder, build_definitions
from embed_pipeline.dagster_layer.unreadable import unreadable_definitions
from embed_pipeline.definitions import refuse_another_projects_assets
from embed_pipeline.errors import ConfigurationError
from embed_pipeline.report import on_call
from embed_pipeline.spec import IndexSpec

PROJECT = Path(__file__).parents[3]

# Unreachable: whatever loads definitions and touches the database fails.
SPEC = IndexSpec.model_validate(
    {
        "name": "docs",
        "database_url": "postgresql://nobody:secret@127.0.0.1:1/nowhere",
        "partitions": 12,
        "backfill": {"partitions_per_run": 3, "schedule": "5 2 * * *"},
        "versions": {
            name: {"provider": "tests.harness.fakes:HashEmbedder", "model_name": name, "dimensions": 8} for name in ("v1", "v2")
        },
    }
)

DECLARATION = """
type: embed_pipeline.EmbeddingIndex
attributes:
  name: docs
  partitions: 4
  database_url: postgresql://someone:secret@host/db
  versions:
    v1: {provider: "tests.harness.fakes:HashEmbedder", model_name: m, dimensions: 8}
  holdout: {path: sub/holdout.jsonl}
"""


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    return build_definitions(SPEC)


def test_assets_and_their_dependencies(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    found = {
        key.to_user_string(): sorted(p.to_user_string() for p in graph.get(key).parent_keys) for key in graph.get_all_asset_keys()
    }
    assert found == {
        "docs/documents": [],
        "docs/v1/embeddings": ["docs/documents"],
        "docs/v2/embeddings": ["docs/documents"],
        "docs/v1/ann_index": ["docs/v1/embeddings"],
        "docs/v2/ann_index": ["docs/v2/embeddings"],
        "docs/v1/evaluation": ["docs/v1/ann_index"],
        "docs/v2/evaluation": ["docs/v2/ann_index"],
        "docs/v1/cutover": ["docs/v1/evaluation"],
        "docs/v2/cutover": ["docs/v2/evaluation"],
        "docs/v2/cutover_bridge": ["docs/v2/evaluation_bridge"],
        "docs/serving": ["docs/v1/cutover", "docs/v2/cutover", "docs/v2/cutover_bridge"],
        "docs/dual_write": ["docs/documents"],
        "docs/comparison": ["docs/documents"],
        "docs/v2/adapter": ["docs/v2/embeddings"],
        "docs/v2/evaluation_bridge": ["docs/v2/adapter"],
        "docs/v2/cost_curve": ["docs/documents"],
    }
    bare = {key.to_user_string() for key in graph.get_all_asset_keys() if not graph.get(key).is_materializable}
    assert bare == {"docs/documents", "docs/serving"}, "what has no button"
    groups = {key.to_user_string(): graph.get(key).group_name for key in graph.get_all_asset_keys()}
    assert groups.pop("docs/serving") == "docs_serving"
    assert groups == {key: "docs__" + key.split("/")[1] if key.count("/") == 2 else "docs" for key in groups}


def test_only_the_embeddings_are_partitioned(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    partitioned = {key.to_user_string() for key in graph.get_all_asset_keys() if graph.get(key).is_partitioned}
    assert partitioned == {"docs/v1/embeddings", "docs/v2/embeddings"}
    embeddings = graph.get(dg.AssetKey(["docs", "v1", "embeddings"]))
    assert embeddings.partitions_def.get_partition_keys() == [f"{number:02d}" for number in range(12)]
    assert embeddings.backfill_policy == dg.BackfillPolicy.multi_run(max_partitions_per_run=3)
    assert embeddings.pools == {"docs_backfill"}
    built = graph.get(dg.AssetKey(["docs", "v1", "ann_index"]))
    assert isinstance(built.partition_mappings[embeddings.key], dg.AllPartitionMapping)


def test_the_checks_that_judge_block_and_no_other_does(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    found = {(key.asset_key.to_user_string(), key.name) for key in graph.asset_check_keys}
    names = ("coverage", "provenance", "ann_recall", "held_out_recall")
    judging = {(f"docs/{version}/evaluation", name) for version in ("v1", "v2") for name in names}
    judging |= {("docs/v2/evaluation_bridge", "bridge_not_worse")}
    assert found == judging | {
        ("docs/comparison", "nothing_bypassed"),
        ("docs/dual_write", "dead_letters"),
        ("docs/v2/adapter", "adapter_fresh"),
        ("docs/v1/embeddings", "not_retired"),
        ("docs/v2/embeddings", "not_retired"),
    } | {("docs/serving", name) for name in (*on_call.QUESTIONS, "doctor")}
    blocking = {(key.asset_key.to_user_string(), key.name) for key in graph.asset_check_keys if graph.get(key).blocking}
    assert blocking == judging


def test_jobs_sensors_and_schedules(definitions: dg.Definitions) -> None:
    repository = definitions.get_repository_def()
    of_versions = {f"docs__{v}_{verb}" for verb in ("backfill", "gate", "cutover", "retire") for v in ("v1", "v2")}
    jobs = {job.name for job in repository.get_all_jobs() if not job.name.startswith("__")}
    of_the_index = {"docs_dual_write", "docs_compare", "docs_doctor", "docs_rollback", "docs_pause", "docs_resume", "docs_abort"}
    of_the_index |= {
        "docs_retry_dead_letters",
        "docs__v2_fit",
        "docs__v2_preview",
        "docs__v2_gate__bridge",
        "docs__v2_cutover__bridge",
    }
    assert jobs == of_versions | of_the_index
    sensor, state = sorted(repository.sensor_defs, key=lambda each: each.name)
    assert (state.name, state.minimum_interval_seconds, state.default_status) == (
        "docs_state",
        60,
        dg.DefaultSensorStatus.RUNNING,
    )
    assert (sensor.name, sensor.minimum_interval_seconds) == ("docs_dual_write", 5)
    assert [job.name for job in sensor.jobs] == ["docs_dual_write", "docs_compare"]
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
    schedules = {each.name: (each.job_name, each.cron_schedule, each.execution_timezone) for each in repository.schedule_defs}
    fillers = {f"docs__{v}_backfill": (f"docs__{v}_backfill", "5 2 * * *", "UTC") for v in ("v1", "v2")}
    assert schedules == fillers | {
        "docs_compare": ("docs_compare", "17 5 * * *", "UTC"),
        "docs_doctor": ("docs_doctor", "29 6 * * 0", "UTC"),
    }
    running = {each.name for each in repository.schedule_defs if each.default_status == dg.DefaultScheduleStatus.RUNNING}
    assert running == {"docs_compare", "docs_doctor"}, (
        "filling spends money, so a person starts it; looking is what nobody thinks of"
    )


def test_two_indexes_live_in_one_code_location() -> None:
    other = SPEC.model_copy(update={"name": "wiki"})
    dg.Definitions.validate_loadable(dg.Definitions.merge(build_definitions(SPEC), build_definitions(other)))


def test_names_of_two_indexes_never_meet() -> None:
    """a_b_c_gate would be of version c of a_b and of b_c of a; a__v_gate_refine of v, and of v_gate."""
    version = {"provider": "tests.harness.fakes:HashEmbedder", "model_name": "m", "dimensions": 8}
    declared = {
        "a": ("b_c", "b", "op", "v_op", "v", "v_backfill", "v_gate", "cutover", "serving"),
        "a_b": ("c", "op"),
        "a_op": ("v",),
        "a_dual_write": ("compare",),
    }
    indexes = [
        IndexSpec.model_validate(
            SPEC.model_dump() | {"name": name, "versions": {each: version | {"model_name": each} for each in versions}}
        )
        for name, versions in declared.items()
    ]
    definitions = dg.Definitions.merge(*(build_definitions(each) for each in indexes))
    dg.Definitions.validate_loadable(definitions)
    repository = definitions.get_repository_def()
    of_versions = sum(map(len, declared.values()))
    assert len({each.name for each in repository.schedule_defs}) == of_versions + 2 * len(indexes)
    following = of_versions - len(indexes)
    assert len(repository.get_all_jobs()) == 1 + 4 * of_versions + 4 * following + 8 * len(indexes), "with Dagster's own"


def load(folder: Path, text: str = DECLARATION) -> EmbeddingIndex:
    file = folder / "defs.yaml"
    file.write_text(text)
    # Dagster's context for tests takes the working directory for the project's definitions.
    with contextlib.chdir(folder):
        composite = EmbeddingIndex.from_yaml_path(file)
    assert isinstance(composite, CompositeYamlComponent)
    (component,) = composite.components
    assert isinstance(component, EmbeddingIndex)
    return component


def read(folder: Path, text: str = DECLARATION) -> IndexSpec:
    spec = load(folder, text).spec
    assert isinstance(spec, IndexSpec)
    return spec


def refusal(folder: Path, text: str) -> dg.DagsterInvalidDefinitionError:
    """Why `dg check defs` refuses the declaration; whatever Dagster prints around it shows no password."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CHECKING, "1")
        with pytest.raises(ComponentTreeException) as caught:
            load(folder, text)
    assert "secret" not in "".join(traceback.format_exception(caught.value))
    cause = caught.value.__cause__
    assert isinstance(cause, dg.DagsterInvalidDefinitionError)
    return cause


def test_the_component_reads_what_the_command_line_reads(tmp_path: Path) -> None:
    spec = read(tmp_path)
    assert spec == load_indexes(tmp_path)["docs"]
    assert spec.holdout is not None
    assert spec.holdout.path == tmp_path / "sub" / "holdout.jsonl"


def test_templates_are_resolved_before_the_values_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = DECLARATION.replace("postgresql://someone:secret@host/db", '"{{ env.DOCS_URL }}"')
    text = text.replace("partitions: 4", 'partitions: "{{ env.DOCS_PARTITIONS }}"')
    monkeypatch.setenv("DOCS_URL", "postgresql://elsewhere/db")
    monkeypatch.setenv("DOCS_PARTITIONS", "7")
    spec = read(tmp_path, text)
    assert (spec.database_url, spec.partitions) == ("postgresql://elsewhere/db", 7)
    monkeypatch.delenv("DOCS_URL")
    assert "DOCS_URL is not set" in str(refusal(tmp_path, text))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("dimensions: 8", "dimensions: eight", "versions.v1.dimensions: Input should be a valid integer"),
        ("partitions: 4", "colour: red", "colour: Extra inputs are not permitted"),
        ('"tests.harness.fakes:HashEmbedder"', "onnx", "versions.v1: provider onnx needs model_path, tokenizer_path, max_tokens"),
        ("versions:", "revisions:", "versions: Field required"),
        ("name: docs", "name: Docs-1", "name: String should match pattern"),
    ],
)
def test_a_wrong_value_is_one_sentence_without_the_password(tmp_path: Path, before: str, after: str, expected: str) -> None:
    said = str(refusal(tmp_path, DECLARATION.replace(before, after)))
    assert said.startswith(f"{tmp_path / 'defs.yaml'}: {expected}")


PROBE = """
import dagster as dg
from embed_pipeline.definitions import defs

repository = defs().get_repository_def()
print(sorted(each.name for each in repository.sensor_defs), sorted(key.to_user_string() for key in repository.asset_graph.get_all_asset_keys()))
"""


CHECKED = f"""
print([each.description for each in repository.asset_graph.asset_nodes if each.key.path[-1] == "declaration"])
import os
os.environ["{CHECKING}"] = "1"
try:
    defs()
except Exception:
    print("the check failed")
"""


def project_of_two(folder: Path, shop: str) -> Path:
    """A project with `docs`, whose declaration is a good one, and `shop` as given."""
    (folder / "pyproject.toml").write_text(
        '[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "assets"\ndefs_module = "assets"\n'
    )
    for name, text in {"docs": DECLARATION, "shop": shop}.items():
        (folder / "assets" / name).mkdir(parents=True)
        (folder / "assets" / name / "defs.yaml").write_text(text)
    (folder / "assets" / "__init__.py").touch()
    return folder


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        (
            "postgresql://someone:secret@host/db",
            '"{{ env.SHOP_NOT_SET }}"',
            "The environment variable SHOP_NOT_SET is not set, and ",
        ),
        ("name: docs", "nmae: shop", "defs.yaml: name: Field required"),
    ],
)
def test_a_bad_declaration_hurts_one_index(tmp_path: Path, before: str, after: str, sentence: str) -> None:
    """As a code server loads them: the sensor of the other index goes on, and this one is a check that fails."""
    shop = DECLARATION.replace("name: docs", "name: shop") if before != "name: docs" else DECLARATION
    project = project_of_two(tmp_path, shop.replace(before, after))
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("['docs_dual_write', 'docs_state', 'shop_declaration'] ")
    assert "docs/v1/embeddings" in done.stdout
    assert "'shop/declaration'" in done.stdout
    assert "shop/embeddings" not in done.stdout

    bad = load(tmp_path / "assets" / "shop", shop.replace(before, after))
    definitions = bad.build_defs(dg.ComponentTree.for_test().load_context)
    with dg.DagsterInstance.ephemeral() as instance:
        sensor = definitions.resolve_sensor_def("shop_declaration")
        cursor = None
        for events in (1, 0):
            said = sensor.evaluate_tick(dg.build_sensor_context(instance, cursor=cursor, definitions=definitions))
            cursor = said.cursor
            assert len(said.asset_events) == events
            assert sentence in str(said.skip_message)
            for event in said.asset_events:
                assert isinstance(event, dg.AssetCheckEvaluation)
                assert not event.passed
                assert sentence in str(event.description)


def test_a_file_that_dagster_cannot_read_hurts_one_index(tmp_path: Path) -> None:
    """Its loader ends at the first of them. `dg check defs` is to end there too."""
    project = project_of_two(tmp_path, 'type: embed_pipeline.EmbeddingIndex\nattributes: {name: "shop, database_url: geheim}\n')
    for name, text in {"wiki": b"", "news": b"only words", "mail": b"type: \xff"}.items():
        (tmp_path / "assets" / name).mkdir()
        (tmp_path / "assets" / name / "defs.yaml").write_bytes(text)
    done = subprocess.run(
        [sys.executable, "-c", PROBE + CHECKED],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    sensors, _, keys = done.stdout.partition("] ")
    of_each = ("docs_dual_write", "docs_state", "mail_declaration", "news_declaration", "shop_declaration", "wiki_declaration")
    assert sensors == f"[{', '.join(map(repr, of_each))}"
    assert "docs/v1/embeddings" in keys
    assert "'shop/declaration'" in keys
    assert "shop/defs.yaml, line 3 is not valid YAML." in keys
    assert f"No index is declared in {tmp_path / 'assets' / 'wiki' / 'defs.yaml'}." in keys
    assert keys.endswith("the check failed\n")
    assert "geheim" not in done.stdout


def test_several_bad_declarations_live_in_one_code_location() -> None:
    bad = [unreadable_definitions(name, f"{name}: Field required.") for name in ("shop", "wiki")]
    dg.Definitions.validate_loadable(dg.Definitions.merge(build_definitions(SPEC), *bad))


def test_the_check_in_a_pull_request_fails_for_a_bad_declaration(tmp_path: Path) -> None:
    text = DECLARATION.replace("partitions: 4", "colour: red")
    assert "colour: Extra inputs are not permitted" in str(refusal(tmp_path, text))
    assert "colour: Extra inputs are not permitted" in load(tmp_path, text).spec.sentence  # type: ignore[union-attr]


def test_the_example_that_scaffolding_writes_is_valid(tmp_path: Path) -> None:
    spec = read(tmp_path, EXAMPLE.read_text().replace("NAME", "articles"))
    assert (spec.name, list(spec.versions)) == ("articles", ["v1"])
    uncommented = EXAMPLE.read_text().replace("NAME", "articles").replace("  # ", "  ")
    for name in ("documents", "holdout", "database_url"):
        assert f"  {name}:" in uncommented, f"{name} is shown"


def test_scaffolding_writes_the_example(tmp_path: Path) -> None:
    folder = tmp_path / "my-articles"
    request: dg.ScaffoldRequest[Any] = dg.ScaffoldRequest(
        type_name="embed_pipeline.EmbeddingIndex",
        target_path=folder,
        scaffold_format="yaml",
        project_root=tmp_path,
        params=None,
    )
    IndexScaffolder().scaffold(request)
    assert list(load_indexes(folder)) == ["my_articles"]


def test_dg_finds_the_component_with_its_schema() -> None:
    key = EnvRegistryKey(namespace="embed_pipeline", name="EmbeddingIndex")
    found = {key: each for key, each in discover_entry_point_package_objects().items() if key.namespace == "embed_pipeline"}
    assert list(found) == [key], "what else is exported would be offered as a component"
    snapshot = get_package_entry_snap(key, found[key])
    assert snapshot.component_schema == IndexSpec.model_json_schema()


def test_dg_accepts_this_project(tmp_path: Path) -> None:
    environment = os.environ | {"VIRTUAL_ENV": sys.prefix, "DAGSTER_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "dagster_dg_cli.cli", "check", "defs"]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All component YAML validated successfully." in done.stdout
    assert "All definitions loaded successfully." in done.stdout
    assert "BetaWarning" not in done.stderr


def test_the_assets_of_another_project_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PYTHONPATH names another checkout: its `assets` would be loaded, with its indexes and its databases, and every run be green."""
    for name in ("here", "elsewhere"):
        (tmp_path / name / "assets").mkdir(parents=True)
        (tmp_path / name / "assets" / "__init__.py").touch()
    monkeypatch.delitem(sys.modules, "assets", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))
    with pytest.raises(ConfigurationError, match="elsewhere is found before"):
        refuse_another_projects_assets(tmp_path / "here")
    monkeypatch.syspath_prepend(str(tmp_path / "here"))
    refuse_another_projects_assets(tmp_path / "here")


def test_a_refinement_is_there_where_it_is_declared() -> None:
    declared = IndexSpec.model_validate(SPEC.model_dump() | {"while_building": {"refine": True}})
    definitions = build_definitions(declared)
    graph = definitions.resolve_asset_graph()
    key = dg.AssetKey(["docs", "v2", "evaluation_refine"])
    assert graph.get(key).parent_keys == {dg.AssetKey(["docs", "v2", "embeddings"])}
    cutover = dg.AssetKey(["docs", "v2", "cutover_refine"])
    assert graph.get(cutover).parent_keys == {key}
    assert cutover in graph.get(dg.AssetKey(["docs", "serving"])).parent_keys
    assert graph.get(dg.AssetCheckKey(key, "refine_not_worse")).blocking
    jobs = {job.name for job in definitions.get_repository_def().get_all_jobs()}
    assert {"docs__v2_gate__refine", "docs__v2_cutover__refine"} <= jobs
    assert not any(each.startswith("docs__v1_") and each.endswith("refine") for each in jobs)


def test_the_page_names_all_that_a_person_sees() -> None:
    """docs/what-you-see-in-dagster.md, of an index that has everything. Of v1 there is nothing that v2 has not."""
    version = {"provider": "openai", "dimensions": 8}
    versions = {name: version | {"model_name": name} for name in ("v1", "v2")}
    spec = IndexSpec.model_validate({"name": "docs", "while_building": {"refine": True}, "versions": versions})
    graph = build_definitions(spec).resolve_asset_graph()
    page = (PROJECT / "docs" / "what-you-see-in-dagster.md").read_text()
    seen = {key.to_user_string() for key in graph.get_all_asset_keys()} | {key.name for key in graph.asset_check_keys}
    assert [each for each in sorted(seen) if f"`{each}`" not in page and "/v1/" not in each] == []
