"""Findings out of the state of an index: what `status` shows, judged. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from embed_pipeline.doctor.findings import Finding, of_pgvector
from embed_pipeline.report.index_status import IndexStatus
from embed_pipeline.report.next_command import BEHIND_SECONDS
from embed_pipeline.report.version_status import VersionStatus

# A version that nothing returns to any more costs every change a second embedding.
STANDBY_SECONDS = 30 * 86_400.0


def from_status(state: IndexStatus) -> Iterator[Finding]:
    """What is wrong with an index, as far as its catalog knows."""
    name = state.index
    following = f"embed-pipeline status {name}"
    if not any(each.is_live for each in state.versions):
        yield Finding("note", "not_registered", f"No version of {name} is registered yet.", state.next.command or state.next.why)
    for doubt in state.doubts:
        sentence = f"Changes may have been missed, and every search checks its hits: {doubt.rstrip('.')}."
        yield Finding("error", "capture", sentence, f"embed-pipeline sync {name} --full")
    for each in state.declared_otherwise:
        yield Finding("error", "declared_otherwise", f"The declaration is not what is registered: {each}.", following)
    for warning in state.warnings:
        yield of_pgvector(warning)
    for each in state.left_behind:
        yield Finding("warning", "left_behind", f"A process that searches lacks the model of {each}.", following)
    for each in state.old_transactions:
        yield Finding(
            "warning", "old_transaction", f"A transaction stands open for long, and nothing can be cleaned up: {each}.", following
        )
    if state.control.state != "running":
        yield Finding(
            "warning",
            "held",
            f"The index is {state.control.state} by {state.control.changed_by}.",
            f"embed-pipeline resume {name}",
        )
    for version in state.versions:
        if version.is_live:
            yield from _version(state, version)


def _version(state: IndexStatus, version: VersionStatus) -> Iterator[Finding]:
    name, following = state.index, f"embed-pipeline status {state.index}"
    for code, problem in (("gone", version.gone), ("another_ledger", version.another), ("store", version.unasked)):
        if problem:
            yield Finding("error", code, f"{version.name}: {problem}", following)
    if version.untold:
        yield Finding(
            "error", "alias", f"{version.name} serves, and {version.untold}.", f"embed-pipeline cutover {name} {version.name}"
        )
    is_complete = version.state != "building"
    if version.ann_index == "invalid" or (version.ann_index == "missing" and is_complete):
        yield Finding(
            "error",
            f"index_{version.ann_index}",
            f"{version.name} is {version.state}, and its ANN index is {version.ann_index}.",
            f"embed-pipeline backfill {name} {version.name}",
        )
    if is_complete and version.stored + version.dead_letters + version.pending < state.documents:
        lacking = state.documents - version.stored - version.dead_letters
        sentence = f"{version.name} is {version.state}, and {lacking:,} of {state.documents:,} documents have no vector."
        yield Finding("error", "coverage", sentence, f"embed-pipeline sync {name} --full")
    if version.dead_letters:
        first = version.first_dead_letters[0] if version.first_dead_letters else "see there"
        sentence = f"{version.name}: {version.dead_letters:,} documents can have no vector, the first for this reason: {first}."
        yield Finding("warning", "dead_letters", sentence, f"embed-pipeline dead-letters {name} {version.name}")
    if version.pending and version.oldest_pending_seconds > BEHIND_SECONDS and is_complete:
        sentence = (
            f"{version.name} is behind by {version.pending:,} changes, the oldest {version.oldest_pending_seconds:.0f} s old."
        )
        yield Finding("warning", "behind", sentence, f"embed-pipeline sync {name}")
    if version.state == "standby" and version.seconds > STANDBY_SECONDS:
        days = version.seconds / 86_400
        sentence = (
            f"{version.name} has been standby for {days:.0f} days; until it is retired, every change is embedded for it too."
        )
        yield Finding("note", "not_retired", sentence, f"embed-pipeline retire {name} {version.name}  (asks for --confirm)")
    if not version.is_declared:
        sentence = f"{version.name} is {version.state}, and the declaration does not name it any more."
        yield Finding("warning", "not_declared", sentence, f"Declare {version.name} again, or retire it.")
