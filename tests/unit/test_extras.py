"""What the extras bring is not needed before it is used, and is missed in one sentence."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

from embed_pipeline.extras import EXTRA_OF

ROOT = Path(__file__).resolve().parents[2]

MISSED = """
import json
import sys
import traceback
from pathlib import Path
from tests.harness import without_extras

without_extras.take_away()
import embed_pipeline
from embed_pipeline.errors import ConfigurationError
from embed_pipeline.spec import AccountSpec, ChunkerSpec, VersionSpec

def version(provider, **more):
    return VersionSpec.model_validate({"provider": provider, "model_name": "embed-v4.0", "dimensions": 256} | more)

def provider(name):
    from embed_pipeline.embedders.registry import open_service
    open_service(version(name, max_tokens=500), AccountSpec(api_key_env="SOME_KEY"))

def picture():
    from embed_pipeline.evaluate.picture import Picture
    Picture("pass.", "recall@10", [], 0.02, "v2").png()

def chunker():
    from embed_pipeline.embedders.chunker import Chunker
    Chunker(ChunkerSpec(size=100, overlap=0))

def rows(name):
    from embed_pipeline.documents.rows import read_rows
    list(read_rows(Path(name)))

def holdout(name):
    from embed_pipeline.evaluate.holdout import load_holdout
    load_holdout(Path(name))

def metric():
    from embed_pipeline.evaluate.metrics import per_query
    per_query("recall@10", {"q": {"1": 1}}, {"q": [("1", 1.0)]})

def adapter():
    import numpy as np
    from embed_pipeline.embedders.maps import fit
    fit("procrustes", np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32))

def tokenizer():
    from embed_pipeline.embedders.tokens import open_tokenizer
    open_tokenizer("tokenizer.json")

def qdrant():
    from embed_pipeline.stores.kind import kind_named
    kind_named("qdrant").load()

def collection():
    from embed_pipeline.spec.collection_config import collection_config
    collection_config({"hnsw_config": {"m": 16}})

def exporter():
    import embed_pipeline.report.exporter

said = {}
for name, call in {
    "dagster": lambda: embed_pipeline.EmbeddingIndex, "openai": lambda: provider("openai"), "cohere": lambda: provider("cohere"),
    "voyage": lambda: provider("voyage"), "picture": picture, "chunker": chunker, "parquet": lambda: rows("a.parquet"),
    "csv": lambda: rows("a.csv"), "holdout": lambda: holdout("a.parquet"), "metric": metric, "adapter": adapter,
    "tokenizer": tokenizer, "qdrant": qdrant, "collection": collection, "exporter": exporter,
}.items():
    try:
        call()
        said[name] = "nothing"
    except ConfigurationError as problem:
        said[name] = str(problem)
    except BaseException:
        said[name] = traceback.format_exc()
for name in embed_pipeline.__all__:
    if name not in ("EmbeddingIndex", "DocumentsIOManager"):
        getattr(embed_pipeline, name)
json.dump({"said": said, "imported": sorted({module.partition(".")[0] for module in sys.modules})}, sys.stdout)
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process without any extra says of each thing that needs one, and what it has imported."""
    folder = tmp_path_factory.mktemp("files")
    for name in ("a.parquet", "a.csv"):
        (folder / name).touch()
    environment = {"SOME_KEY": "sk-1", "PATH": "", "PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, "-c", MISSED], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


SENTENCES = {
    "dagster": "EmbeddingIndex needs dagster, which is not installed. Run: pip install 'embed-pipeline[dagster]'",
    "openai": "Provider openai needs openai, which is not installed. Run: pip install 'embed-pipeline[openai]'",
    "cohere": "Provider cohere needs cohere, which is not installed. Run: pip install 'embed-pipeline[cohere]'",
    "voyage": "Provider voyage needs voyageai, which is not installed. Run: pip install 'embed-pipeline[voyage]'",
    "picture": "The picture of a verdict needs matplotlib, which is not installed. Run: pip install 'embed-pipeline[gate]'",
    "chunker": "A chunker needs langchain_text_splitters, which is not installed. Run: pip install 'embed-pipeline[chunking]'",
    "parquet": "To load Parquet needs pyarrow, which is not installed. Run: pip install 'embed-pipeline[load]'",
    "csv": "To load CSV needs pyarrow, which is not installed. Run: pip install 'embed-pipeline[load]'",
    "holdout": "A held-out set in Parquet needs pyarrow, which is not installed. Run: pip install 'embed-pipeline[load]'",
    "metric": "A gate needs ir_measures, which is not installed. Run: pip install 'embed-pipeline[gate]'",
    "adapter": "To fit an adapter needs scipy, which is not installed. Run: pip install 'embed-pipeline[gate]'",
    "tokenizer": "A tokenizer needs tokenizers, which is not installed. Run: pip install 'embed-pipeline[onnx]'",
    "qdrant": "Store qdrant needs qdrant_client, which is not installed. Run: pip install 'embed-pipeline[qdrant]'",
    "collection": "The configuration of a collection needs qdrant_client, which is not installed. "
    "Run: pip install 'embed-pipeline[qdrant]'",
    "exporter": "The exporter of metrics needs prometheus_client, which is not installed. Run: pip install 'embed-pipeline[metrics]'",
}


@pytest.mark.parametrize("name", SENTENCES)
def test_what_is_missing_is_one_sentence(alone: dict[str, Any], name: str) -> None:
    assert alone["said"][name] == SENTENCES[name]


def test_all_that_is_exported_can_be_imported_without_an_extra(alone: dict[str, Any]) -> None:
    assert not set(EXTRA_OF) & set(alone["imported"])


def test_each_extra_brings_its_modules() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {
        extra: {re.split(r"[<>=\[]", each)[0] for each in wanted} for extra, wanted in project["optional-dependencies"].items()
    }
    distributions = packages_distributions()
    for module, extra in EXTRA_OF.items():
        assert extras[extra] & {each.replace("_", "-") for each in distributions[module]}, module
    named = set(re.split(r"[\[\],]", project["optional-dependencies"]["all"][0])) - {"embed-pipeline", ""}
    assert named == set(extras) - {"all", "demo", "dev"}
