"""Bad input in YAML: one sentence that says where."""

from __future__ import annotations

from pathlib import Path

import pytest

from embed_pipeline.configuration import load_indexes
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


def test_nothing_declared_and_no_such_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No index is declared"):
        load_indexes(tmp_path)
    with pytest.raises(ConfigurationError, match="no file or folder"):
        load_indexes(tmp_path / "nowhere")


def test_declared_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_URL", "x")
    with pytest.raises(ConfigurationError, match="declared twice"):
        load_indexes(write(tmp_path, f"{GOOD}\n---\n{GOOD}"))
