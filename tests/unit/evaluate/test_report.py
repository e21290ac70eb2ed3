"""The table and the sentence: numbers that the reader will act on."""

from __future__ import annotations

import base64
import re
import subprocess
import sys

from embed_pipeline.evaluate.report import MetricRow, beyond, inline_image, markdown_table, metric_row

ROWS = [
    MetricRow("recall@10", 0.734, 0.612, 0.122, 0.085, 0.159),
    MetricRow("nDCG@10", 0.5, 0.50004, -0.00004, -0.03, 0.03),
]


def test_table() -> None:
    assert markdown_table(ROWS, candidate_name="v2", baseline_name="v1") == (
        "| metric | v1 | v2 | difference | one-sided 95 % bounds |\n"
        "| --- | ---: | ---: | ---: | ---: |\n"
        "| recall@10 | 0.612 | 0.734 | +0.122 | +0.085 to +0.159 |\n"
        "| nDCG@10 | 0.500 | 0.500 | +0.000 | -0.030 to +0.030 |\n"
    )


def test_table_of_a_first_version() -> None:
    row = metric_row("recall@10", None, [1.0, 0.0, 1.0, 1.0], confidence=0.95)
    assert row == MetricRow("recall@10", 0.75)
    assert markdown_table([row], candidate_name="v1") == "| metric | v1 |\n| --- | ---: |\n| recall@10 | 0.750 |\n"


def test_row_from_scores() -> None:
    row = metric_row("RR@10", [0.0, 0.5] * 50, [0.5] * 100, confidence=0.9)
    assert (row.baseline, row.candidate, row.difference) == (0.25, 0.5, 0.25)
    assert row.lower is not None
    assert row.upper is not None
    assert 0.2 < row.lower < 0.25 < row.upper < 0.3


def test_a_pass_says_which_other_metrics_fall_beyond_its_margin() -> None:
    rows = [
        MetricRow("recall@10", 0.75, 0.75, 0.0, -0.01, 0.01),
        MetricRow("nDCG@10", 0.65, 0.7, -0.05, -0.06, -0.04),
        MetricRow("RR@10", 0.69, 0.7, -0.01, -0.03, 0.01),
    ]
    assert beyond(rows, "recall@10", 0.02) == (
        "But nDCG@10 falls by 0.050 (-0.060 to -0.040), beyond the margin 0.020: recall@10 alone decides (gate.metric)."
    )
    assert beyond(rows, "recall@10", 0.06) == ""
    assert beyond(rows[1:], "nDCG@10", 0.02) == "", "of the one that decides, the verdict speaks"
    assert beyond([MetricRow("recall@10", 0.75), MetricRow("RR@10", 0.1)], "recall@10", 0.02) == ""


def test_inline_image_holds_the_bytes() -> None:
    markdown = inline_image(b"\x89PNG bytes", "v2 [new]\nagainst v1")
    match = re.fullmatch(r"!\[(.*)\]\(data:image/png;base64,([A-Za-z0-9+/=]+)\)", markdown)
    assert match
    assert match[1] == "v2 (new) against v1"
    assert base64.b64decode(match[2]) == b"\x89PNG bytes"


def test_deciding_imports_no_plotting_and_no_pyarrow() -> None:
    """A gate that only decides, and every `import embed_pipeline.evaluate...`, stays free of the heavy libraries."""
    code = (
        "import sys; from embed_pipeline.evaluate import holdout, metrics, picture, report, verdict;"
        "sys.exit(','.join({'matplotlib', 'pyarrow', 'dagster', 'ir_measures'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
