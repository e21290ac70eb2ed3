"""What needs a person: one list, by which `status`, `status --check`, `health` and everything that alarms decide.

What is only due (a version to be judged, a retire that may be done) is no part of it: `next_command` says that.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from embed_pipeline.report.index_status import Attention, IndexStatus, Severity
from embed_pipeline.report.next_command import BEHIND_SECONDS
from embed_pipeline.report.version_status import VersionStatus

CODES = (
    "documents_unusable",
    "capture_off",
    "doubt",
    "vectors_gone",
    "another_ledger",
    "coverage",
    "model_changed",
    "no_evidence",
    "evidence_stale",
    "store_away",
    "ann_index",
    "queue",
    "dead_letters",
    "readers_told_otherwise",
    "reader_left_behind",
    "declared_otherwise",
    "held",
    "watch",
    "bypassed",
    "old_transaction",
    "retire_unfinished",
)


def attention(found: IndexStatus, max_dead_letters: int) -> tuple[Attention, ...]:
    """Everything that is wrong, each once, what is critical first. Pure."""
    each = chain(
        _of_documents(found), *(_of_version(found, version, max_dead_letters) for version in found.versions), _of_index(found)
    )
    return tuple(sorted(each, key=lambda one: (one.severity != "critical", CODES.index(one.code))))


def _of_documents(found: IndexStatus) -> Iterator[Attention]:
    full = f"embed-pipeline sync {found.index} --full"
    if found.unusable:
        yield Attention("documents_unusable", "critical", found.unusable, None)
    elif found.capture_off:
        yield Attention("capture_off", "critical", f"Change capture is off: {found.capture_off} do not fire.", full)
    if found.doubts and not found.unusable:
        more = f" (and {len(found.doubts) - 1} more)" if len(found.doubts) > 1 else ""
        said = f"Changes may have been missed, and every search checks its hits: {found.doubts[0]}{more}."
        yield Attention("doubt", "critical", said, full)
    if found.comparison is not None and found.comparison.differences and not found.doubts:
        said = f"The last full comparison found what no change explains: {found.comparison.sentence}"
        yield Attention("bypassed", "warning", said, full)


def _of_index(found: IndexStatus) -> Iterator[Attention]:
    held = found.control
    if found.watch is not None:
        # Who could not tell has shown nothing against what serves: the next look may.
        severity: Severity = "critical" if found.watch.is_loss else "warning"
        following = f"rollback {found.index}" if found.watch.is_loss else f"watch {found.index} --once"
        yield Attention("watch", severity, found.watch.sentence, f"embed-pipeline {following}", found.serving.version)
    if held.state != "running":
        because = f": {held.reason}" if held.reason else ""
        said = f"Backfills are {held.state} by {held.changed_by}{because}."
        yield Attention("held", "warning", said, f"embed-pipeline resume {found.index}")
    if found.declared_otherwise:
        said = f"The declaration differs from what is registered, and every working verb refuses it: {'; '.join(found.declared_otherwise)}."
        yield Attention("declared_otherwise", "warning", said, found.next.command)
    for each in found.left_behind:
        yield Attention("reader_left_behind", "warning", f"A process that searches lacks the model of {each}", None)
    for each in found.old_transactions:
        said = f"A transaction is open for long, and nothing that was deleted since can be cleaned up: {each}."
        yield Attention("old_transaction", "warning", said, None)


def _of_version(found: IndexStatus, version: VersionStatus, max_dead_letters: int) -> Iterator[Attention]:
    index, name = found.index, version.name
    serves = name == found.serving.version
    on_route = serves or (found.serving.route is not None and name == found.serving.route.other)

    def say(code: str, sentence: str, following: str | None, severity: Severity | None = None) -> Attention:
        return Attention(code, severity or ("critical" if serves else "warning"), sentence, following, name)

    if version.state == "retired" and not version.dropped:
        yield say(
            "retire_unfinished",
            f"The retire of {name} was interrupted; its vectors are there.",
            f"embed-pipeline retire {index} {name}",
        )
    if not version.is_live:
        return
    if version.gone:
        yield say("vectors_gone", version.gone, f"embed-pipeline backfill {index} {name}")
    if version.another:
        yield say("another_ledger", version.another, f"embed-pipeline take-over {index}")
    if version.unasked:
        yield say("store_away", version.unasked, f"embed-pipeline status {index}")
    if version.missing:
        said = f"{version.missing} of {found.documents} documents have no vector in {name}, and nothing that waits explains it."
        yield say("coverage", said, f"embed-pipeline verify {index} {name}")
    if version.model_changed is not None:
        said = f"The model of {name} is another one behind its name since {version.model_changed:%Y-%m-%d %H:%M} UTC."
        yield say("model_changed", said, f"embed-pipeline check-model {index} {name}", "critical" if on_route else "warning")
    if on_route:
        yield from _evidence(found, version)
    if serves and version.ann_index in ("missing", "invalid"):
        yield say(
            "ann_index", f"{name} serves, and its ANN index is {version.ann_index}.", f"embed-pipeline backfill {index} {name}"
        )
    if version.pending and version.oldest_pending_seconds > BEHIND_SECONDS:
        yield say("queue", _behind(found, version), f"embed-pipeline sync {index}")
    if version.dead_letters > max_dead_letters:
        named = f" ({'; '.join(version.first_dead_letters)})" if version.first_dead_letters else ""
        has = "document has" if version.dead_letters == 1 else "documents have"
        said = f"{version.dead_letters} {has} no vector in {name}{named}."
        yield say("dead_letters", said, f"embed-pipeline dead-letters {index} {name}")
    if version.untold:
        yield say("readers_told_otherwise", f"{name} serves, and {version.untold}.", f"embed-pipeline sync {index}")


def _behind(found: IndexStatus, version: VersionStatus) -> str:
    """With who holds what waits: a worker that was killed keeps it until another one has seen that its claim is dead."""
    holding = [each.who for each in found.running if each.work == "dual-write" and each.version == version.name]
    by = f", claimed by {', '.join(holding)}" if holding else ", and nobody has claimed any"
    return f"{version.pending} changes wait for {version.name}, the oldest for {version.oldest_pending_seconds:.0f} s{by}."


def _evidence(found: IndexStatus, version: VersionStatus) -> Iterator[Attention]:
    """Of the route that serves: whether a verdict about this very route stands behind it. A restore or a hand at a prompt may leave none."""
    route = found.serving.route
    if route is None or (route.other or route.version) != version.name:
        return
    if route.kind == "direct":
        if not version.ever_passed:
            said = f"{version.name} serves, and no gate has ever let it pass."
            yield Attention("no_evidence", "critical", said, f"embed-pipeline gate {found.index} {version.name}", version.name)
        return
    judged = version.refine_gate if route.kind == "refine" else version.bridge_gate
    gate = f"embed-pipeline gate {found.index} {version.name} --route {route.kind}"
    if judged is None or judged.outcome != "pass":
        why = "nothing has judged that" if judged is None else f"its last gate did not pass: {judged.outcome}"
        yield Attention("no_evidence", "critical", f"{route} serves, and {why}.", gate, version.name)
    elif judged.stale is not None:
        yield Attention(
            "evidence_stale", "warning", f"{route} serves, and its evidence is stale: {judged.stale}.", gate, version.name
        )
