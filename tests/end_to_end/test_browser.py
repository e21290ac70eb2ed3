"""Two indexes through a whole migration, half by clicks in Dagster's pages and half from a shell; after each step the pages say what is true."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from embed_pipeline.configuration import load_indexes
from embed_pipeline.report import on_call
from embed_pipeline.report.now import Now, now_of
from tests.end_to_end.browser import NO_CHROMIUM, Pages, browsing, chromium, until
from tests.end_to_end.running import DATABASE_VARIABLE, running
from tests.harness.articles import DOCUMENTS

DEFS = """
type: embed_pipeline.EmbeddingIndex
attributes:
  name: {name}
  database_url: "{{{{ env.E2E_DATABASE_URL }}}}"
  documents: {{table: {table}, key: id, text: [title, body]}}
  partitions: 4
  versions:
    v1: {{provider: "tests.harness.fakes:HashEmbedder", model_name: one, dimensions: 16, options: {{salt: v1}}}}
    v2: {{provider: "tests.harness.fakes:HashEmbedder", model_name: two, dimensions: 16, options: {{salt: v2}}}}
  holdout: {{path: "{holdout}"}}
  gate: {{min_queries: 2, margin: 0.2}}
  retire: {{soak_seconds: 0, unread_seconds: 0}}
"""
JUDGED = ["ann_recall", "coverage", "held_out_recall", "provenance"]
RETIRE = "{{ops: {{{index}__v1_retire__op: {{config: {{confirm: v1}}}}}}}}"


@dataclass
class Index:
    """One of the two, driven by clicks or from a shell, and its pages held against the catalog."""

    name: str
    project: Path
    pages: Pages

    def cli(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "embed_pipeline.cli.main", *arguments]
        ran = subprocess.run(command, cwd=self.project, capture_output=True, text=True, timeout=300, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr

    def now(self) -> Now:
        found = now_of(load_indexes(self.project / "assets")[self.name])
        assert found is not None
        return found

    def differences(self) -> list[str]:
        """What the pages say otherwise than the catalog, in a person's words."""
        now, pages = self.now(), self.pages
        differs = []
        answers = {answer.name: answer for answer in on_call.answers(now)}
        shown = pages.checks(f"{self.name}/serving", list(on_call.QUESTIONS))
        for question in on_call.QUESTIONS:
            answer = answers.get(question)
            wanted = "Not Evaluated" if answer is None else "Succeeded" if answer.passed else "Failed"
            if shown.get(question) != wanted:
                differs.append(f"{question} of {self.name} is {shown.get(question)}, not {wanted}")
        serves = answers[on_call.SERVES].sentence
        if not pages.sentence(f"{self.name}/serving", on_call.SERVES, serves):
            differs.append(f"the page of serves does not say: {serves}")
        for version in now.status.versions:
            key = f"{self.name}/{version.name}"
            retired = on_call.not_retired(now, version.name)
            if not pages.sentence(f"{key}/embeddings", on_call.NOT_RETIRED, retired.sentence):
                differs.append(f"the page of {key} does not say: {retired.sentence}")
            filled = pages.partitions(f"{key}/embeddings").get("Materialized")
            if version.is_live and filled != version.partitions_done:
                differs.append(f"{filled} partitions of {key} are green, and {version.partitions_done} are filled")
            if version.is_live and version.gate is not None:
                wanted = "Succeeded" if version.gate.outcome == "pass" else "Failed"
                judged = pages.checks(f"{key}/evaluation", JUDGED).get("held_out_recall")
                if judged != wanted:
                    differs.append(f"held_out_recall of {key} is {judged}, not {wanted}")
        return differs


@pytest.fixture
def both(
    app: psycopg.Connection, database_url: str, holdout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[Index]]:
    if chromium() is None:
        pytest.skip(NO_CHROMIUM)
    app.execute("CREATE TABLE products (LIKE articles INCLUDING ALL)")
    app.execute("INSERT INTO products SELECT * FROM articles")
    monkeypatch.setenv(DATABASE_VARIABLE, database_url)
    project = tmp_path / "project"
    docs, shop = (
        DEFS.format(name=name, table=table, holdout=holdout) for name, table in (("docs", "articles"), ("shop", "products"))
    )
    with running(project, docs, database_url, shop=shop) as client, browsing(client) as pages:
        yield [Index("docs", project, pages), Index("shop", project, pages)]


Step = Callable[[Index], object]


def clicked(ended: str) -> None:
    assert ended in ("SUCCESS", "COMPLETED_SUCCESS"), ended


@pytest.mark.soak
def test_pages_say_what_is_true_whoever_did_it(both: list[Index], app: psycopg.Connection) -> None:
    """What docs does by clicks, shop does from a shell, and the other way round."""

    def fill(version: str) -> tuple[Step, Step]:
        return (
            lambda each: clicked(each.pages.backfill(f"{each.name}/{version}/embeddings")),
            lambda each: each.cli("backfill", each.name, version),
        )

    def judge(version: str) -> tuple[Step, Step]:
        def by_hand(each: Index) -> None:
            # What Dagster has filled has no ANN index yet: its gate's job builds it, and from a shell the backfill does.
            each.cli("backfill", each.name, version)
            each.cli("gate", each.name, version)

        return (lambda each: clicked(each.pages.materialize(f"{each.name}__{version}_gate")), by_hand)

    def serve(version: str) -> tuple[Step, Step]:
        def by_hand(each: Index) -> None:
            each.cli("backfill", each.name, version)
            each.cli("gate", each.name, version)
            each.cli("cutover", each.name, version)

        def by_clicks(each: Index) -> None:
            clicked(each.pages.materialize(f"{each.name}__{version}_gate"))
            clicked(each.pages.materialize(f"{each.name}__{version}_cutover"))

        return by_clicks, by_hand

    back: tuple[Step, Step] = (
        lambda each: clicked(each.pages.launch(f"{each.name}_rollback")),
        lambda each: each.cli("rollback", each.name),
    )
    retire: tuple[Step, Step] = (
        lambda each: clicked(each.pages.launch(f"{each.name}__v1_retire", RETIRE.format(index=each.name))),
        lambda each: each.cli("retire", each.name, "v1", "--confirm", "v1"),
    )
    steps = [fill("v1"), serve("v1"), fill("v2"), judge("v2"), serve("v2"), back, serve("v2"), retire]
    served = [None, "v1", "v1", "v1", "v2", "v1", "v2", "v2"]
    for number, ((clicks, shell), wanted) in enumerate(zip(steps, served, strict=True)):
        for position, index in enumerate(both):
            (clicks if (number + position) % 2 == 0 else shell)(index)
        for index in both:
            until(index.differences)
            assert index.now().status.serving.version == wanted
    vectors = app.execute("SELECT count(*) FROM embed_pipeline.shop__v2").fetchone()
    assert vectors == (DOCUMENTS,)
