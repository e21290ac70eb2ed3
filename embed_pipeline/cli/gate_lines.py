"""A verdict of the gate as lines for a terminal or a pull request, and the files that are written of it."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from embed_pipeline.cli import render
from embed_pipeline.cli.verb import Output, write

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from embed_pipeline.catalog.judged_queries import QueryRow
    from embed_pipeline.migrate.verdicts import GateResult

# So many queries are on a page of the gate, where nobody says how many.
ON_PAGE = 10


def lines(found: GateResult, worst: Sequence[QueryRow], *, markdown: bool) -> Iterator[str]:
    """The verdict with its tables, and the queries that are shown."""
    tables = _piped if markdown else _aligned
    from embed_pipeline.evaluate import per_query
    from embed_pipeline.evaluate.ef_curve import EfCurve

    if markdown:
        yield f"### Gate of {found.index} {found.version}: {found.outcome}"
        yield ""
    yield per_query.escaped(found.sentence) if markdown else found.sentence
    if found.route != "direct":
        yield render.beside_line(found.version, found.route, found.measures)
    yield from tables(found.table)
    if found.threshold:
        yield ""
        yield found.threshold
    curve = EfCurve.of(found.measures)
    if curve is not None:
        yield from tables(curve.markdown_table())
        yield ""
        yield curve.sentence
    metric = str(found.measures.get("metric"))
    for row in worst:
        yield ""
        if markdown:
            yield per_query.as_markdown(row, metric, found.version, found.baseline).rstrip()
        else:
            yield from per_query.as_text(row, metric, found.version, found.baseline)


def _piped(tables: str) -> Iterator[str]:
    if tables:
        yield ""
        yield tables.rstrip()


def _aligned(tables: str) -> Iterator[str]:
    """The same tables in columns, for a terminal: each has a header, a rule, its rows, and an empty line after it."""
    for each in tables.rstrip().split("\n\n") if tables else []:
        header, _, *rows = ([_unescaped(cell) for cell in line[2:-2].split(" | ")] for line in each.splitlines())
        yield ""
        yield from render.table(header, rows)


def _unescaped(cell: str) -> str:
    """What `per_query.escaped` was given."""
    return re.sub(r"\\(.)", r"\1", cell)


def write_page(output: Output, path: Path, found: GateResult, worst: int) -> None:
    """Write it as one page; `worst`: how many queries were asked for."""
    from embed_pipeline.evaluate import per_query
    from embed_pipeline.report import gate_page

    page = gate_page.page(found, per_query.worst(found.queries, worst or ON_PAGE), datetime.now(UTC))
    write(output, path, page.encode(), what="page", option="--html", kept="the evidence")
