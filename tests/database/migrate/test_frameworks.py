"""Tables that the frameworks make themselves are adopted, and their own retrievers answer before, during and after."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from embed_pipeline.migrate import adopt, ann_index, backfill, cutover, gate
from embed_pipeline.migrate.opening import opened
from embed_pipeline.search import Searcher
from tests.harness import framework_app
from tests.harness.articles import declared, settle
from tests.harness.fakes import asked_texts
from tests.harness.framework_python import python_with

FRAMEWORKS = ("langchain-postgres==0.0.19", "llama-index-vector-stores-postgres==0.9.0")
# A Python that has them; absent: one is made for the test, which takes minutes.
PYTHON = "EMBED_PIPELINE_TESTS_FRAMEWORKS"

pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    return python_with(FRAMEWORKS, tmp_path_factory.mktemp("frameworks"), PYTHON)


@pytest.mark.parametrize("table", framework_app.TABLES)
def test_the_frameworks_own_retriever_answers_before_during_and_after(
    python: str, database_url: str, holdout: Path, tmp_path: Path, table: str
) -> None:
    def framework(verb: str) -> list[str]:
        # -P: nothing in the folder of the script stands before a module of theirs.
        command = [python, "-P", framework_app.__file__, verb, table, database_url]
        ran = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""})
        assert ran.returncode == 0, ran.stderr
        found: list[str] = json.loads(ran.stdout.splitlines()[-1])
        return found

    wanted = framework_app.NOTES[:5]
    assert framework("make") == wanted
    _, key, text = framework_app.TABLES[table]
    calls = tmp_path / "calls"
    model = {
        "provider": "tests.harness.framework_app:NotesEmbedder",
        "model_name": "notes",
        "dimensions": framework_app.DIMENSIONS,
        "options": {"calls_file": str(calls)},
    }
    spec = declared(
        database_url,
        holdout,
        documents={"table": table, "key": key, "text": [text]},
        store={"kind": "pgvector", "adopt": {"version": "v1"}},
        versions={"v1": model},
    )
    with opened(spec, register_new=False) as index:
        assert adopt.adopt(index).to_copy == len(framework_app.NOTES)
        asked = len(asked_texts(calls))
        backfill.fill_partition(index, "v1", "00")
        assert framework("ask") == wanted
        backfill.fill_partition(index, "v1", "01")
        ann_index.build(index, "v1")
        settle(index)
        assert len(asked_texts(calls)) == asked == len(framework_app.NOTES)
        assert gate.run(index, "v1").outcome == "pass"
        cutover.cutover(index, "v1")
        assert framework("ask") == wanted
        with Searcher("docs", database_url) as searcher:
            found = [searcher.search(note, k=1, with_documents=True).hits[0] for note in wanted]
    assert [hit.document.text for hit in found if hit.document] == wanted
