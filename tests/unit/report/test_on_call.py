"""What a person on call reads, of an index that was made up."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone

from embed_pipeline.catalog.control import Control
from embed_pipeline.catalog.route import Route
from embed_pipeline.catalog.serving import Pointer
from embed_pipeline.report import on_call
from embed_pipeline.report.next_command import Next
from embed_pipeline.report.now import Covered, Facts, Move, Now
from embed_pipeline.report.on_call import Answer
from embed_pipeline.report.status import Comparison
from embed_pipeline.report.version_status import VersionStatus

AT = datetime(2026, 11, 30, 3, 44, tzinfo=timezone.utc)
FACTS = Facts(60.0, ("00",), 0, None, None)
V1 = VersionStatus("v1", "standby", "m (1)", 8, since=AT)
V2 = VersionStatus("v2", "active", "m (2)", 8, since=AT)
WELL = Now(
    index="docs",
    pointer=Pointer("v2", "v1", 2, Route("v2"), Route("v1")),
    moved=Move(AT, "cutover", "ann", "better"),
    versions=(V1, V2),
    facts={"v1": FACTS, "v2": FACTS},
    held=Control("running", "", ""),
    doubts=(),
    comparison=Comparison(AT, "Every vector agrees.", 0),
    coverage=Covered(1_500, 0, 0, AT),
    next=Next(None, "nothing is to be done"),
    max_dead_letters=0,
)


def answered(now: Now) -> dict[str, Answer]:
    return {answer.name: answer for answer in on_call.answers(now)}


def test_all_is_well() -> None:
    found = answered(WELL)
    assert tuple(found) == on_call.QUESTIONS
    assert all(answer.passed for answer in found.values())
    assert found[on_call.SERVES].sentence == "v2 serves since 2026-11-30 03:44 UTC, generation 2, by ann: better"
    assert on_call.coverage(WELL) == "100 % of 1,500 documents, compared at 2026-11-30 03:44 UTC"


def test_a_document_that_cannot_be_found_is_never_100_percent() -> None:
    lacking = replace(V2, dead_letters=1, first_dead_letters=("d3: filter",))
    now = replace(WELL, versions=(V1, lacking), coverage=Covered(1_000_000, 0, 0, AT))
    assert (on_call.coverage(now) or "").startswith("99.9 % of 1,000,000 documents")
    answer = answered(now)[on_call.DEAD_LETTERS]
    assert (answer.passed, answer.severe, answer.command) == (False, True, "embed-pipeline dead-letters docs")
    assert "**dead_letters**: 1 document has no vector in v2, which serves and does not find them, (d3: filter)" in on_call.page(
        now
    )


def test_a_changed_model_is_severe_where_it_serves() -> None:
    changed = replace(FACTS, changed_at=AT, lowest_cosine=0.71)
    for version, severe in (("v1", False), ("v2", True)):
        answer = answered(replace(WELL, facts=dict(WELL.facts) | {version: changed}))[on_call.SAME_MODEL]
        assert (answer.passed, answer.severe) == (False, severe)
        assert answer.sentence.startswith(f"The model of {version} is another one since 2026-11-30 03:44 UTC (cosine 0.710)")


def test_what_was_bypassed_and_what_is_gone_are_said() -> None:
    now = replace(WELL, comparison=Comparison(AT, "2 differed.", 2), broken=("v2: its vectors are gone.",))
    found = answered(now)
    assert (found[on_call.NOTHING_BYPASSED].passed, found[on_call.NOTHING_BYPASSED].severe) == (False, False)
    assert (found[on_call.SERVES].passed, found[on_call.SERVES].severe) == (False, True)


def test_an_age_is_said_in_steps_so_that_it_is_not_news_each_minute() -> None:
    said = set()
    for seconds in (61.0, 200.0, 299.0):
        late = replace(V2, pending=7, oldest_pending_seconds=seconds)
        said.add(answered(replace(WELL, versions=(V1, late)))[on_call.QUEUE_AGE].sentence)
    assert said == {"Changes have waited for v2, which serves, for more than a minute: what it finds is of before."}


def test_what_has_no_answer_yet_is_not_asked() -> None:
    new = replace(WELL, pointer=Pointer(None, None, 0), moved=None, versions=(), facts={}, comparison=None, coverage=None)
    assert set(answered(new)) == {on_call.SERVES, on_call.CAPTURE_ARMED, on_call.SAME_MODEL}
