"""Slices: which decide, how far their confidence is corrected, and what becomes of the verdict."""

from __future__ import annotations

import re

import numpy as np
import pytest

from embed_pipeline.evaluate.examine import Examined, World, examine
from embed_pipeline.evaluate.holdout import Holdout
from embed_pipeline.evaluate.slices import SHOWN, Slice, SliceRule, joined, look, markdown_table
from embed_pipeline.evaluate.verdict import GateRule, Outcome

RULE = GateRule(metric="recall@10", margin=0.02, confidence=0.95, min_queries=50)


def held(langs: dict[str, int]) -> Examined:
    """So many queries of each language; of "" they have none."""
    of = {f"{lang}-{n}": lang for lang, count in langs.items() for n in range(count)}
    holdout = Holdout(
        {each: f"query {each}" for each in of},
        {each: {each: 1} for each in of},
        "0" * 64,
        columns={"lang": {each: lang for each, lang in of.items() if lang}},
    )
    return examine(holdout, World(10_000, dict.fromkeys(of, "text")), max_missing=0, min_queries=2, cutoff=10)


def seen(
    examined: Examined, lost: dict[str, float], rule: SliceRule, *, baseline: bool = True, gate: GateRule = RULE
) -> list[Slice]:
    """The slices where the baseline found everything and the candidate lost the first share of each language."""
    before = dict.fromkeys(examined.clusters, 1.0)
    after = dict(before)
    for lang, share in lost.items():
        members = [each for each in before if each.startswith(f"{lang}-")]
        after |= dict.fromkeys(members[: int(share * len(members))], 0.0)
    return look(examined, before if baseline else None, after, gate, {"lang": rule}, candidate_name="v2", baseline_name="v1")


def outcomes(found: list[Slice]) -> dict[str, Outcome | None]:
    return {each.value: each.outcome for each in found}


def test_a_loss_that_the_mean_hides_fails() -> None:
    found = seen(held({"en": 1_800, "de": 200}), {"de": 0.1}, SliceRule(0.05))
    assert outcomes(found) == {"en": "pass", "de": "fail"}
    outcome, sentence = joined("pass", "pass: on 2000 queries.", found, declared=True)
    assert outcome == "fail"
    assert sentence.startswith(
        "fail: slice lang de: fail: recall@10 of v2 0.900 against v1 1.000 on 200 queries: difference -0.100, one-sided 97.5 % upper bound "
    )
    assert sentence.endswith("All queries together: pass: on 2000 queries.")


def test_what_is_said_of_single_slices_is_corrected_for_how_many_there_are_and_a_pass_is_not() -> None:
    """All have to pass, so that no correction is needed for that; that one of them lost is one statement of many."""
    examined = held({"en": 300, "de": 300, "fr": 300, "pl": 300, "it": 300, "": 10})
    found = seen(examined, {}, SliceRule(0.05, ["en", "de"]))
    assert {each.value: (round(each.confidence, 6), round(each.loss_confidence, 6)) for each in found} == {
        "de": (0.95, 0.975),
        "en": (0.95, 0.975),
        "fr": (0.9875, 0.9875),
        "it": (0.9875, 0.9875),
        "pl": (0.9875, 0.9875),
        "(no value)": (0.9875, 0.9875),
    }
    assert outcomes(found) == {"de": "pass", "en": "pass", "fr": None, "it": None, "pl": None, "(no value)": None}
    alone = seen(held({"en": 300}), {}, SliceRule(0.05))[0]
    assert found[0].lower == alone.lower
    assert found[0].upper is not None
    assert alone.upper is not None
    assert found[0].upper > alone.upper, "a bound that holds together with another is farther away"


def test_more_slices_cost_a_pass_no_queries() -> None:
    """What 60 queries alone prove of one slice, they prove of each of ten: corrected, none of these would pass."""
    found = seen(held({f"l{n}": 60 for n in range(10)}), {}, SliceRule(0.06))
    assert set(outcomes(found).values()) == {"pass"}
    assert joined("pass", "pass: all.", found, declared=True) == ("pass", "pass: all. 10 slices of lang pass too.")
    undecided = seen(held({f"l{n}": 60 for n in range(10)}), {"l0": 0.02}, SliceRule(0.06))
    assert undecided[0].outcome == "undecided"
    assert re.search(r"one-sided bounds -0\.0\d\d \(95 %\) and \+0\.0\d\d \(99\.5 %\), margin 0\.060", undecided[0].sentence)


def test_equal_slices_fail_no_more_often_together_than_promised() -> None:
    """Twenty equal slices, a margin next to nothing: uncorrected, most gates would have one that fails."""
    random = np.random.default_rng(7)
    examined = held({f"l{n}": 60 for n in range(20)})
    failed, sets = 0, 40
    for _ in range(sets):
        before = {each: float(random.random()) for each in examined.clusters}
        after = {each: float(random.random()) for each in examined.clusters}
        rule = {"lang": SliceRule(1e-9)}
        found = look(examined, before, after, RULE, rule, candidate_name="v2", baseline_name="v1", resamples=1_000)
        failed += any(each.outcome == "fail" for each in found)
    # 0.05 of 40 are 2; uncorrected, 1 - 0.95 ** 20 = 0.64 of them would fail.
    assert failed <= 6


