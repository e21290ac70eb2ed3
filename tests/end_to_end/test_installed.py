"""Installed by pip into an empty environment, alone and with each extra. It asks the package registry."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from embed_pipeline.extras import EXTRA_OF

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = sorted(set(EXTRA_OF.values()))
pytestmark = pytest.mark.soak

# Of what `pip install embed-pipeline` is: packages with this one, and megabytes of files.
MOST_PACKAGES, MOST_MEGABYTES = 30, 180


def python(environment: Path, *arguments: str) -> str:
    ran = subprocess.run([environment / "bin/python", *arguments], cwd="/", capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def install(environment: Path, what: str) -> None:
    constraints = str(ROOT / "constraints.txt")
    python(environment, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", constraints, what)


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    # A copy: building leaves files beside the sources.
    subprocess.run(
        ["cp", "-r", ROOT / "embed_pipeline", ROOT / "pyproject.toml", ROOT / "README.md", ROOT / "LICENSE", tmp_path], check=True
    )
    return tmp_path / "venv"


def test_alone(environment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install(environment, str(environment.parent))
    packages = python(environment, "-m", "pip", "list", "--format=freeze", "--exclude", "pip", "--exclude", "setuptools").split()
    megabytes = (
        sum(file.stat().st_size for file in (environment / "lib").rglob("*") if file.is_file() and not file.is_symlink()) / 1e6
    )
    with capsys.disabled():
        print(f"\npip install embed-pipeline: {len(packages)} packages, {megabytes:.0f} MB with pip itself")
    assert len(packages) <= MOST_PACKAGES
    assert megabytes <= MOST_MEGABYTES
    assert "search" in python(environment, "-m", "embed_pipeline.cli.main", "--help")
    python(environment, "-c", "from embed_pipeline import Searcher, cutover, gate, sync")


@pytest.mark.parametrize("extra", EXTRAS)
def test_with_one_extra(environment: Path, extra: str) -> None:
    """It brings what it says, and no other extra is needed to import what it is for."""
    assert extra in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    install(environment, f"{environment.parent}[{extra}]")
    for module in (module for module, of in EXTRA_OF.items() if of == extra):
        python(environment, "-c", f"import {module}")
    python(environment, "-c", FOR[extra])


FOR = {
    "chunking": "from embed_pipeline.embedders.chunker import Chunker; from embed_pipeline.spec import ChunkerSpec; "
    "Chunker(ChunkerSpec(size=100, overlap=0)).passages('a text')",
    "cohere": "import embed_pipeline.embedders.providers.cohere, embed_pipeline.embedders.providers.cohere_batch",
    "dagster": "from embed_pipeline import EmbeddingIndex; import embed_pipeline.definitions",
    "embedded": "from embed_pipeline.postgres.binaries import find_binaries; find_binaries()",
    "gate": "from embed_pipeline.evaluate.metrics import per_query; per_query('recall@10', {'q': {'1': 1}}, {'q': [('1', 1.0)]}); "
    "from embed_pipeline.evaluate.picture import Picture",
    "load": "from embed_pipeline.documents import rows; import pyarrow.parquet",
    "metrics": "import embed_pipeline.report.exporter",
    "onnx": "import embed_pipeline.embedders.providers.onnx, onnxruntime, tokenizers",
    "openai": "import embed_pipeline.embedders.providers.openai",
    "pandas": "import embed_pipeline.migrate.evidence_of",
    "qdrant": "from embed_pipeline.stores.kind import kind_named; kind_named('qdrant').load()",
    "voyage": "import embed_pipeline.embedders.providers.voyage",
}
