"""How often doctor finds a mixture of two spaces without any model, and how often it finds one where there is none; the demo's corpus and models.

    python -m benchmarks.mixtures [--seeds 20] [--rows 1000] [--corpus FILE] [--keep FOLDER]

Each cell: so many seeds for each of the two models as the larger part; each seed draws other documents, and other ones among them for the other
model. `found`: of how many runs a mixture was said. `share said`: the median with the lowest and highest. `labelled`: rows that it put on the right
side, of all, in the runs that found one. `--corpus`: other documents, JSON lines with a field `text`. `--keep`: where the vectors of both models
are kept between runs.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import table
from embed_pipeline.demo import corpus
from embed_pipeline.doctor import mixture
from embed_pipeline.doctor.sample import Matrix
from embed_pipeline.embedders.checked import VersionEmbedder
from embed_pipeline.spec import VersionSpec
from tests.harness.real_models import Models

SHARES = (0.0, 0.05, 0.25, 0.5)
AT_ONCE = 64


@dataclass(frozen=True)
class Run:
    """One seed: what was said, and how much of it was right."""

    share: float | None
    labelled: float | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--rows", type=int, default=1_000)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--keep", type=Path)
    wanted = parser.parse_args()
    if wanted.corpus is None:
        texts = [each.text for each in corpus.read_docstrings()]
    else:
        texts = [json.loads(line)["text"] for line in wanted.corpus.read_text(encoding="utf-8").splitlines()]
    models = {"small": Models().small(), "large": Models().large()}
    vectors = {name: _embedded(name, spec, texts, wanted.keep) for name, spec in models.items()}
    # A text that is too long for a model has no vector of it.
    both = np.all([each.any(axis=1) for each in vectors.values()], axis=0)
    texts = [text for text, is_there in zip(texts, both, strict=True) if is_there]
    table.heading(f"Mixtures of {wanted.rows} of {len(texts)} documents, {wanted.seeds} seeds for each model as the larger part")
    rows = []
    for share in SHARES:
        for name, other in (("small", "large"), ("large", "small")):
            runs = [
                _run(vectors[name][both], vectors[other][both], texts, share, min(wanted.rows, len(texts)), seed)
                for seed in range(wanted.seeds)
            ]
            rows.append([f"{100 * share:g} %", models[name].model_name, *_told(runs)])
    table.write(["other model", "larger part", "found", "share said, %", "labelled, %"], rows)


def _run(base: Matrix, other: Matrix, texts: list[str], share: float, rows: int, seed: int) -> Run:
    random = np.random.default_rng(seed)
    drawn = random.choice(len(base), rows, replace=False)
    is_other = np.zeros(rows, dtype=np.bool_)
    is_other[random.choice(rows, round(share * rows), replace=False)] = True
    vectors = np.where(is_other[:, None], other[drawn], base[drawn])
    found = mixture.find(vectors, mixture.alike([texts[n] for n in drawn]), seed)
    if found is None:
        return Run(None, None)
    right = float((found.other == is_other).mean())
    return Run(found.share, max(right, 1 - right))


def _told(runs: list[Run]) -> list[str]:
    shares = [100 * each.share for each in runs if each.share is not None]
    labelled = [100 * each.labelled for each in runs if each.labelled is not None]
    spreads = [table.spread(each) if each else "-" for each in (shares, labelled)]
    return [f"{len(shares)} of {len(runs)}", *spreads]


def _embedded(name: str, spec: VersionSpec, texts: list[str], keep: Path | None) -> Matrix:
    kept = None if keep is None else keep / f"{name}.npy"
    if kept is not None and kept.exists():
        found: Matrix = np.load(kept)
        return found
    embedder = VersionEmbedder.open(spec, name=name)
    parts = [embedder.embed_documents(texts[start : start + AT_ONCE]).vectors for start in range(0, len(texts), AT_ONCE)]
    vectors: Matrix = np.vstack(parts)
    embedder.close()
    if kept is not None:
        np.save(kept, vectors)
    return vectors


if __name__ == "__main__":
    main()
