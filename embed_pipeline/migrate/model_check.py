"""Whether a version's model is still the one that its vectors were made with. What follows from it: docs/decisions/0019.

A provider keeps a model's name and may change what is behind it: a new space under an old name. No label tells, so the model itself is
asked: for a few fixed texts (model_sample.py) before it embeds any document, and for the same texts again on a schedule.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np
import psycopg
from numpy.typing import NDArray

from embed_pipeline.catalog import model_samples, versions
from embed_pipeline.catalog.model_samples import Sample
from embed_pipeline.catalog.versions import Version
from embed_pipeline.embedders.protocol import Urgency, Vectors
from embed_pipeline.errors import CatalogError, EmbedderError, EmbedPipelineError, IllegalTransition, ModelChanged
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate.model_sample import TEXTS
from embed_pipeline.signals import signal

Outcome = Literal["taken", "same", "changed", "unknown"]


@dataclass(frozen=True)
class ModelCheck:
    """What one look at a version's model found. `lowest` and `median`: cosines between kept vectors and those of today."""

    version: str
    outcome: Outcome
    sentence: str
    texts: int = 0
    lowest: float | None = None
    median: float | None = None
    late: bool = False
    taken_at: datetime | None = None


def require_same_model(conn: psycopg.Connection, index: OpenIndex, version: Version) -> bool:
    """Raise ModelChanged when the version's model is known to be another one. Before every batch: one look-up by primary key.

    False: a sample has to be taken first (`take_first_sample`), before any document is embedded.
    """
    changed = model_samples.is_changed(conn, index.name, version.name)
    if changed:
        raise _changed(index, version, model_samples.read(conn, index.name, version.name))
    return changed is not None or not _asks_provider(version)


def take_first_sample(index: OpenIndex, version: Version) -> None:
    """Keep what the model answers now, unless another process was sooner. Raises as the embedder does."""
    with index.connection() as conn:
        if model_samples.is_changed(conn, index.name, version.name) is None:
            _take(conn, index, version)


def prepare(conn: psycopg.Connection, index: OpenIndex, version: Version) -> None:
    """Both of these: what stands before the first document of a run."""
    if not require_same_model(conn, index, version):
        take_first_sample(index, version)


def check(index: OpenIndex, name: str | None = None) -> list[ModelCheck]:
    """Ask the model of one live version, or of all that ask a provider or have a sample, and keep what was found.

    A version whose provider fails is `unknown` and leaves the others alone.
    """
    with index.connection() as conn:
        return [_check_isolated(conn, index, version) for version in _chosen(conn, index, name)]


def accept(index: OpenIndex, name: str, reason: str) -> ModelCheck:
    """Take what the model answers now for what it should answer: a person says that its vectors are those of before. Audited."""
    with index.connection() as conn:
        (version,) = _chosen(conn, index, name)
        sample = model_samples.read(conn, index.name, name)
        if sample is None:
            return _take(conn, index, version)
        texts, vectors = _embed(index, version, TEXTS)
        with conn.transaction():
            model_samples.replace(conn, index.name, name, texts, vectors)
            detail = {"lowest_cosine": sample.lowest_cosine}
            versions.record_event(conn, index.name, "model_accepted", version=name, reason=reason, detail=detail)
        sentence = f"What {version.model_name} answers now is what {index.name}.{name} is compared with from now on."
        return ModelCheck(name, "taken", sentence, len(texts), late=True)


def _chosen(conn: psycopg.Connection, index: OpenIndex, name: str | None) -> list[Version]:
    if name is None:
        live = versions.live_versions(conn, index.name)
        if not live:
            raise CatalogError(f"Index {index.name!r} has no live version.", next_step=f"Run: embed-pipeline status {index.name}")
        return [
            version
            for version in live
            if _asks_provider(version) or model_samples.is_changed(conn, index.name, version.name) is not None
        ]
    version = index.version(conn, name)
    if not version.is_live:
        raise IllegalTransition(
            f"Version {name!r} of index {index.name!r} is retired: nothing is embedded for it.",
            next_step=f"Run: embed-pipeline status {index.name}",
        )
    return [version]


def _asks_provider(version: Version) -> bool:
    return version.declared.is_remote


