"""Refine at each share, in memory: what `routes` measures through the product, for any order of the documents and in a minute.

    python -m benchmarks.slots [--orders random file reversed] [--queries 600] [--depth 200] [--full]

The demo's corpus, both of its models by the product's embedders, `adapt/place.py`, the gate's rule; every search exact and no database. So nothing
is measured of stores and indexes. The merge by reciprocal rank is of lists as deep as the one that is refined. At the end: milliseconds to
embed one query by each model.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks import stage, table
from embed_pipeline.adapt.place import places
from embed_pipeline.configuration import load_indexes
from embed_pipeline.demo.corpus import read_docstrings
from embed_pipeline.embedders.checked import VersionEmbedder
from embed_pipeline.embedders.protocol import Vectors
from embed_pipeline.evaluate.verdict import GateRule, judge

SHARES = (0, 1, 5, 10, 25, 50, 75, 100)
K, RANK_CONSTANT, TIMED = 10, 60, 50


def main() -> None:
    every = ("random", "file", "reversed")
    wanted = stage.options(__doc__, orders=(every, every), queries=(600, 600), depth=(200, 200), margin=(0.02, 0.02))
    documents = read_docstrings()
    asked = random.Random(11).sample(range(len(documents)), wanted.queries)
    models = load_indexes(Path(__file__).parents[1] / "assets")["docs"].versions
    embedders = {name: VersionEmbedder.open(models[name], name=name, account=None, meter=None) for name in ("v1", "v2")}
    texts, queries = [each.text for each in documents], [documents[n].query for n in asked]
    near = {
        name: _unit(embedder.embed_queries(queries).vectors) @ _unit(embedder.embed_documents(texts).vectors).T
        for name, embedder in embedders.items()
    }
    shuffled = np.array(random.Random(7).sample(range(len(documents)), len(documents)))
    for order in wanted.orders:
        first, second = ("v2", "v1") if order == "reversed" else ("v1", "v2")
        filled_in = np.arange(len(documents)) if order == "file" else shuffled
        table.heading(
            f"{models[first].model_name.rpartition('/')[2]} refined by {models[second].model_name.rpartition('/')[2]}, "
            f"filled in {'file' if order == 'file' else 'random'} order, {wanted.queries} queries, depth {wanted.depth}"
        )
        rows = [_row(near[first], near[second], filled_in, share, asked, wanted) for share in SHARES]
        table.write(["filled", "keep old", "refine", "difference", "one-sided 95 % bounds", "gate", "reciprocal rank"], rows)
    for name, embedder in embedders.items():
        taken = []
        for text in queries[:TIMED]:
            started = time.monotonic()
            embedder.embed_query(text)
            taken.append(1000 * (time.monotonic() - started))
        print(f"- one query by {models[name].model_name.rpartition('/')[2]}: {median(taken):.1f} ms")


def _unit(vectors: Vectors) -> Vectors:
    rows: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return rows


def _row(
    first: Vectors, second: Vectors, filled_in: np.ndarray, share: int, asked: Sequence[int], wanted: argparse.Namespace
) -> list[str]:
    filled = np.zeros(first.shape[1], dtype=bool)
    filled[filled_in[: round(len(filled_in) * share / 100)]] = True
    before, after, merged = [], [], []
    for query, right in enumerate(asked):
        listed = np.argsort(-first[query], kind="stable")[: wanted.depth]
        distances = {str(n): float(-second[query, n]) for n in listed if filled[n]}
        order = places([str(n) for n in listed], distances)
        before.append(float(right in listed[:K]))
        after.append(float(right in listed[order[:K]]))
        merged.append(float(right in _merged(listed, second[query], filled, wanted.depth)))
    verdict = judge(before, after, GateRule(f"recall@{K}", wanted.margin, 0.95, 30))
    return [
        f"{filled.mean():.0%}",
        f"{np.mean(before):.3f}",
        f"{np.mean(after):.3f}",
        f"{verdict.difference:+.3f}",
        f"{verdict.lower:+.3f} to {verdict.upper:+.3f}",
        verdict.outcome,
        f"{np.mean(merged):.3f}",
    ]


def _merged(listed: np.ndarray, near: Vectors, filled: np.ndarray, depth: int) -> list[int]:
    """The first documents of both lists, merged by reciprocal rank."""
    scores: dict[int, float] = {}
    other = [n for n in np.argsort(-near, kind="stable") if filled[n]][:depth]
    for each in (listed, other):
        for rank, number in enumerate(each, start=1):
            scores[int(number)] = scores.get(int(number), 0.0) + 1 / (RANK_CONSTANT + rank)
    return sorted(scores, key=lambda number: (-scores[number], number))[:K]


if __name__ == "__main__":
    main()
