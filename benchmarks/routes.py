"""Refine while a version is being filled: recall of each route at each share, and what the second version costs a search.

    python -m benchmarks.routes [--orders random file reversed] [--queries 600] [--depth 200] [--partitions 100] [--full]

The demo's corpus and its two models (docs/routes.md has a run). Everything is the product's: partitions are backfilled one after another, and
at each share `gate --route refine` judges the route as it would be served. Beside it what the web advises: search both versions, as far as
they are filled, and merge by reciprocal rank. `random`: keys in no order, so that a partition is of all kinds of documents. `file`: one library
module after another. `reversed`: the better model serves, and the worse one refines it.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean, median
from time import monotonic
from typing import Any

import numpy as np
import psycopg

from benchmarks import stage, table
from benchmarks.stage import Stage
from embed_pipeline.configuration import load_indexes
from embed_pipeline.demo.corpus import DocstringDocument, read_docstrings
from embed_pipeline.errors import HoldoutError
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import backfill, cutover, gate
from embed_pipeline.migrate.opening import opened
from embed_pipeline.search import Searcher
from embed_pipeline.spec import IndexSpec

SHARES = (0, 1, 5, 10, 25, 50, 75, 100)
K, RANK_CONSTANT = 10, 60
TIMED = 150


def main() -> None:
    wanted = stage.options(
        __doc__,
        orders=(("random",), ("random", "file", "reversed")),
        queries=(600, 600),
        depth=(200, 200),
        partitions=(100, 100),
        margin=(0.02, 0.02),
    )
    documents = read_docstrings()
    with stage.running({"shared_buffers": "1GB"}) as running:
        for order in wanted.orders:
            _one(running, documents, order, wanted)


def _one(running: Stage, documents: Sequence[DocstringDocument], order: str, wanted: argparse.Namespace) -> None:
    ordered = list(documents) if order == "file" else random.Random(7).sample(documents, len(documents))
    url = _loaded(running, ordered, order)
    spec = _declared(running.folder, url, ordered, order, wanted)
    rows, seen = [], {}
    with opened(spec) as index:
        stage.fill(index, "v1")
        stage.serve(index, "v1")
        queries = _vectors(index)
        for share, row, measures in _shares(index, queries):
            rows.append(row)
            seen[share] = measures
        models = " refined by ".join(spec.versions[name].model_name.rpartition("/")[2] for name in ("v1", "v2"))
        table.heading(f"{models}: {len(documents):,} documents in {order} order, {wanted.queries} queries, depth {wanted.depth}")
        table.write(
            [
                "filled",
                "keep old",
                "refine",
                "difference",
                "one-sided 95 % bounds",
                "gate",
                "of 10 placed",
                "both, reciprocal rank",
            ],
            rows,
        )
        if order == "random":
            _accept(seen)
            _times(index, url)


def _loaded(running: Stage, ordered: Sequence[DocstringDocument], order: str) -> str:
    url = running.fresh(running.documents(0, 0))
    with psycopg.connect(url, autocommit=True) as conn, conn.cursor() as cursor:
        cursor.execute("CREATE TABLE docstrings (id integer PRIMARY KEY, text text NOT NULL)")
        cursor.executemany("INSERT INTO docstrings VALUES (%s, %s)", [(n, each.text) for n, each in enumerate(ordered)])
    return url


def _declared(folder: Path, url: str, ordered: Sequence[DocstringDocument], order: str, wanted: argparse.Namespace) -> IndexSpec:
    holdout = folder / f"holdout_{order}.jsonl"
    asked = random.Random(11).sample(range(len(ordered)), wanted.queries)
    rows = [{"query_id": str(n), "query": ordered[n].query, "doc_id": str(n), "grade": 1} for n in asked]
    holdout.write_text("\n".join(json.dumps(row) for row in rows))
    models = load_indexes(Path(__file__).parents[1] / "assets")["docs"].versions
    first, second = ("v2", "v1") if order == "reversed" else ("v1", "v2")
    return IndexSpec.model_validate(
        {
            "name": "bench",
            "database_url": url,
            "documents": {"table": "docstrings", "key": "id", "text": "text"},
            "partitions": wanted.partitions,
            "versions": {"v1": models[first], "v2": models[second]},
            "holdout": {"path": str(holdout)},
            "gate": {"metric": f"recall@{K}", "margin": wanted.margin, "min_queries": 30},
            "while_building": {"refine": True, "depth": wanted.depth},
            "throttle": {"max_queue_age_seconds": None},
        }
    )


def _shares(index: OpenIndex, queries: dict[str, Any]) -> Iterator[tuple[int, list[str], dict[str, Any]]]:
    keys = index.spec.partition_keys()
    for share in SHARES:
        for key in keys[: len(keys) * share // 100]:
            with index.connection() as conn:
                done = key not in backfill.unfilled(conn, index, "v2")
            if not done:
                backfill.fill_partition(index, "v2", key)
        result = gate.run(index, "v2", route="refine")
        found = result.measures
        merged = _merged(index, queries)
        yield (
            share,
            [
                f"{found['filled']:.0%}",
                f"{found['mean_baseline']:.3f}",
                f"{found['mean_candidate']:.3f}",
                f"{found['difference']:+.3f}",
                f"{found['lower']:+.3f} to {found['upper']:+.3f}",
                result.outcome,
                f"{found['placed']:.1f}",
                f"{merged:.3f}",
            ],
            found | {"merged": merged},
        )


def _vectors(index: OpenIndex) -> dict[str, Any]:
    """The held-out queries in both spaces, and the document that each is about."""
    if index.spec.holdout is None:
        raise HoldoutError("There are no queries.")
    rows = [json.loads(line) for line in index.spec.holdout.path.read_text().splitlines()]
    texts = [row["query"] for row in rows]
    with index.connection() as conn:
        spaces = [index.embedder_of(index.version(conn, name)).embed_queries(texts).vectors for name in ("v1", "v2")]
    return {"spaces": spaces, "wanted": [row["doc_id"] for row in rows]}


def _merged(index: OpenIndex, queries: dict[str, Any]) -> float:
    """Recall of both versions' lists, each of what that version has, merged by reciprocal rank."""
    with index.connection() as conn:
        lists = [
            index.store(index.version(conn, name)).search_exact(conn, vectors, index.spec.while_building.depth)
            for name, vectors in zip(("v1", "v2"), queries["spaces"], strict=True)
        ]
    found = []
    for hits, wanted in zip(zip(*lists, strict=True), queries["wanted"], strict=True):
        scores: dict[str, float] = {}
        for each in hits:
            for rank, hit in enumerate(each, start=1):
                scores[hit.doc_id] = scores.get(hit.doc_id, 0.0) + 1 / (RANK_CONSTANT + rank)
        found.append(wanted in sorted(scores, key=lambda doc_id: (-scores[doc_id], doc_id))[:K])
    return fmean(found)


