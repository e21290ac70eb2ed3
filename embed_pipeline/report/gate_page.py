"""A verdict of the gate as one page that a person can send to others: HTML that loads nothing, runs nothing and can be printed."""

from __future__ import annotations

import base64
import html
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from embed_pipeline.evaluate import per_query

if TYPE_CHECKING:
    from embed_pipeline.catalog.judged_queries import Hits, QueryRow
    from embed_pipeline.evaluate.ef_curve import EfCurve
    from embed_pipeline.migrate.verdicts import GateResult


class Html(str):
    """Markup; any other text is escaped when it becomes part of it."""


# Nothing may be loaded or run, whatever an application's text may hold: the browser holds to that too.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.45 system-ui, sans-serif; color: #1b1b1b; background: #fff; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; border-bottom: 1px solid #ccc; } h3 { font-size: 1rem; margin-bottom: .2rem; }
.outcome { color: #fff; padding: .1rem .6rem; border-radius: .3rem; }
.pass { background: #00664f; } .fail { background: #a13a00; } .undecided { background: #555; }
table { border-collapse: collapse; margin: .6rem 0; } caption { text-align: left; color: #444; padding-bottom: .2rem; }
th, td { border: 1px solid #ccc; padding: .2rem .6rem; text-align: left; vertical-align: top; overflow-wrap: anywhere; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
td.relevant { background: #e2f2ea; font-weight: 600; }
img { max-width: 100%; } p.small { color: #444; font-size: .9rem; }
@media print { body { margin: 0; max-width: none; font-size: 10pt; } table, figure, section { break-inside: avoid; }
.outcome, td.relevant { print-color-adjust: exact; } }
"""


def page(found: GateResult, worst: Sequence[QueryRow], made_at: datetime, curve: EfCurve | None = None) -> str:
    """The whole page; `worst` are the queries that it shows, and `curve` what was measured besides."""
    title = f"Gate of {found.index} {found.version}: {found.outcome}"
    outcome = _tag("span", found.outcome, class_=f"outcome {found.outcome}")
    body = [
        _tag("h1", f"Gate of {found.index} {found.version} ", outcome),
        _tag("p", _words(found.sentence)),
        _tag("p", _facts(found, made_at), class_="small"),
        *_picture(found, title),
        *_tables(found),
        *([_tag("p", found.threshold)] if found.threshold else []),
        *([] if curve is None else _curve(curve)),
        *_queries(found, worst),
        *_measures(found.measures),
    ]
    head = [
        Html('<meta charset="utf-8">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        Html('<meta name="viewport" content="width=device-width">'),
        _tag("title", title),
        Html(f"<style>{_STYLE}</style>"),
    ]
    whole = _tag("html", _tag("head", *head), _tag("body", *body), lang="en")
    return f"<!DOCTYPE html>\n{whole}\n"


def _facts(found: GateResult, made_at: datetime) -> str:
    against = f"compared with {found.baseline}" if found.baseline else "compared with nothing"
    route = "" if found.route == "direct" else f"; route {found.route}"
    return f"{found.version} was {against}{route}; evidence {found.evidence_id}; page of {made_at:%Y-%m-%d %H:%M} UTC."


def _picture(found: GateResult, title: str) -> list[Html]:
    if found.draw is None:
        return []
    data = base64.b64encode(found.draw()).decode("ascii")
    return [_tag("figure", Html(f'<img alt="{html.escape(title)}" src="data:image/png;base64,{data}">'))]


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
        *_section("Metrics", ["metric", *names, *difference, *([confidence] if compared else [])], metric_rows, 1),
        *_section(
            "Slices", ["slice", "queries", *names, *difference, "one-sided bounds", "confidence", "decides"], slice_rows, 1
        ),
        *_section("Search, milliseconds", ["version", "p50", "p95", "p99"], time_rows, 1),
        *_section("Scores", ["of", "version", "queries", "5 %", "median", "95 %"], score_rows, 2),
    ]


def _curve(curve: EfCurve) -> list[Html]:
    rows = [
        [str(each.ef_search), f"{each.recall:.4f}", *(f"{at:.2f}" for at in (each.took.p50, each.took.p95, each.took.p99))]
        for each in curve.points
    ]
    header = ["ef_search", "ANN recall", "p50, ms", "p95, ms", "p99, ms"]
    return [*_section("What ef_search buys", header, rows, 0), _tag("p", curve.sentence)]


def _queries(found: GateResult, worst: Sequence[QueryRow]) -> list[Html]:
    if not worst:
        return []
    metric = str(found.measures.get("metric"))
    title = "Queries that lost most" if found.baseline else "Queries that found least"
    shown = [_tag("h2", title), _tag("p", "A relevant document is marked.", class_="small")]
    for row in worst:
        scores = [f"{metric} {row.candidate:.3f} with {found.version}"]
        if row.baseline is not None:
            scores.insert(0, f"{metric} {row.baseline:.3f} with {found.baseline}")
        relevant = sorted(doc_id for doc_id, grade in row.judgements.items() if grade)
        named = ", ".join(relevant[: per_query.SHOWN]) + (" and more" if len(relevant) > per_query.SHOWN else "")
        parts = [_tag("h3", _words(row.query)), _tag("p", f"{'; '.join(scores)}; relevant: ", _words(named), class_="small")]
        shown.append(_tag("section", *parts, _side_by_side(row, found)))
    return shown


def _side_by_side(row: QueryRow, found: GateResult) -> Html:
    lists: list[tuple[str, Hits]] = [(found.version, row.candidate_hits)]
    if row.baseline_hits is not None:
        lists.insert(0, (str(found.baseline), row.baseline_hits))
    head = _tag("tr", _tag("th", "rank", class_="number"), *(_tag("th", name) for name, _ in lists))
    lines = []
    for rank in range(min(max(len(hits) for _, hits in lists), per_query.SHOWN)):
        cells = [_hit(row, hits[rank]) if rank < len(hits) else _tag("td") for _, hits in lists]
        lines.append(_tag("tr", _tag("td", str(rank + 1), class_="number"), *cells))
    return _tag("table", _tag("thead", head), _tag("tbody", *lines))


def _hit(row: QueryRow, hit: tuple[str, float]) -> Html:
    doc_id, score = hit
    if row.is_relevant(doc_id):
        return _tag("td", _words(doc_id), f" \u2605 ({score:.3f})", class_="relevant")
    return _tag("td", _words(doc_id), f" ({score:.3f})")


def _measures(measures: Mapping[str, Any]) -> list[Html]:
    """Every other number, as the evidence has it."""
    rows = [
        [name, f"{value:.4g}" if isinstance(value, float) else str(value)]
        for name, value in sorted(measures.items())
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    return _section("All numbers", ["measure", "value"], rows, 1)


def _section(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], texts: int) -> list[Html]:
    """A heading and a table whose first `texts` columns are words; nothing without rows."""
    if not rows:
        return []

    def line(tag: str, cells: Sequence[str]) -> Html:
        return _tag("tr", *(_tag(tag, _words(each), class_="" if at < texts else "number") for at, each in enumerate(cells)))

    body = _tag("tbody", *(line("td", row) for row in rows))
    return [_tag("section", _tag("h2", title), _tag("table", _tag("thead", line("th", header)), body))]


def _compared(row: Mapping[str, Any], compared: bool) -> list[str]:
    cells = [_number(row["candidate"])]
    return [_number(row["baseline"]), *cells, _signed(row["difference"])] if compared else cells


def _bounds(row: Mapping[str, Any]) -> str:
    if row["lower"] is None:
        return ""
    shown = _number if row["difference"] is None else _signed
    return f"{shown(row['lower'])} to {shown(row['upper'])}"


def _decides(row: Mapping[str, Any]) -> list[str]:
    return [f"{100 * row['confidence']:.4g} %", "" if row["margin"] is None else f"margin {row['margin']:g}: {row['outcome']}"]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+z.3f}"


def _words(text: str) -> Html:
    """A text from the application, which may run from right to left and change nothing around it by that."""
    plain = "".join("\ufffd" if unicodedata.category(each) in ("Cc", "Cs") and each not in "\n\t" else each for each in text)
    return Html(f"<bdi>{html.escape(plain)}</bdi>")


def _tag(name: str, *children: str, class_: str = "", lang: str = "") -> Html:
    attributes = "".join(f' {key}="{html.escape(value)}"' for key, value in (("class", class_), ("lang", lang)) if value)
    content = "".join(each if isinstance(each, Html) else html.escape(each) for each in children)
    return Html(f"<{name}{attributes}>{content}</{name}>")
