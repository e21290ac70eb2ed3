"""Collections that the frameworks make themselves are adopted and migrated, and their own retrievers answer before and after, by the alias."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from embed_pipeline.migrate import adopt
from embed_pipeline.migrate.opening import opened
from embed_pipeline.search import Searcher
from tests.harness import framework_app, qdrant_app
from tests.harness.articles import serve, settle
from tests.harness.framework_python import python_with
from tests.harness.qdrant.loopback import Loopback
from tests.stores.qdrant.by_hand import declared

PACKAGES = ("langchain-qdrant==1.1.0",)
PYTHON = "EMBED_PIPELINE_TESTS_QDRANT_FRAMEWORKS"

pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    return python_with(PACKAGES, tmp_path_factory.mktemp("frameworks"), PYTHON)


@pytest.mark.parametrize(("framework", "text", "metadata"), [("langchain", "page_content", "metadata")])
def test_the_frameworks_own_retriever_answers_by_the_alias(
    python: str,
    loopback: Callable[..., Loopback],
    database_url: str,
    tmp_path: Path,
    framework: str,
    text: str,
    metadata: str,
) -> None:
    server = loopback()

    def application(verb: str, collection: str) -> list[str]:
        # -P: nothing in the folder of the script stands before a module of theirs.
        command = [python, "-P", qdrant_app.__file__, verb, framework, server.url, collection]
        ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""})
        assert ran.returncode == 0, ran.stderr
        found: list[str] = json.loads(ran.stdout.splitlines()[-1])
        return found

    wanted = framework_app.NOTES[:5]
    assert application("make", "notes") == wanted
    calls = tmp_path / "calls"
    model = {
        "provider": "tests.harness.framework_app:NotesEmbedder",
        "dimensions": framework_app.DIMENSIONS,
        "options": {"calls_file": str(calls)},
    }
    store = {
        "kind": "qdrant",
        "url": server.url,
        "collection": "live",
        "adopt": {"version": "v1", "collection": "notes", "text": text},
    }
    holdout = tmp_path / "notes.jsonl"
    client = server.client()
    points, _ = client.scroll("notes", limit=100, with_payload=True)
    rows = [{"query_id": str(n), "query": (p.payload or {})[text], "doc_id": str(p.id), "grade": 1} for n, p in enumerate(points)]
    holdout.write_text("\n".join(map(json.dumps, rows)))
    versions = {name: {**model, "model_name": f"notes-{name}"} for name in ("v1", "v2")}
    judged = {"holdout": {"path": str(holdout)}}
    one = declared(database_url, tmp_path, store, versions={"v1": versions["v1"]}, **judged)
    with opened(one, register_new=False) as index:
        assert adopt.adopt(index).adopted == len(framework_app.NOTES)
    with opened(one) as index:
        serve(index, "v1")
        settle(index)
        assert application("ask", "live") == wanted
    with opened(declared(database_url, tmp_path, store, versions=versions, **judged)) as index:
        serve(index, "v2")
        settle(index)
        # The model is the same in all but its name, so that the application's own answers for both.
        assert application("ask", "live") == wanted
        with Searcher("docs", database_url) as searcher:
            found = [searcher.search(note, k=1, with_documents=True).hits[0] for note in wanted]
    assert [hit.document.text for hit in found if hit.document] == wanted
    kept, _ = client.scroll("live", limit=100, with_payload=True)
    own = {str(p.id): {name: value for name, value in (p.payload or {}).items() if name != "embed_pipeline"} for p in kept}
    assert own == {str(p.id): p.payload for p in points}
    assert all(metadata in payload for payload in own.values())
