"""What can be seen in the vectors themselves: none, zero, not a number, other dimensions, other lengths, the same one many times. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from embed_pipeline.doctor.findings import Finding, Severity
from embed_pipeline.doctor.sample import Row, Sample

# Half precision keeps three digits: a vector that was normalised before it was stored is at most so far from length 1.
UNIT = 0.01
# Two spellings of a text, or a text in two places, are no fault; the same vector for many texts is.
DUPLICATES = 0.01
NAMED = 3


def judge(sample: Sample, again: str) -> Iterator[Finding]:
    """What is wrong with the vectors of a sample. `again`: the command that embeds a row anew, or what else mends it."""
    count = len(sample.rows)
    if not count:
        yield Finding("note", "empty", "There are no rows to look at.", "Nothing to do until there are some.")
        return
    without = [each for each in sample.rows if each.vector is None and (each.text or not sample.has_texts)]
    if without:
        yield Finding(
            "warning", "no_vector", f"{_share(without, count)} have no vector and are never found: {_named(without)}.", again
        )
    yield from _not_directions(sample, again)
    yield from _without_text(sample, again)
    yield from _lengths(sample, again)
    yield from _duplicates(sample, again)


def _not_directions(sample: Sample, again: str) -> Iterator[Finding]:
    count, usual = len(sample.rows), sample.usual_dimensions
    stored = [(each, each.vector) for each in sample.rows if each.vector is not None]
    others = [row for row, vector in stored if len(vector) != usual]
    if others:
        lengths = Counter(len(row.vector) for row in others if row.vector is not None)
        found = ", ".join(map(str, sorted(lengths)))
        sentence = f"{_share(others, count)} have {found} dimensions, and most have {usual}: {_named(others)}."
        yield Finding("error", "dimensions", sentence, again)
    wild = [row for row, vector in stored if not np.isfinite(vector).all()]
    if wild:
        yield Finding("error", "not_finite", f"{_share(wild, count)} hold NaN or infinity: {_named(wild)}.", again)
    zero = [row for row, vector in stored if not vector.any()]
    if zero:
        sentence = f"{_share(zero, count)} are zero vectors, which no index holds and no cosine finds: {_named(zero)}."
        yield Finding("error", "zero", sentence, again)


def _without_text(sample: Sample, again: str) -> Iterator[Finding]:
    if not sample.has_texts:
        return
    blank = [each for each in sample.rows if each.vector is not None and not (each.text or "").strip()]
    if blank:
        sentence = f"{_share(blank, len(sample.rows))} have a vector and no text that it could be of: {_named(blank)}."
        yield Finding("warning", "no_text", sentence, "Delete these vectors, or look where their texts went.")


def _lengths(sample: Sample, again: str) -> Iterator[Finding]:
    rows, vectors = sample.of_one_length()
    if not rows:
        return
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    off = np.abs(norms - 1) > UNIT
    if off.all():
        spread = f"{norms.min():.3g} to {norms.max():.3g}"
        if norms.max() / norms.min() > 1 + 2 * UNIT:
            sentence = f"No vector has length 1; their lengths are {spread}. The cosine does not see it; inner product and L2 do."
            yield Finding("note", "not_normalised", sentence, "Search by cosine, unless the model's lengths mean something.")
    elif off.any():
        wrong = [row for row, is_off in zip(rows, off, strict=True) if is_off]
        sentence = f"{_share(wrong, len(sample.rows))} do not have length 1, and the others do: another program wrote them: {_named(wrong)}."
        yield Finding("warning", "norms", sentence, again)


def _duplicates(sample: Sample, again: str) -> Iterator[Finding]:
    """Rows with one vector and different texts: a default, a cached answer, a batch that was assigned to the wrong rows."""
    groups: dict[bytes, list[Row]] = {}
    rows, vectors = sample.of_one_length()
    for row, vector in zip(rows, vectors, strict=True):
        groups.setdefault(vector.tobytes(), []).append(row)
    twice = [each for group in groups.values() if _differ(group, sample.has_texts) for each in group]
    if not twice:
        return
    severity: Severity = "warning" if len(twice) > DUPLICATES * len(sample.rows) else "note"
    differing = "different texts" if sample.has_texts else "different keys"
    sentence = f"{_share(twice, len(sample.rows))} share a vector with rows of {differing}: {_named(twice)}."
    yield Finding(severity, "duplicates", sentence, "Compare their texts; where these differ: " + again)


def _differ(group: Sequence[Row], has_texts: bool) -> bool:
    return len(group) > 1 and (not has_texts or len({" ".join((each.text or "").split()) for each in group}) > 1)


def _share(rows: Sequence[Row], count: int) -> str:
    return f"{len(rows):,} of {count:,} rows ({100 * len(rows) / count:.3g} %)"


def _named(rows: Sequence[Row]) -> str:
    shown = ", ".join(each.key for each in rows[:NAMED])
    return shown if len(rows) <= NAMED else f"{shown} and others"
