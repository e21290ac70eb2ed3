"""What each held-out query found under both versions, side by side: where a difference comes from. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from embed_pipeline.catalog.judged_queries import Hits, QueryRow
from embed_pipeline.evaluate import metrics
from embed_pipeline.evaluate.examine import Examined
from embed_pipeline.evaluate.measured import Measured, Ranking

# Of an answer, so many hits are kept and shown at most.
KEPT, SHOWN = 100, 10
# A query that fills the screen hides what it found.
LONGEST = 200


def rows(examined: Examined, metric: str, candidate: Measured, baseline: Measured | None) -> list[QueryRow]:
    """Every query of the set, in its order. Of each answer what the metric looks at."""
    depth = min(metrics.parse_metric(metric).cutoff, KEPT)
    judgements = examined.holdout.judgements
    after = metrics.per_query(metric, judgements, candidate.ann)
    before = {} if baseline is None else metrics.per_query(metric, judgements, baseline.ann)
    return [
        QueryRow(
            query_id=query_id,
            query=query,
            cluster=examined.clusters[query_id],
            judgements=judgements[query_id],
            candidate=after[query_id],
            candidate_hits=_best(candidate.ann, query_id, depth),
            baseline=before.get(query_id),
            baseline_hits=None if baseline is None else _best(baseline.ann, query_id, depth),
            slices={column: values[query_id] for column, values in examined.holdout.columns.items() if query_id in values},
        )
        for query_id, query in examined.holdout.queries.items()
    ]


def worst(found: Sequence[QueryRow], count: int) -> list[QueryRow]:
    """The queries that lost most; of a version that was compared with nothing, those that found least. One of each cluster."""
    first: dict[str, QueryRow] = {}
    for row in sorted(found, key=_by_loss):
        first.setdefault(row.cluster, row)
    return list(first.values())[:count]


def as_text(row: QueryRow, metric: str, candidate: str, baseline: str | None) -> Iterator[str]:
    """Lines for a terminal: the query, and both answers side by side; a relevant document has a star."""
    yield f"{row.query_id}: {_shortened(row.query)}"
    yield f"  {_scores(row, metric, candidate, baseline)}; relevant: {_relevant(row)}"
    left = None if baseline is None or row.baseline_hits is None else [baseline, *_cells(row, row.baseline_hits)]
    right = [candidate, *_cells(row, row.candidate_hits)]
    height = max(len(right), len(left or []))
    width = max(map(len, left), default=0) if left else 0
    for rank in range(height):
        before = f"{(left[rank] if rank < len(left) else ''):<{width}}  " if left else ""
        yield f"  {rank or '':>4}  {before}{right[rank] if rank < len(right) else ''}".rstrip()


def as_markdown(row: QueryRow, metric: str, candidate: str, baseline: str | None) -> str:
    """The same as a heading and a table."""
    names = [candidate] if baseline is None or row.baseline_hits is None else [baseline, candidate]
    columns = (
        [_cells(row, row.candidate_hits)]
        if len(names) == 1
        else [_cells(row, row.baseline_hits or ()), _cells(row, row.candidate_hits)]
    )
    height = max(map(len, columns))
    lines = [f"**{escaped(row.query_id)}**: {escaped(_shortened(row.query))}", ""]
    lines += [f"{_scores(row, metric, candidate, baseline)}; relevant: {escaped(_relevant(row))}", ""]
    lines += [f"| rank | {' | '.join(names)} |", f"| ---: |{' --- |' * len(names)}"]
    for rank in range(height):
        cells = [escaped(column[rank]) if rank < len(column) else "" for column in columns]
        lines.append(f"| {rank + 1} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, in one line and within a cell."""
    flat = " ".join(text.split())
    return "".join(f"\\{each}" if each in "\\`*_{}[]<>#|~!" else each for each in flat)


def as_values(row: QueryRow) -> dict[str, Any]:
    """The row flat, for a data frame or JSON; a column of slices is `slice NAME`."""
    return {
        "query_id": row.query_id,
        "query": row.query,
        "cluster": row.cluster,
        "relevant": sorted(doc_id for doc_id, grade in row.judgements.items() if grade),
        **{f"slice {column}": value for column, value in row.slices.items()},
        "baseline": row.baseline,
        "candidate": row.candidate,
        "difference": row.difference,
        "baseline_hits": None if row.baseline_hits is None else [doc_id for doc_id, _ in row.baseline_hits],
        "baseline_scores": None if row.baseline_hits is None else [score for _, score in row.baseline_hits],
        "candidate_hits": [doc_id for doc_id, _ in row.candidate_hits],
        "candidate_scores": [score for _, score in row.candidate_hits],
    }


def as_cells(found: Sequence[QueryRow], most: int) -> list[dict[str, str | float]]:
    """At most `most` rows as words and numbers for a table, those that lost most first; every row has the same columns."""
    ordered = sorted(found, key=_by_loss)[:most]
    columns = list(dict.fromkeys(column for row in found for column in row.slices))
    return [
        {
            "query": _shortened(row.query),
            **{column: row.slices.get(column, "") for column in columns},
            **({} if row.baseline is None else {"baseline": row.baseline}),
            "candidate": row.candidate,
            **({} if row.difference is None else {"difference": row.difference}),
            "relevant": _relevant(row),
            **({} if row.baseline_hits is None else {"baseline hits": _ids(row.baseline_hits)}),
            "candidate hits": _ids(row.candidate_hits),
        }
        for row in ordered
    ]


def _by_loss(row: QueryRow) -> tuple[float, float, str]:
    return row.candidate if row.difference is None else row.difference, row.candidate, row.query_id


def _ids(hits: Hits) -> str:
    return ", ".join(doc_id for doc_id, _ in hits[:SHOWN])


def _best(found: Ranking, query_id: str, depth: int) -> Hits:
    scores = dict(found[query_id])
    return tuple((doc_id, scores[doc_id]) for doc_id in metrics.top(found[query_id], depth))


def _cells(row: QueryRow, hits: Hits) -> list[str]:
    return [f"{doc_id}{' *' if row.is_relevant(doc_id) else ''} ({score:.3f})" for doc_id, score in hits[:SHOWN]]


def _scores(row: QueryRow, metric: str, candidate: str, baseline: str | None) -> str:
    if row.baseline is None:
        return f"{metric} {row.candidate:.3f}"
    return f"{metric} {row.baseline:.3f} with {baseline}, {row.candidate:.3f} with {candidate}"


def _relevant(row: QueryRow) -> str:
    named = [doc_id for doc_id, grade in sorted(row.judgements.items(), key=lambda each: (-each[1], each[0])) if grade]
    return ", ".join(named[:5]) + (f" and {len(named) - 5} more" if len(named) > 5 else "")


def _shortened(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= LONGEST else f"{flat[: LONGEST - 3]}..."