def test_too_few_queries_are_undecided_and_said() -> None:
    found = seen(held({"en": 300, "pl": 3}), {}, SliceRule(0.05))
    assert outcomes(found) == {"en": "pass", "pl": "undecided"}
    outcome, sentence = joined("pass", "pass: all.", found, declared=True)
    assert outcome == "undecided"
    assert sentence == (
        "undecided: slice lang pl: undecided: it has 3 queries, and the gate asks for at least 50; add judged queries, or name the values that "
        "decide in gate.slices.lang.values. All queries together: pass: all."
    )
    named = seen(held({"en": 300, "pl": 3}), {}, SliceRule(0.05, ["en"]))
    assert joined("pass", "pass: all.", named, declared=True) == ("pass", "pass: all. 1 slice of lang passes too.")


def test_a_named_slice_without_a_query_is_undecided() -> None:
    found = seen(held({"en": 300}), {}, SliceRule(0.05, ["en", "fr"]))
    assert outcomes(found) == {"en": "pass", "fr": "undecided"}
    assert found[1].queries == 0


@pytest.mark.parametrize(("whole", "lost", "expected"), [
    ("fail", 0.0, "fail"),
    ("undecided", 0.0, "undecided"),
    ("undecided", 0.3, "fail"),
    ("fail", 0.3, "fail"),
    ("pass", 0.05, "undecided"),
])  # fmt: skip
def test_the_worst_counts(whole: Outcome, lost: float, expected: Outcome) -> None:
    found = seen(held({"en": 300, "de": 300}), {"de": lost}, SliceRule(0.05))
    outcome, sentence = joined(whole, f"{whole}: all.", found, declared=True)
    assert outcome == expected
    assert sentence.startswith(f"{expected}: ")
    assert ("slice lang de" in sentence) is (lost > 0)


def test_without_a_margin_nothing_decides() -> None:
    found = seen(held({"en": 300, "de": 300}), {"de": 0.5}, SliceRule())
    assert outcomes(found) == {"de": None, "en": None}
    assert found[0].difference == -0.5
    assert joined("pass", "pass: all.", found, declared=False) == ("pass", "pass: all.")


def test_without_a_baseline_they_are_shown_and_it_is_said() -> None:
    found = seen(held({"en": 300, "de": 300}), {"de": 0.5}, SliceRule(0.05, ["de", "fr"]), baseline=False)
    assert outcomes(found) == {"de": None, "en": None, "fr": None}
    assert [each.candidate for each in found] == [0.5, 1.0, None]
    assert joined("pass", "pass: all.", found, declared=True) == (
        "pass",
        "pass: all. No slice decided: there was nothing to compare with.",
    )


def test_queries_that_say_the_same_count_once_in_each_slice() -> None:
    queries = {"a": "open a file", "b": "Open a file!", "c": "open a file?"}
    columns = {"lang": {"a": "en", "b": "en", "c": "de"}}
    holdout = Holdout(queries, {each: {each: 1} for each in queries}, "0" * 64, columns=columns)
    examined = examine(holdout, World(100, dict.fromkeys(queries, "text")), max_missing=0, min_queries=1, cutoff=10)
    after = {"a": 1.0, "b": 0.0, "c": 1.0}
    found = look(examined, None, after, RULE, {"lang": SliceRule()}, candidate_name="v2", baseline_name="")
    assert {each.value: (each.queries, each.candidate) for each in found} == {"de": (1, 1.0), "en": (1, 0.5)}


def test_of_many_values_those_with_the_most_queries_are_shown() -> None:
    examined = held({f"l{n:02}": 100 - n for n in range(SHOWN + 5)})
    assert [each.value for each in seen(examined, {}, SliceRule())] == [f"l{n:02}" for n in range(SHOWN)]
    named = seen(examined, {}, SliceRule(0.05, [f"l{SHOWN + 4}"]))
    assert named[0].value == f"l{SHOWN + 4}"
    assert len(named) == SHOWN + 1


def test_the_table() -> None:
    found = seen(held({"en": 300, "a|b": 300}), {}, SliceRule(0.05, ["en"]))
    lines = markdown_table(found, candidate_name="v2", baseline_name="v1").splitlines()
    assert lines[0] == "| slice | queries | v1 | v2 | difference | one-sided bounds | decides |"
    assert lines[2].startswith("| lang en | 300 | 1.000 | 1.000 | +0.000 | -0.0")
    assert lines[2].endswith(" (95 %) | margin 0.05: pass |")
    assert lines[3].startswith("| lang a\\|b | 300 |"), "a value is text, and no cell"
    assert markdown_table([], candidate_name="v2", baseline_name="v1") == ""
    alone = seen(held({"en": 300}), {}, SliceRule(), baseline=False)
    assert markdown_table(alone, candidate_name="v1", baseline_name=None).splitlines()[0] == (
        "| slice | queries | v1 | one-sided bounds | decides |"
    )
