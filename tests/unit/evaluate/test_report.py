"""The table and the picture: numbers that the reader will act on, in a file small enough to stand inline."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

from embed_pipeline.evaluate.report import MetricRow, inline_image, markdown_table, metric_row, plot_png

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


DIFFERENCES: list[float] = np.clip(np.random.default_rng(0).normal(0.05, 0.3, 400), -1, 1).round(1).tolist()


@pytest.mark.parametrize("differences", [None, DIFFERENCES, [0.0] * 100])
def test_picture_is_a_small_png_with_something_on_it(differences: list[float] | None) -> None:
    png = plot_png(ROWS, differences, candidate_name="v2", baseline_name="v1", margin=0.02)
    assert len(png) < 30_000
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    colours: Any = image.convert("RGB").getcolors(maxcolors=100_000) or []
    shown = {f"#{r:02X}{g:02X}{b:02X}" for _, (r, g, b) in colours}
    assert {"#777777", "#0072B2"} <= shown, "both versions have their bars"
    assert ("#D55E00" in shown) == (differences is DIFFERENCES), "losses are drawn only where there are some"


def test_picture_of_a_first_version() -> None:
    png = plot_png([MetricRow("recall@10", 0.75)], candidate_name="v1")
    assert png.startswith(b"\x89PNG")


def test_the_same_numbers_give_the_same_bytes() -> None:
    first, second = (plot_png(ROWS, DIFFERENCES, candidate_name="v2", baseline_name="v1") for _ in range(2))
    assert first == second


def test_inline_image_holds_the_bytes() -> None:
    markdown = inline_image(b"\x89PNG bytes", "v2 [new]\nagainst v1")
    match = re.fullmatch(r"!\[(.*)\]\(data:image/png;base64,([A-Za-z0-9+/=]+)\)", markdown)
    assert match
    assert match[1] == "v2 (new) against v1"
    assert base64.b64decode(match[2]) == b"\x89PNG bytes"


def test_deciding_imports_no_plotting_and_no_pyarrow() -> None:
    """A gate that only decides, and every `import embed_pipeline.evaluate...`, stays free of the heavy libraries."""
    code = (
        "import sys; from embed_pipeline.evaluate import holdout, metrics, report, verdict;"
        "sys.exit(','.join({'matplotlib', 'pyarrow', 'dagster', 'ir_measures'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
