"""docs/reference/evidence.md says of each number what the code says."""

from __future__ import annotations

from pathlib import Path

from embed_pipeline.evaluate.words import MEASURES

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "evidence.md"


def test_the_page_has_each_number_as_it_is_shown() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert rows == [
        f"| `{measure}` | {words.name} | {words.meaning} | {'yes' if words.plotted else ''} |"
        for measure, words in MEASURES.items()
    ]


def test_no_two_numbers_are_shown_under_one_name() -> None:
    assert len({words.name for words in MEASURES.values()}) == len(MEASURES)
