"""A verdict of the gate as one page that a person can send to others: HTML that loads nothing, runs nothing and can be printed."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from embed_pipeline.evaluate import per_query
from embed_pipeline.evaluate.ef_curve import EfCurve
from embed_pipeline.evaluate.slices import confidences
from embed_pipeline.report.markup import Html, document, section, tag, words

if TYPE_CHECKING:
    from embed_pipeline.catalog.judged_queries import Hits, QueryRow
    from embed_pipeline.migrate.verdicts import GateResult


def page(found: GateResult, worst: Sequence[QueryRow], made_at: datetime) -> str:
    """The whole page; `worst` are the queries that it shows."""
    title = f"Gate of {found.index} {found.version}: {found.outcome}"
    outcome = tag("span", found.outcome, class_=f"outcome {found.outcome}")
    body = [
        tag("h1", f"Gate of {found.index} {found.version} ", outcome),
        tag("p", words(found.sentence)),
        tag("p", _facts(found, made_at), class_="small"),
        *_picture(found, title),
        *_tables(found),
        *([tag("p", found.threshold)] if found.threshold else []),
        *_curve(EfCurve.of(found.measures)),
        *_queries(found, worst),
        *_measures(found.measures),
    ]
    return document(title, body)


def _facts(found: GateResult, made_at: datetime) -> str:
    against = f"compared with {found.baseline}" if found.baseline else "compared with nothing"
    route = "" if found.route == "direct" else f"; route {found.route}"
    return f"{found.version} was {against}{route}; evidence {found.evidence_id}; page of {made_at:%Y-%m-%d %H:%M} UTC."


def _picture(found: GateResult, title: str) -> list[Html]:
    if found.draw is None:
        return []
    data = base64.b64encode(found.draw()).decode("ascii")
    return [tag("figure", Html(f'<img alt="{html.escape(title)}" src="data:image/png;base64,{data}">'))]


def _tables(found: GateResult) -> list[Html]:
    """Metrics, slices, times and scores, as far as they were measured."""
    measures, compared = found.measures, found.baseline is not None
    confidence = f"one-sided {100 * measures.get('confidence', 0):g} % bounds"
    names = [found.baseline or "", found.version] if compared else [found.version]
    metric_rows = [
        [each["metric"], *_compared(each, compared), *([_bounds(each)] if compared else [])] for each in measures.get("rows", ())
    ]
    slice_rows = [
        [f"{each['column']} {each['value']}", str(each["queries"]), *_compared(each, compared), _bounds(each), *_decides(each)]
        for each in measures.get("slices", ())
    ]
    time_rows = [
        [name, *(f"{measures[f'search_{at}_ms{ending}']:.2f}" for at in ("p50", "p95", "p99"))]
        for name, ending in ((found.baseline, "_baseline"), (found.version, ""))
        if name is not None and f"search_p50_ms{ending}" in measures
    ]
    score_rows = [
        [kind, each["version"], str(each[which]["count"]), *(f"{each[which][at]:.3f}" for at in ("low", "middle", "high"))]
        for kind, which in (("best relevant hit", "right"), ("best wrong hit", "wrong"))
        for each in measures.get("scores", {}).get("versions", ())
        if each[which] is not None
    ]
    difference = ["difference"] if compared else []
    return [
        *section("Metrics", ["metric", *names, *difference, *([confidence] if compared else [])], metric_rows, 1),
        *section("Slices", ["slice", "queries", *names, *difference, "one-sided bounds", "confidence", "decides"], slice_rows, 1),
        *section("Search, milliseconds", ["version", "p50", "p95", "p99"], time_rows, 1),
        *section("Scores", ["of", "version", "queries", "5 %", "median", "95 %"], score_rows, 2),
    ]


def _curve(curve: EfCurve | None) -> list[Html]:
    if curve is None:
        return []
    rows = [
        [curve.name(each), f"{each.recall:.4f}", *(f"{at:.2f}" for at in (each.took.p50, each.took.p95, each.took.p99))]
        for each in curve.points
    ]
    header = ["ef_search", "ANN recall", "p50, ms", "p95, ms", "p99, ms"]
    return [*section("What ef_search buys", header, rows, 0), tag("p", curve.sentence)]


def _queries(found: GateResult, worst: Sequence[QueryRow]) -> list[Html]:
    if not worst:
        return []
    metric = str(found.measures.get("metric"))
    title = "Queries that lost most" if found.baseline else "Queries that found least"
    shown = [tag("h2", title), tag("p", "A relevant document is marked.", class_="small")]
    for row in worst:
        scores = [f"{metric} {row.candidate:.3f} with {found.version}"]
        if row.baseline is not None:
            scores.insert(0, f"{metric} {row.baseline:.3f} with {found.baseline}")
        relevant = sorted(doc_id for doc_id, grade in row.judgements.items() if grade)
        named = ", ".join(relevant[: per_query.SHOWN]) + (" and more" if len(relevant) > per_query.SHOWN else "")
        parts = [tag("h3", words(row.query)), tag("p", f"{'; '.join(scores)}; relevant: ", words(named), class_="small")]
        shown.append(tag("section", *parts, _side_by_side(row, found)))
    return shown


def _side_by_side(row: QueryRow, found: GateResult) -> Html:
    lists: list[tuple[str, Hits]] = [(found.version, row.candidate_hits)]
    if row.baseline_hits is not None:
        lists.insert(0, (str(found.baseline), row.baseline_hits))
    head = tag("tr", tag("th", "rank", class_="number"), *(tag("th", name) for name, _ in lists))
    lines = []
    for rank in range(min(max(len(hits) for _, hits in lists), per_query.SHOWN)):
        cells = [_hit(row, hits[rank]) if rank < len(hits) else tag("td") for _, hits in lists]
        lines.append(tag("tr", tag("td", str(rank + 1), class_="number"), *cells))
    return tag("table", tag("thead", head), tag("tbody", *lines))


def _hit(row: QueryRow, hit: tuple[str, float]) -> Html:
    doc_id, score = hit
    if row.is_relevant(doc_id):
        return tag("td", words(doc_id), f" \u2605 ({score:.3f})", class_="relevant")
    return tag("td", words(doc_id), f" ({score:.3f})")


def _measures(measures: Mapping[str, Any]) -> list[Html]:
    """Every other number, as the evidence has it."""
    rows = [
        [name, f"{value:.4g}" if isinstance(value, float) else str(value)]
        for name, value in sorted(measures.items())
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    return section("All numbers", ["measure", "value"], rows, 1)


def _compared(row: Mapping[str, Any], compared: bool) -> list[str]:
    cells = [_number(row["candidate"])]
    return [_number(row["baseline"]), *cells, _signed(row["difference"])] if compared else cells


def _bounds(row: Mapping[str, Any]) -> str:
    if row["lower"] is None:
        return ""
    shown = _number if row["difference"] is None else _signed
    return f"{shown(row['lower'])} to {shown(row['upper'])}"


def _decides(row: Mapping[str, Any]) -> list[str]:
    at = confidences(row["confidence"], row["loss_confidence"])
    return [at, "" if row["margin"] is None else f"margin {row['margin']:g}: {row['outcome']}"]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+z.3f}"
