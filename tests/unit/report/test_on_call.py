"""What a person on call reads, of an index that was made up."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pytest

from embed_pipeline.catalog.route import Route
from embed_pipeline.catalog.serving import Pointer
from embed_pipeline.report import on_call
from embed_pipeline.report.attention import CODES
from embed_pipeline.report.index_status import Comparison
from embed_pipeline.report.next_command import Next
from embed_pipeline.report.now import Covered, Move, Now
from embed_pipeline.report.on_call import Answer
from embed_pipeline.report.version_status import VersionStatus
from tests.unit.report import test_attention as states

AT = datetime(2026, 11, 30, 3, 44, tzinfo=timezone.utc)
V1 = replace(states.V1, state="standby", since=AT)
V2 = replace(states.V1, name="v2", since=AT)
STATUS = replace(
    states.WELL,
    versions=(V1, V2),
    serving=Pointer("v2", "v1", 2, Route("v2"), Route("v1")),
    comparison=Comparison(AT, "Every vector agrees.", 0),
)
WELL = Now(
    status=STATUS,
    moved=Move(AT, "cutover", "ann", "better"),
    filled={"v1": ("00",), "v2": ("00",)},
    coverage=Covered(1_500, 0, 0, AT),
    max_dead_letters=0,
)


def answered(now: Now) -> dict[str, Answer]:
    return {answer.name: answer for answer in on_call.answers(now)}


def with_(*found: VersionStatus) -> Now:
    return replace(WELL, status=replace(STATUS, versions=found))


def test_all_is_well() -> None:
    found = answered(WELL)
    assert tuple(found) == on_call.QUESTIONS
    assert all(answer.passed for answer in found.values())
    assert found[on_call.SERVES].sentence == "v2 serves since 2026-11-30 03:44 UTC, generation 2, by ann: better"
    assert on_call.coverage(WELL) == "100 % of 1,500 documents, compared at 2026-11-30 03:44 UTC"


@pytest.mark.parametrize("row", states.ROWS, ids=lambda row: f"{row[0]}-{row[1]}")
def test_a_check_fails_exactly_where_status_check_does(row: tuple[str, str, str | None, dict[str, Any]]) -> None:
    code, severity, command, changes = row
    now = replace(WELL, status=replace(states.WELL, **changes), max_dead_letters=1)
    (wrong,) = now.attention
    assert wrong.code == code
    failed = {name: each for name, each in answered(now).items() if not each.passed and name != on_call.ROLLBACK_POSSIBLE}
    assert set(failed) == {name for name, codes in on_call.FAILS_BY.items() if code in codes}
    for each in failed.values():
        assert each.severe == (severity == "critical"), "red where `status` says critical, amber where it says warning"
        assert each.command == (None if command is None else f"embed-pipeline {command}")


def test_every_word_of_attention_has_its_question_or_is_asked_elsewhere() -> None:
    asked = [code for codes in on_call.FAILS_BY.values() for code in codes]
    assert sorted([*asked, *on_call.ASKED_ELSEWHERE]) == sorted(CODES)


def test_a_document_that_cannot_be_found_is_never_100_percent() -> None:
    lacking = replace(V2, dead_letters=1, first_dead_letters=("d3: filter",))
    now = replace(with_(V1, lacking), coverage=Covered(1_000_000, 0, 0, AT))
    assert (on_call.coverage(now) or "").startswith("99.9 % of 1,000,000 documents")
    assert "**dead_letters**: 1 document has no vector in v2 (d3: filter). Allowed are 0" in on_call.page(now, str)


def test_the_page_says_what_comes_next_in_the_readers_own_words() -> None:
    now = replace(WELL, status=replace(STATUS, next=Next("embed-pipeline retire docs v1", "v1 may go")))
    assert on_call.page(now, lambda command: f"job {command.split()[1]}").endswith("Next: v1 may go (job retire).")


def test_an_age_is_said_in_steps_so_that_it_is_not_news_each_minute() -> None:
    said = set()
    for seconds in (61.0, 200.0, 299.0):
        late = replace(V2, pending=7, oldest_pending_seconds=seconds)
        said.add(answered(with_(V1, late))[on_call.QUEUE_AGE].sentence)
    assert said == {"Changes have waited for v2, which serves, for more than a minute: what it finds is of before."}


def test_what_has_no_answer_yet_is_not_asked() -> None:
    status = replace(STATUS, serving=Pointer(None, None, 0), versions=(), comparison=None)
    new = replace(WELL, status=status, moved=None, filled={}, coverage=None)
    assert set(answered(new)) == {on_call.SERVES, on_call.CAPTURE_ARMED, on_call.SAME_MODEL}