def _accept(seen: dict[int, dict[str, Any]]) -> None:
    """What the project asks of this pair."""
    gains = {share: found["difference"] for share, found in seen.items()}
    asked = {
        "at 1 to 10 % not below keep-old by more than .01": min(gains[1], gains[5], gains[10]) >= -0.01,
        "at 50 % at least .02 above": gains[50] >= 0.02,
        "at 100 % at least .07 above": gains[100] >= 0.07,
        "reciprocal rank below .25 at 10 % (so this could have failed)": seen[10]["merged"] < 0.25,
    }
    for words, met in asked.items():
        print(f"- {'met' if met else 'NOT MET'}: {words}")


def _times(index: OpenIndex, url: str) -> None:
    """A whole search on each route, in turn, and what the second version's part in it takes."""
    cutover.cutover(index, "v2", route="refine")
    assert index.spec.holdout is not None
    texts = [json.loads(line)["query"] for line in index.spec.holdout.path.read_text().splitlines()][:TIMED]
    taken: dict[str, list[float]] = {"keep old": [], "refine": []}
    with Searcher("bench", url) as searcher:
        for text in texts:
            for name, version in (("keep old", "v1"), ("refine", None)):
                started = monotonic()
                searcher.search(text, K, version=version)
                taken[name].append(1000 * (monotonic() - started))
        embedding = {name: _ms(lambda text, name=name: searcher.embed(text, name), texts) for name in ("v1", "v2")}
    ratio = median(np.array(taken["refine"]) / np.array(taken["keep old"]))
    table.heading("A search by text, ms, everything filled")
    rows = [[name, f"{median(each):.1f}", f"{np.percentile(each, 95):.1f}"] for name, each in taken.items()]
    rows += [[f"of that embedding by {name}", f"{each:.1f}", ""] for name, each in embedding.items()]
    table.write(["", "p50", "p95"], rows)
    print(f"- refine takes {ratio:.2f} of keep old, query by query")


def _ms(work: Any, texts: Sequence[str]) -> float:
    taken = []
    for text in texts:
        started = monotonic()
        work(text)
        taken.append(1000 * (monotonic() - started))
    return median(taken)


if __name__ == "__main__":
    main()
