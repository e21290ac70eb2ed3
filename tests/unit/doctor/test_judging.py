"""What doctor says of vectors, without a database: each fault alone, mixtures of two spaces, and the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import numpy as np
import pytest

from embed_pipeline.doctor import mixture, page, vectors
from embed_pipeline.doctor.ann_index import AnnIndex, judge_indexes
from embed_pipeline.doctor.findings import Diagnosis, Finding
from embed_pipeline.doctor.sample import Matrix, Row, Sample
from tests.harness.fakes import WordsEmbedder
from tests.harness.html import Seen

AT = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
DIMENSIONS = 64
SUBJECTS, WORDS_OF_ONE, ROWS = 24, 12, 600
HOSTILE = """</p><script src="https://evil.example/x.js">alert('1')</script> & \x07\u202e"""


def units(count: int, seed: int = 0) -> Matrix:
    drawn = np.random.default_rng(seed).standard_normal((count, DIMENSIONS)).astype(np.float32)
    unit: Matrix = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return unit


def sample(spoil: Callable[[list[Row]], object] = lambda rows: None) -> Sample:
    rows = [Row(str(n), vector, f"text {n}") for n, vector in enumerate(units(100))]
    spoil(rows)
    return Sample(rows, len(rows))


def put(at: int, vector: Matrix | None, text: str | None = "another") -> Callable[[list[Row]], None]:
    def spoil(rows: list[Row]) -> None:
        rows[at] = Row(rows[at].key, vector, text)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda rows: None, set()),
        (put(3, None), {("warning", "no_vector")}),
        (put(3, None, ""), set()),
        (put(3, np.zeros(DIMENSIONS, np.float32)), {("error", "zero")}),
        (put(3, np.full(DIMENSIONS, np.nan, np.float32)), {("error", "not_finite")}),
        (put(3, units(1)[0][:32]), {("error", "dimensions")}),
        (put(3, 2 * units(1, 7)[0]), {("warning", "norms")}),
        (put(3, units(1, 7)[0], " "), {("warning", "no_text")}),
        (lambda rows: [put(n, units(1, 7)[0], f"text {n}")(rows) for n in range(9)], {("warning", "duplicates")}),
        # One text in two rows has one vector, rightly.
        (lambda rows: [put(n, units(1, 7)[0], "the same")(rows) for n in range(9)], set()),
        (lambda rows: [put(n, (n + 2) * units(1, n)[0], f"text {n}")(rows) for n in range(100)], {("note", "not_normalised")}),
    ],
)
def test_each_fault_of_vectors_is_said_and_nothing_else(
    spoil: Callable[[list[Row]], object], expected: set[tuple[str, str]]
) -> None:
    found = list(vectors.judge(sample(spoil), "mend it"))
    assert {(each.severity, each.code) for each in found} == expected
    assert all(each.next for each in found)


def test_the_indexes_of_a_column() -> None:
    small = sample(lambda rows: [put(n, (n + 1) * units(1, n)[0])(rows) for n in range(100)])
    broken = AnnIndex("by_ip", "hnsw", False, "vector_ip_ops", 1, False)
    assert [each.code for each in judge_indexes([broken], small, "public.items.embedding")] == ["index_invalid"]
    used = AnnIndex("by_ip", "hnsw", True, "halfvec_ip_ops", 1, False)
    (wrong,) = judge_indexes([used], small, "public.items.embedding")
    assert (wrong.code, "halfvec_cosine_ops" in wrong.next) == ("operator_class", True)
    assert (
        list(judge_indexes([AnnIndex("good", "hnsw", True, "vector_cosine_ops", 1, False)], small, "public.items.embedding"))
        == []
    )
    large = Sample(small.rows, 50_000)
    assert [each.code for each in judge_indexes([], large, "public.items.embedding")] == ["no_index"]


def texts() -> list[str]:
    """Each of a subject's own words and some of everybody's, so that texts of one subject are alike and no two are the same.

    Some words are in all: vectors of real models have a common direction as well.
    """
    random = np.random.default_rng(3)
    found = []
    for row in range(ROWS):
        subject = row % SUBJECTS
        own = [f"s{subject}w{n}" for n in random.choice(WORDS_OF_ONE, 5, replace=False)]
        found.append(" ".join(["the", "of", "and", *own, *(f"common{n}" for n in random.choice(200, 5, replace=False))]))
    return found


def embedded(of: Sequence[str], salt: str) -> Matrix:
    model = WordsEmbedder(dimensions=DIMENSIONS, model_name=salt, salt=salt)
    return np.array([vector / np.linalg.norm(vector) for vector in map(model.vector, of)], dtype=np.float32)


@pytest.mark.parametrize("share", [0.05, 0.25, 0.5])
def test_a_mixture_of_two_spaces_is_found_with_its_share_and_its_rows(share: float) -> None:
    written, is_other = texts(), np.zeros(ROWS, dtype=np.bool_)
    is_other[np.random.default_rng(1).choice(ROWS, round(share * ROWS), replace=False)] = True
    stored = np.where(is_other[:, None], embedded(written, "two"), embedded(written, "one"))
    found = mixture.find(stored, mixture.alike(written))
    assert found is not None
    assert found.low <= share <= found.high
    assert max((found.other == is_other).mean(), (found.other != is_other).mean()) > 0.98
    rows = [Row(str(n), vector, text) for n, (vector, text) in enumerate(zip(stored, written, strict=True))]
    (said,) = mixture.judge(Sample(rows, ROWS), "mend it")
    assert (said.severity, said.code) == ("error", "mixture")
    assert f"{100 * found.share:.1f} %" in said.sentence


def test_one_space_is_no_mixture_however_its_subjects_part() -> None:
    written = texts()
    assert mixture.find(embedded(written, "one"), mixture.alike(written)) is None


def test_it_says_where_it_could_not_look_for_a_mixture() -> None:
    assert [each.code for each in mixture.judge(sample(), "")] == ["mixture_not_looked_for"]
    assert [each.code for each in mixture.judge(Sample(sample().rows, 100, has_texts=False), "")] == ["mixture_not_looked_for"]


def test_the_page_holds_together_and_takes_no_text_for_markup() -> None:
    note, error = Finding("note", "any", "A note.", "nothing"), Finding("error", "zero", HOSTILE, HOSTILE)
    found = Diagnosis.of(HOSTILE, "all 3 rows", [note, error])
    seen = Seen(page.page(found, AT))
    assert seen.named("script") == []
    assert [each["class"] for each in seen.named("span")] == ["outcome error", "outcome note"]
    assert "1 error, 1 note." in seen.text
    assert "page of 2026-03-01 09:30 UTC" in seen.text
    assert found.needs_a_person
    assert not Diagnosis.of("x", "", [note]).needs_a_person
    assert page.lines(Diagnosis.of("x", "all", [])) == ["x: all", "Nothing was found."]
