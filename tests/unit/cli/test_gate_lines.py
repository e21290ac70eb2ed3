"""A verdict in a terminal: columns and sentences that fit it; Markdown where it is asked for."""

from __future__ import annotations

import pytest

from embed_pipeline.cli import gate_lines, render
from embed_pipeline.cli.status_lines import fitted
from embed_pipeline.evaluate.report import MetricRow, markdown_table
from embed_pipeline.evaluate.slices import Slice
from embed_pipeline.evaluate.slices import markdown_table as slice_table
from embed_pipeline.migrate.examination import HELD_OUT_RECALL, Check
from embed_pipeline.migrate.verdicts import GateResult

SENTENCE = "undecided: recall@10 of v6 0.731 against v5 0.737 on 320 queries: " + "more queries are wanted to decide it. " * 4
SLICED = Slice("lang", "d|e", 120, 0.95, 0.95, 0.49, 0.5, -0.01, -0.03, 0.01, 0.05, "undecided", SENTENCE)
TABLES = [
    markdown_table([MetricRow("recall@10", 0.731, 0.737, -0.006, -0.016, 0.004)], candidate_name="v6", baseline_name="v5"),
    slice_table([SLICED], candidate_name="v6", baseline_name="v5"),
]
FOUND = GateResult("docs", "v6", "v5", "undecided", SENTENCE, 1, {"metric": "recall@10"}, "\n".join(TABLES), None)
CHECKS = (Check(HELD_OUT_RECALL, False, SENTENCE), Check("ann_recall", True, "The ANN index finds enough. " * 4))


@pytest.mark.parametrize("width", [80, 140])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    lines = [
        *fitted(gate_lines.lines(FOUND, (), markdown=False), 0, width),
        *fitted(render.check_lines(CHECKS, markdown=False), render.CHECK_HANG, width),
    ]
    assert [line for line in lines if len(line) > width] == []
    assert lines[0].startswith("undecided: recall@10 of v6 0.731 against v5")


def test_tables_are_columns_and_piped_where_markdown_is_asked_for() -> None:
    lines = list(gate_lines.lines(FOUND, (), markdown=False))
    assert "metric        v5     v6  difference  one-sided 95 % bounds" in lines
    assert "recall@10  0.737  0.731  -0.006      -0.016 to +0.004" in lines
    assert any(line.startswith("lang d|e ") for line in lines), "a pipe in a name is none of the table's"
    piped = list(gate_lines.lines(FOUND, (), markdown=True))
    assert FOUND.table.rstrip() in piped
