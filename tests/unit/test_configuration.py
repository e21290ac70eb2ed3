"""Bad input in YAML: one sentence that says where."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest
import yaml

from embed_pipeline import configuration
from embed_pipeline.configuration import load_index, load_indexes, read_indexes
from embed_pipeline.errors import ConfigurationError

GOOD = """
type: embed_pipeline.EmbeddingIndex
attributes:
  name: docs
  database_url: "{{ env.TEST_URL }}"
  documents: {table: public.articles, key: id, text: [title, body]}
  versions:
    v1: {provider: "tests.harness.fakes:HashEmbedder", model_name: m, dimensions: 8}
  holdout: {path: holdout.jsonl}
"""


def write(tmp_path: Path, text: str) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir(exist_ok=True)
    (folder / "defs.yaml").write_text(text)
    return tmp_path


def test_reads_a_folder_and_resolves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_URL", "postgresql://u:secret@h/d")
    spec = load_indexes(write(tmp_path, GOOD))["docs"]
    assert spec.database_url == "postgresql://u:secret@h/d"
    assert "secret" not in repr(spec)
    assert spec.documents is not None
    assert spec.documents.key == ["id"]
    assert spec.holdout is not None
    assert spec.holdout.path == tmp_path / "docs" / "holdout.jsonl"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("dimensions: 8", "dimensions: eight"), r"versions\.v1\.dimensions: Input should be a valid integer"),
        (("dimensions: 8", "dimensions: 0"), r"versions\.v1\.dimensions: .*greater than or equal to 1"),
        (("dimensions: 8", "dimensions: 2001"), "at most 2000 dimensions"),
        (("name: docs", "name: Docs"), "name: String should match pattern"),
        (("model_name: m,", ""), r"versions\.v1\.model_name: Field required"),
        (("holdout:", "holdouts:"), "holdouts: Extra inputs are not permitted"),
        (('"tests.harness.fakes:HashEmbedder"', "nonsense"), "unknown provider 'nonsense'"),
        (('"tests.harness.fakes:HashEmbedder"', "onnx"), "provider onnx needs model_path, tokenizer_path, max_tokens"),
        (("  name: docs", "  name: [docs"), "line 5 is not valid YAML"),
        (("env.TEST_URL", "env.NOT_SET_ANYWHERE"), "NOT_SET_ANYWHERE is not set"),
    ],
)
def test_one_sentence_for_each_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: tuple[str, str], message: str
) -> None:
    monkeypatch.setenv("TEST_URL", "postgresql://u:secret@h/d")
    with pytest.raises(ConfigurationError, match=message) as refused:
        load_indexes(write(tmp_path, GOOD.replace(*change)))
    assert "secret" not in str(refused.value)
    assert refused.value.exit_code == 2


BAD = {
    "an unset variable": ("env.TEST_URL", "env.NOT_SET_ANYWHERE"),
    "a typo": ("holdout:", "holdouts:"),
    "no name": ("  name: docs", "  nmae: docs"),
    "no YAML": ("  name: docs", "  name: [docs"),
    "a name by an unset variable": ("name: docs", 'name: "{{ env.NOT_SET_ANYWHERE }}"'),
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD)
def test_what_is_wrong_with_another_declaration_is_no_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: tuple[str, str]
) -> None:
    monkeypatch.setenv("TEST_URL", "postgresql://u:secret@h/d")
    write(tmp_path, GOOD)
    (tmp_path / "a").mkdir()  # read before the good one
    file = tmp_path / "a" / "defs.yaml"
    file.write_text(
        GOOD.replace("name: docs", "name: shop").replace(change[0].replace("docs", "shop"), change[1].replace("docs", "shop"))
    )
    assert load_index(tmp_path, "docs").name == "docs"
    found = read_indexes(tmp_path)
    assert list(found.indexes) == ["docs"]
    (problem,) = found.unreadable
    assert str(file) in str(problem), "the sentence names the file"
    # Whoever asks for that one is told what is wrong with it, under its name or not.
    with pytest.raises(ConfigurationError) as refused:
        load_index(tmp_path, "shop")
    assert str(file) in str(refused.value)
    with pytest.raises(ConfigurationError):
        load_indexes(tmp_path)


def test_one_index_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_URL", "x")
    with pytest.raises(ConfigurationError, match="declared twice"):
        load_index(write(tmp_path, f"{GOOD}\n---\n{GOOD}"), "docs")
    with pytest.raises(ConfigurationError, match=r"No index 'shop' is declared in .*; there is docs\. Name one"):
        load_index(write(tmp_path, GOOD), "shop")


def test_nothing_declared_and_no_such_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No index is declared"):
        load_indexes(tmp_path)
    with pytest.raises(ConfigurationError, match="no file or folder"):
        load_indexes(tmp_path / "nowhere")


def test_declared_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_URL", "x")
    with pytest.raises(ConfigurationError, match="declared twice"):
        load_indexes(write(tmp_path, f"{GOOD}\n---\n{GOOD}"))


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ env.__init__.__globals__['os'].popen('touch MARK').read() }}",
        "{{ env.__call__.__globals__ }}",
        "{{ env.__class__ }}",
        "{{ cycler.__init__.__globals__.os.popen('touch MARK').read() }}",
        "{{ joiner.__init__.__globals__ }}",
        "{{ lipsum.__globals__['os'].popen('touch MARK') }}",
        "{{ namespace }}",
        "{{ self.__init__.__globals__ }}",
        "{{ env.PATH | attr('__class__') }}",
        "{{ '{0.__class__.__init__.__globals__}'.format(env) }}",
        "{% set f = '{0.__class__}'.format %}{{ f(env) }}",
        "{{ [env] | map(attribute='__class__') | list }}",
        "{% for each in ''.__class__.__mro__ %}{{ each }}{% endfor %}",
        "{{ [env] | map('upper') }}",
        "{{ env }}",
        "{{ 1 / 0 }}",
        "{% include '/etc/passwd' %}{{ env.PATH }}",
    ],
)
def test_a_template_reaches_the_environment_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str
) -> None:
    """Rendering in jinja2's own environment, the second of these ran a command in `embed-pipeline status`."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=r"defs.yaml: cannot resolve a template: .*\{\{ env\.NAME \}\}") as refused:
        configuration.parse_index(yaml.safe_load(GOOD)["attributes"] | {"database_url": template}, tmp_path / "defs.yaml")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "MARK").exists()


@pytest.mark.parametrize(
    ("template", "rendered"),
    [
        ("{{ env.TEST_URL }}", "postgresql://h/d"),
        ("{{ env('TEST_URL') }}", "postgresql://h/d"),
        ("{{ env('NOT_SET_ANYWHERE', 'postgresql://h/x') }}", "postgresql://h/x"),
        ("{{ env.TEST_URL }}?sslmode=require", "postgresql://h/d?sslmode=require"),
        ("{{ env.TEST_URL | replace('/d', '/e') }}", "postgresql://h/e"),
        ("{{ env.TEST_NUMBER }}", 4),
        ("{% if env.TEST_NUMBER == '4' %}{{ env.TEST_URL }}{% endif %}", "postgresql://h/d"),
    ],
)
def test_templates_render_as_dagster_renders_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, template: str, rendered: object
) -> None:
    monkeypatch.setenv("TEST_URL", "postgresql://h/d")
    monkeypatch.setenv("TEST_NUMBER", "4")
    assert configuration._render(template, tmp_path) == rendered
    assert dg.ResolutionContext.default().resolve_value(template) == rendered
