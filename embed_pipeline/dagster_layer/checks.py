"""The checks on a version's evaluation. All block: a cutover in the same run does not happen after one of them failed. And those that
only tell: on the full comparison, the dual-write and the model check.

They hang on the unpartitioned evaluation since a check on the partitioned embeddings would run in every chunk of a backfill.
Blocking reaches no further than one run, so the cutover itself asks the library for the same evidence again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import dagster as dg

from embed_pipeline.catalog.route import Kind
from embed_pipeline.dagster_layer import metadata
from embed_pipeline.dagster_layer.names import Names
from embed_pipeline.migrate.examination import ANN_RECALL, COVERAGE, HELD_OUT_RECALL, NAMES, PROVENANCE, Examination
from embed_pipeline.migrate.model_check import ModelCheck
from embed_pipeline.migrate.verdicts import GateResult
from embed_pipeline.migrate.verify import Compared
from embed_pipeline.spec import IndexSpec

NOTHING_BYPASSED = "nothing_bypassed"
DEAD_LETTERS = "dead_letters"
SAME_MODEL = "same_model"
NOT_WORSE: dict[Kind, str] = {"refine": "refine_not_worse", "bridge": "bridge_not_worse"}


def specs(spec: IndexSpec, asset: dg.AssetKey, route: Kind) -> list[dg.AssetCheckSpec]:
    """What the gate's asset of one way to serve promises to answer."""
    gate = spec.gate
    if route != "direct":
        how = "refined" if route == "refine" else "asked by mapped queries"
        description = (
            f"{gate.metric} of what serves, {how}, is not worse than without by {gate.margin:g} or more, at "
            f"{100 * gate.confidence:g} % confidence, on at least {gate.min_queries} held-out queries."
        )
        return [dg.AssetCheckSpec(NOT_WORSE[route], asset=asset, description=description, blocking=True)]
    descriptions = {
        COVERAGE: "Every document has its current vector or a dead letter at its current text; at most "
        f"{gate.max_dead_letters} dead letters.",
        PROVENANCE: "Every stored vector carries the model name, model version and fingerprint of this version.",
        ANN_RECALL: f"The ANN index finds at least {gate.min_ann_recall:g} of what exact search finds, same model.",
        HELD_OUT_RECALL: f"{gate.metric} is not worse than the serving version's by {gate.margin:g} or more, at "
        f"{100 * gate.confidence:g} % confidence, on at least {gate.min_queries} held-out queries.",
    }
    return [dg.AssetCheckSpec(name, asset=asset, description=descriptions[name], blocking=True) for name in NAMES]


def of_examination(found: Examination) -> list[dg.AssetCheckResult]:
    """The four answers, each with its sentence and what it is made of."""
    shown: dict[str, metadata.Metadata] = {
        COVERAGE: metadata.coverage(found.coverage),
        PROVENANCE: {"vectors": found.labels.vectors, "foreign": found.labels.foreign},
        ANN_RECALL: metadata.ann_recall(found),
        HELD_OUT_RECALL: metadata.evidence(found.result),
    }
    names, index, version = Names(found.result.index), found.result.index, found.result.version
    helps = {
        COVERAGE: f"embed-pipeline sync {index} --full" if found.coverage.differences else f"embed-pipeline dead-letters {index}",
        PROVENANCE: f"embed-pipeline backfill {index} {version}",
    }
    return [
        dg.AssetCheckResult(
            passed=each.passed,
            check_name=each.name,
            description=metadata.at_once(found.result) if each.name == HELD_OUT_RECALL else each.sentence,
            metadata=shown[each.name] | ({} if each.passed else metadata.launch(names, helps.get(each.name))),
        )
        for each in found.checks
    ]


def nothing_bypassed_spec(asset: dg.AssetKey) -> dg.AssetCheckSpec:
    """What the full comparison promises to answer. Blocks nothing: what it finds is queued by the same run."""
    description = "No document or vector differed without a queued change, change capture was armed, and nothing was doubted."
    return dg.AssetCheckSpec(NOTHING_BYPASSED, asset=asset, description=description, blocking=False)


def nothing_bypassed(asset: dg.AssetKey, compared: Compared) -> dg.AssetCheckResult:
    """A warning, since it is repaired: but somebody writes past the triggers, and may do so again."""
    return dg.AssetCheckResult(
        passed=not compared.found,
        asset_key=asset,
        check_name=NOTHING_BYPASSED,
        severity=dg.AssetCheckSeverity.WARN,
        description=compared.sentence,
        metadata=metadata.compared(compared),
    )


def dead_letters_spec(spec: IndexSpec, asset: dg.AssetKey) -> dg.AssetCheckSpec:
    """What every dual-write answers about documents that have no vector. Blocks nothing: what serves must stay true."""
    description = (
        f"No live version has more than {spec.gate.max_dead_letters} documents without a vector (gate.max_dead_letters)."
    )
    return dg.AssetCheckSpec(DEAD_LETTERS, asset=asset, description=description, blocking=False)


def dead_letters(spec: IndexSpec, asset: dg.AssetKey, found: Mapping[str, tuple[str, int]]) -> dg.AssetCheckResult:
    """An error where the version that serves lacks documents: searches miss them now. Else a warning: its cutover will be refused."""
    over = {version: (state, number) for version, (state, number) in found.items() if number > spec.gate.max_dead_letters}
    serving = any(state == "active" for state, _ in over.values())
    said = ", ".join(f"{number} of {version} ({state})" for version, (state, number) in over.items())
    return dg.AssetCheckResult(
        passed=not over,
        asset_key=asset,
        check_name=DEAD_LETTERS,
        severity=dg.AssetCheckSeverity.ERROR if serving else dg.AssetCheckSeverity.WARN,
        description=f"Documents without a vector: {said}. Mend them, then have them tried again." if over else None,
        metadata={f"{version} dead letters": number for version, (_, number) in found.items()}
        | (metadata.launch(Names(spec.name), f"embed-pipeline dead-letters {spec.name}") if over else {}),
    )


def same_model_spec(spec: IndexSpec, asset: dg.AssetKey) -> dg.AssetCheckSpec:
    """What the model check promises to answer. Blocks nothing in its run: the library itself stops what would mix two spaces."""
    description = (
        "Every provider's model still gives the vectors that its version was made with "
        f"(cosine at least {spec.model_check.min_cosine:g}, model_check.min_cosine)."
    )
    return dg.AssetCheckSpec(SAME_MODEL, asset=asset, description=description, blocking=False)


def same_model(asset: dg.AssetKey, found: Sequence[ModelCheck]) -> dg.AssetCheckResult:
    """An error for a model that has changed behind its name; a warning for one that does not answer."""
    wrong = [each for each in found if each.outcome in ("changed", "unknown")]
    changed = any(each.outcome == "changed" for each in wrong)
    return dg.AssetCheckResult(
        passed=not wrong,
        asset_key=asset,
        check_name=SAME_MODEL,
        severity=dg.AssetCheckSeverity.ERROR if changed else dg.AssetCheckSeverity.WARN,
        description=" ".join(each.sentence for each in wrong) or None,
        metadata=metadata.models_checked(found),
    )


def not_worse(result: GateResult, route: Kind) -> dg.AssetCheckResult:
    """The gate's verdict on such a route. Undecided is not passed."""
    return dg.AssetCheckResult(
        passed=result.outcome == "pass",
        check_name=NOT_WORSE[route],
        description=metadata.at_once(result),
        metadata=metadata.evidence(result),
    )