def _check_isolated(conn: psycopg.Connection, index: OpenIndex, version: Version) -> ModelCheck:
    try:
        sample = model_samples.read(conn, index.name, version.name)
        return _take(conn, index, version) if sample is None else _compare(conn, index, version, sample)
    except EmbedderError as problem:
        return ModelCheck(version.name, "unknown", str(problem))


def _take(conn: psycopg.Connection, index: OpenIndex, version: Version) -> ModelCheck:
    late = index.store(version).count(conn) > 0
    texts, vectors = _embed(index, version, TEXTS)
    signal("model_check.embedded")
    with conn.transaction():
        if model_samples.keep(conn, index.name, version.name, texts, vectors, late=late):
            versions.record_event(
                conn, index.name, "model_sample", version=version.name, detail={"late": late, "texts": len(texts)}
            )
    sentence = f"{len(texts)} texts kept of {version.model_name}, to know it again."
    if late:
        sentence += " Documents had vectors before: of those it proves nothing."
    return ModelCheck(version.name, "taken", sentence, len(texts), late=late)


def _embed(index: OpenIndex, version: Version, texts: tuple[str, ...]) -> tuple[list[str], Vectors]:
    """The texts that the model takes, with their vectors."""
    answer = index.embedder_of(version).embed_documents(texts, Urgency.CHECK)
    kept = [n for n in range(len(texts)) if n not in answer.rejected]
    if not kept:
        raise EmbedderError(
            f"The model {version.model_name} of {index.name}.{version.name} rejects every text of the sample "
            f"(first: {answer.rejected[0]}).",
            next_step="Correct the version's declaration: no document would get a vector either.",
        )
    return [texts[n] for n in kept], answer.vectors[kept]


def _compare(conn: psycopg.Connection, index: OpenIndex, version: Version, sample: Sample) -> ModelCheck:
    answer = index.embedder_of(version).embed_documents(sample.texts, Urgency.CHECK)
    signal("model_check.embedded")
    cosines = _cosines(sample.vectors, answer.vectors)
    lowest, median = float(cosines.min()), float(np.median(cosines))
    same = lowest >= index.spec.model_check.min_cosine
    with conn.transaction():
        before = model_samples.note_check(conn, index.name, version.name, sample, lowest, same=same)
        if before is not None and before == same:
            versions.record_event(
                conn,
                index.name,
                "model_check",
                version=version.name,
                from_state="changed" if before else "same",
                to_state="same" if same else "changed",
                detail={"lowest_cosine": lowest, "median_cosine": median, "min_cosine": index.spec.model_check.min_cosine},
            )
    if same:
        sentence = f"{version.model_name} is the model that it was: the lowest cosine of {len(cosines)} texts is {lowest:.4f}."
    else:
        sentence = str(_changed(index, version, model_samples.read(conn, index.name, version.name)))
    outcome: Outcome = "same" if same else "changed"
    return ModelCheck(version.name, outcome, sentence, len(cosines), lowest, median, sample.late, sample.taken_at)


def _cosines(kept: Vectors, now: Vectors) -> NDArray[np.float64]:
    """Row by row. A text that is rejected now has zeros, and counts as wholly changed."""
    left, right = kept.astype(np.float64), now.astype(np.float64)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    products: NDArray[np.float64] = np.einsum("ij,ij->i", left, right)
    return products / np.where(norms > 0, norms, 1.0)


def _changed(index: OpenIndex, version: Version, sample: Sample | None) -> EmbedPipelineError:
    least = "" if sample is None or sample.lowest_cosine is None else f" (cosine {sample.lowest_cosine:.4f})"
    agreed = "" if sample is None else f"; it last agreed at {sample.agreed_at:%Y-%m-%d %H:%M} UTC"
    return ModelChanged(
        f"The provider has changed {version.model_name}: it no longer gives the vectors that {index.name}.{version.name} was made "
        f"with{least}{agreed}. Nothing more is embedded for {version.name}, since that would mix two spaces.",
        next_step="Declare the model of today as a new version and migrate to it; if its vectors are as good as those of before, run: "
        f"embed-pipeline check-model {index.name} {version.name} --accept",
    )
