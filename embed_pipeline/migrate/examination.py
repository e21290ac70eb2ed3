"""May a version serve? The four checks, as the command line and Dagster show them: coverage, provenance, ann_recall, held_out_recall."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from embed_pipeline.catalog import dead_letters
from embed_pipeline.catalog.dead_letters import DeadLetter
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import gate, verify
from embed_pipeline.migrate.verdicts import GateResult
from embed_pipeline.stores.protocol import AnnIndex, Coverage, Labels

COVERAGE, PROVENANCE, ANN_RECALL, HELD_OUT_RECALL = NAMES = ("coverage", "provenance", "ann_recall", "held_out_recall")


@dataclass(frozen=True)
class Check:
    """One of the four, with what it found in a sentence."""

    name: str
    passed: bool
    sentence: str


@dataclass(frozen=True)
class Examination:
    """The gate's verdict, what else was looked at, and the four checks of all that."""

    result: GateResult
    coverage: Coverage
    labels: Labels
    ann_index: AnnIndex | None
    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)


def examine(
    index: OpenIndex, name: str, progress: Callable[[int, int], None] | None = None, *, ef_curve: bool = False
) -> Examination:
    """Compare every document with the version, judge it, and store the evidence; raises what `gate.run` raises."""
    covered = verify.verify(index, name)[name]
    result = gate.run(index, name, progress, ef_curve=ef_curve)
    with index.connection() as conn:
        store = index.store(index.version(conn, name))
        labels, built = store.labels(conn), store.ann_index(conn)
        letters = dead_letters.first(conn, index.name, name)
    checks = (
        _coverage(index, name, covered, letters),
        _provenance(name, labels),
        _ann_recall(index.spec.gate.min_ann_recall, result),
        Check(HELD_OUT_RECALL, result.outcome == "pass", result.sentence),
    )
    return Examination(result, covered, labels, built, checks)


def _coverage(index: OpenIndex, name: str, found: Coverage, letters: list[DeadLetter]) -> Check:
    """Nothing differs that no queued change explains, and no more dead letters than the declaration allows."""
    allowed = index.spec.gate.max_dead_letters
    said = [f"{found.documents:,} documents, {found.differences:,} differ"]
    if found.differences:
        said.append(f"{'; '.join(found.samples)}; run: embed-pipeline sync {index.name} --full")
    if found.dead_letters:
        named = "; ".join(f"{each.shown_id}: {each.reason}" for each in letters)
        said.append(f"{found.dead_letters:,} without a vector, where max_dead_letters is {allowed} ({named})")
    if found.dead_letters > allowed:
        said.append(f"run: embed-pipeline dead-letters {index.name} {name}")
    return Check(COVERAGE, found.differences == 0 and found.dead_letters <= allowed, "; ".join(said) + ".")


def _provenance(name: str, labels: Labels) -> Check:
    """No stored vector of the version carries the label of another one."""
    return Check(
        PROVENANCE, labels.foreign == 0, f"{labels.foreign:,} of {labels.vectors:,} vectors carry another label than {name}'s."
    )


def _ann_recall(required: float, result: GateResult) -> Check:
    """The index against exact search; the first version of an index without a held-out set has nothing to measure with."""
    measured = result.measures.get("ann_recall")
    if measured is None:
        return Check(ANN_RECALL, True, "Not measured: the index declares no held-out set.")
    return Check(
        ANN_RECALL,
        measured >= required,
        f"The ANN index finds {measured:.3f} of what exact search finds; {required:g} is required.",
    )
