"""Slices: the queries of each value of a column of the held-out set, judged by themselves. A mean hides what a few lose. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from embed_pipeline.evaluate.examine import Examined
from embed_pipeline.evaluate.per_query import escaped
from embed_pipeline.evaluate.statistics import RESAMPLES, mean_bounds
from embed_pipeline.evaluate.verdict import GateRule, Outcome, judge, two_sided

# Of a column with more values those with the most queries are shown; what decides is shown in any case.
SHOWN = 30
# So many slices that do not pass are said in full.
NAMED = 3
NO_VALUE = "(no value)"

PerQuery = Mapping[str, float]


@dataclass(frozen=True)
class SliceRule:
    """What a column's slices may lose. `margin` None: they are shown and decide nothing. `values`: those that decide; empty: each."""

    margin: float | None = None
    values: Sequence[str] = ()

    def decides(self, value: str) -> bool:
        return self.margin is not None and (not self.values or value in self.values)


@dataclass(frozen=True)
class Slice:
    """The queries with one value of a column. Bounds are one-sided, `lower` at `confidence` and `upper` at `loss_confidence`; of the difference,
    or of the candidate's mean where nothing was compared with. `margin` and `outcome`: None where it does not decide."""

    column: str
    value: str
    queries: int
    confidence: float
    loss_confidence: float
    candidate: float | None = None
    baseline: float | None = None
    difference: float | None = None
    lower: float | None = None
    upper: float | None = None
    margin: float | None = None
    outcome: Outcome | None = None
    sentence: str = ""
    queries_needed: int | None = None

    @property
    def name(self) -> str:
        return f"{self.column} {self.value}"


@dataclass(frozen=True)
class _Part:
    """One slice before it is looked at; `margin` where it decides."""

    column: str
    value: str
    examined: Examined
    margin: float | None


def look(
    examined: Examined,
    baseline: PerQuery | None,
    candidate: PerQuery,
    rule: GateRule,
    wanted: Mapping[str, SliceRule],
    *,
    candidate_name: str,
    baseline_name: str,
    resamples: int = RESAMPLES,
) -> list[Slice]:
    """Every slice, those that decide first, each by `rule` with its own margin.

    What is said of single slices is corrected for how many there are (Bonferroni), of those that decide and of the others apart: that one
    lost holds of all at once with the rule's confidence. By which a slice passes is not: all have to, so that one which lost by its margin keeps
    the gate from passing as often as promised (docs/decisions/0031). Without a baseline none decides: there is nothing that could be lost.
    """
    parts = list(_parts(examined, wanted, compared=baseline is not None))
    found = []
    for deciding in (True, False):
        some = [part for part in parts if (part.margin is not None) is deciding]
        for part in some:
            corrected = 1 - (1 - rule.confidence) / len(some)
            passes = rule.confidence if deciding else corrected
            of = replace(rule, confidence=passes, fail_confidence=corrected, floor=None, min_baseline=0.0)
            found.append(_judged(part, baseline, candidate, of, (candidate_name, baseline_name), resamples))
    return found


def _parts(examined: Examined, wanted: Mapping[str, SliceRule], *, compared: bool) -> Iterator[_Part]:
    for column, rule in wanted.items():
        values = examined.holdout.columns[column]
        members: dict[str, set[str]] = {value: set() for value in rule.values}
        for query_id in examined.clusters:
            members.setdefault(values.get(query_id, NO_VALUE), set()).add(query_id)
        others = 0
        for value, query_ids in sorted(members.items(), key=lambda each: (-len(each[1]), each[0])):
            # A query without a value is of no slice that somebody could mean, unless it is named.
            decides = rule.decides(value) and (value != NO_VALUE or value in rule.values)
            others += not decides
            if decides or others <= SHOWN:
                yield _Part(column, value, examined.among(query_ids), rule.margin if decides and compared else None)


