"""The status fits a terminal of 80 columns with the names that people have, and never says more than is so."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone

import pytest

from embed_pipeline.catalog.control import Control, ThrottleState
from embed_pipeline.catalog.route import Route
from embed_pipeline.catalog.serving import Pointer, RolledBack
from embed_pipeline.cli import render
from embed_pipeline.cli.status_lines import health_lines, status_lines, summary_line
from embed_pipeline.report.attention import attention
from embed_pipeline.report.index_status import Comparison, Event, IndexStatus
from embed_pipeline.report.next_command import Next
from embed_pipeline.report.running import Running
from embed_pipeline.report.version_status import GateState, VersionStatus

NOW = datetime(2024, 5, 1, 3, 44, tzinfo=timezone.utc)
MODEL = "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2 (1)"
SENTENCE = (
    "undecided: recall@10 of v6 0.731 on 320 queries is 0.006 below v5 (95 % bound -0.016); the margin is 0.012. Add queries."
)
SERVES = VersionStatus(
    *("v5", "active", MODEL, 384, NOW, 60.0, "0123456789ab"),
    partitions=64,
    partitions_done=64,
    stored=1_499,
    dead_letters=1,
    first_dead_letters=("d0003: content filter",),
    ann_index="valid",
    gate=GateState("pass", "pass: of what serves", NOW),
    ever_passed=True,
    bytes=12_345_678,
).against(1_500)
OTHERS = (
    replace(SERVES, name="v2", state="standby", rolled_back={"direct": RolledBack(NOW, "anna", "complaints of users", False)}),
    replace(
        SERVES,
        name="a_version_of_the_house_x",
        state="ready",
        gate=GateState("undecided", SENTENCE, NOW, "the documents have changed"),
    ),
    replace(SERVES, name="v7", state="building", partitions_done=12, stored=300, ann_index="missing", gate=None).against(1_500),
    replace(SERVES, name="v1", state="retired", dropped=True, coverage=None),
)
MOVE = Event(NOW, "v5", "cutover", "ready", "active", "dagster@runner-7f", "Dagster run b1ec06b7-8f2e-4a55-9c63-1f6e9d6b2a11")
FOUND = IndexStatus(
    "product_descriptions",
    "shop.product_descriptions_of_all_languages",
    1_500,
    Pointer("v5", "v2", 10, Route("v5"), Route("v2")),
    Control("running", "", ""),
    (SERVES, *OTHERS),
    (MOVE,) * 10,
    Next(
        "embed-pipeline dead-letters product_descriptions v5", "search misses d0003: " + "mend it, then have it tried again " * 3
    ),
    phase="judging",
    coverage=SERVES.coverage,
    served_since=MOVE,
    running=(Running("backfill", "v7", "embed-pipeline role migrator_of_the_house at 10.0.17.33", 2),),
    throttle=(
        ThrottleState("v7", "wait", "lag", "the standby replica_of_eu_central is 45 s behind, 30 s are allowed", 90.0, 1.0),
    ),
    comparison=Comparison(NOW, "nothing differs: 1,500 documents, 4 versions compared in the night", 0),
)
FOUND = replace(FOUND, attention=attention(FOUND, 0))


@pytest.mark.parametrize("width", [80, 140])
@pytest.mark.parametrize("everything", [False, True])
def test_no_line_is_wider_than_the_terminal(width: int, everything: bool) -> None:
    lines = status_lines(FOUND, width, everything=everything)
    assert [line for line in lines if len(line) > width] == []
    assert max(map(len, health_lines(FOUND, width))) <= width
    # A command is copied whole.
    assert "next: embed-pipeline dead-letters product_descriptions v5" in lines


def test_what_serves_is_marked_and_a_document_that_is_not_found_is_no_100_percent() -> None:
    lines = status_lines(FOUND)
    (serving,) = (line for line in lines if line.startswith("* "))
    assert serving.split()[1:3] == ["v5", "active"]
    assert "99.9 %  1 dead letter: d0003: content filter" in serving
    assert "a search finds 99.9 % of them" in lines[1]
    assert "  v1 retired (--all)" in lines
    assert not [line for line in lines if "100 %" in line or "gate of v5" in line]
    assert "now: backfill of v7, 2 partitions, by embed-pipeline role migrator_of_the_house" in "\n".join(lines)


@pytest.mark.parametrize(
    ("part", "words"), [(1.0, "100 %"), (0.99999, "99.9 %"), (0.5, "50 %"), (0.0, "0 %"), (None, "?"), (1_499 / 1_500, "99.9 %")]
)
def test_a_share_is_never_rounded_up(part: float | None, words: str) -> None:
    assert render.share(part) == words


def test_an_index_is_well_whatever_the_version_that_does_not_serve_is() -> None:
    well = replace(FOUND, attention=(), phase="failed")
    assert health_lines(well) == ["product_descriptions: well; a version has failed its gate, and does not serve"]


def test_a_log_has_a_line() -> None:
    assert summary_line(FOUND) == (
        "product_descriptions: judging, v5 serves; v7 12/64 partitions; queue 0; 4 things to see to: "
        "dead_letters, dead_letters, dead_letters, dead_letters"
    )