def _judged(
    part: _Part, baseline: PerQuery | None, candidate: PerQuery, rule: GateRule, names: tuple[str, str], resamples: int
) -> Slice:
    queries = part.examined.different
    found = Slice(part.column, part.value, queries, rule.confidence, rule.of_loss, margin=part.margin)
    if not queries:
        return found if part.margin is None else replace(found, outcome="undecided", sentence=_few(found, rule))
    after = part.examined.by_cluster(candidate)
    if baseline is None:
        alone = mean_bounds(after, worst=0.0, best=1.0, confidence=rule.confidence, resamples=resamples)
        return replace(found, candidate=alone.mean, lower=alone.lower, upper=alone.upper)
    before = part.examined.by_cluster(baseline)
    interval = two_sided(before, after, rule, resamples)
    found = replace(
        found,
        candidate=float(np.mean(after)),
        baseline=float(np.mean(before)),
        difference=interval.mean,
        lower=interval.lower,
        upper=interval.upper,
    )
    if part.margin is None:
        return found
    if queries < rule.min_queries:
        return replace(found, outcome="undecided", sentence=_few(found, rule))
    of = replace(rule, margin=part.margin)
    verdict = judge(before, after, of, resamples=resamples, candidate_name=names[0], baseline_name=names[1])
    return replace(
        found,
        outcome=verdict.outcome,
        sentence=f"slice {found.name}: {verdict.sentence}",
        queries_needed=verdict.queries_needed,
    )


def _few(found: Slice, rule: GateRule) -> str:
    return (
        f"slice {found.name}: undecided: it has {found.queries} {'query' if found.queries == 1 else 'queries'}, and the gate asks for at least "
        f"{rule.min_queries}; add judged queries, or name the values that decide in gate.slices.{found.column}.values."
    )


def joined(outcome: Outcome, sentence: str, found: Sequence[Slice], *, declared: bool) -> tuple[Outcome, str]:
    """The verdict on all queries with that of the slices that decide: it passes when all pass, and fails when any fails.

    `declared`: slices were meant to decide.
    """
    deciding = [each for each in found if each.outcome is not None]
    if not deciding:
        return outcome, f"{sentence} No slice decided: there was nothing to compare with." if declared else sentence
    bad = [each for each in deciding if each.outcome == "fail"] or [each for each in deciding if each.outcome == "undecided"]
    if not bad:
        return (
            outcome,
            f"{sentence} {_slices(len(deciding))} of {_columns(deciding)} {'passes' if len(deciding) == 1 else 'pass'} too.",
        )
    said = " ".join(each.sentence for each in bad[:NAMED])
    more = f" And {len(bad) - NAMED} more." if len(bad) > NAMED else ""
    rank: Sequence[Outcome] = ("pass", "undecided", "fail")
    worst = bad[0].outcome or "undecided"
    if rank.index(outcome) >= rank.index(worst):
        return outcome, f"{sentence} Of {_slices(len(deciding))} {len(bad)} {worst}: {said}{more}"
    return worst, f"{worst}: {said}{more} All queries together: {sentence}"


def markdown_table(found: Sequence[Slice], *, candidate_name: str, baseline_name: str | None) -> str:
    """One line for each slice. Empty without slices."""
    if not found:
        return ""
    compared = [] if baseline_name is None else [baseline_name]
    header = ["slice", "queries", *compared, candidate_name, *(["difference"] if compared else []), "one-sided bounds", "decides"]
    lines = [f"| {' | '.join(header)} |", f"| --- |{' ---: |' * (len(header) - 2)} --- |"]
    for each in found:
        cells = [escaped(each.name), str(each.queries), *([_mean(each.baseline)] if compared else []), _mean(each.candidate)]
        cells += [_signed(each.difference)] if compared else []
        cells += [_bounds(each), _decides(each)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _slices(count: int) -> str:
    return f"{count} {'slice' if count == 1 else 'slices'}"


def _columns(found: Sequence[Slice]) -> str:
    return ", ".join(dict.fromkeys(each.column for each in found))


def _mean(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+z.3f}"


def _bounds(each: Slice) -> str:
    if each.lower is None or each.upper is None:
        return ""
    shown = _mean if each.difference is None else _signed
    return f"{shown(each.lower)} to {shown(each.upper)} ({confidences(each.confidence, each.loss_confidence)})"


def confidences(lower: float, upper: float) -> str:
    """Of both bounds, said once where it is one."""
    return " and ".join(dict.fromkeys(f"{100 * each:.4g} %" for each in (lower, upper)))


def _decides(each: Slice) -> str:
    return "" if each.margin is None else f"margin {each.margin:g}: {each.outcome}"
