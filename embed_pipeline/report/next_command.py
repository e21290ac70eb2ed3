"""The command to run next, and why: what `status` ends with."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from embed_pipeline.catalog.control import Control
from embed_pipeline.catalog.route import Route
from embed_pipeline.migrate.frozen import Difference
from embed_pipeline.report.ages import duration
from embed_pipeline.report.version_status import VersionStatus

# A serving version that is behind by more than this is the first thing to look at.
BEHIND_SECONDS = 60.0


Phase = Literal["declared", "backfilling", "judging", "failed", "ready", "rolled_back", "soaking", "serving", "retired"]


@dataclass(frozen=True)
class Next:
    """What to run now (None: nothing is to be done) and why."""

    command: str | None
    why: str


def put_back(index: str, differences: Sequence[Difference]) -> Next:
    """What to do about a declaration that differs from what is registered. Other names for the same documents are followed."""
    why = "put the registered values back into the declaration: every other command refuses it as it is"
    if all(each.fact.startswith("documents.") for each in differences):
        why += f"; where only names have changed, run: {_Commands(index)('sync')} --full, which compares the texts and follows"
    return Next(None, why)


def next_command(
    index: str,
    found: Sequence[VersionStatus],
    held: Control,
    *,
    documents: int,
    own_table: bool,
    max_dead_letters: int,
    soak_seconds: float,
    doubts: Sequence[str] = (),
    capture_off: str = "",
    route: Route | None = None,
    may_refine: bool = False,
    filling: Collection[str] = (),
) -> Next:
    """What to run now, and why. `filling`: versions that a run fills at this moment. Pure: the first of these that applies.

    A hold by a person; documents to load; vectors that are gone; a doubt; a retire to finish; a serving version that is behind; a refine route
    to be judged, again or first; the version under way; a standby version, first one that was rolled back from. Of several versions under way
    the most advanced one that can still pass is meant; while nothing serves, of equals the oldest.

    What cannot be taken back is never ready to paste: `retire` is named without its --confirm.
    """
    say = _Commands(index)
    if any(version.another for version in found):
        return Next(None, "its points are another ledger's: use another Qdrant, or take them over, as it says above")
    if held.state != "running":
        return Next(say("resume"), f"the index is {held.state} by {held.changed_by}{_because(held.reason)}")
    if documents == 0 and not own_table and not any(version.is_live for version in found):
        return Next(f"{say('load')} FILE", "there are no documents")
    # No comparison takes a doubt away while there is nothing to compare with.
    for version in sorted(found, key=lambda each: each.state != "active"):
        if version.gone:
            return Next(
                say("backfill", version.name), f"{version.name} is {version.state}, and its vectors are gone: it makes them again"
            )
    if capture_off:
        why = f"change capture is off ({capture_off} do not fire): compare everything, which arms it again"
        return Next(f"{say('sync')} --full", why)
    if doubts:
        why = f"changes may have been missed ({doubts[0]}), and every search checks its hits until all is compared"
        return Next(f"{say('sync')} --full", why)
    for version in found:
        if version.state == "retired" and not version.dropped:
            return Next(say("retire", version.name), f"the retire of {version.name} was interrupted; its vectors are still there")
    active = next((version for version in found if version.state == "active"), None)
    if active is not None and active.pending and active.oldest_pending_seconds > BEHIND_SECONDS:
        return Next(
            say("sync"),
            f"{active.pending} changes wait for {active.name}, which serves, for up to {active.oldest_pending_seconds:.0f} s",
        )
    candidate = _under_way(found, nothing_serves=active is None)
    refining = _refining(say, found, candidate, route, may_refine=may_refine)
    if refining is not None:
        return refining
    if candidate is not None and candidate.state == "building" and candidate.name in filling:
        done = f"{candidate.partitions_done} of {candidate.partitions} partitions"
        return Next(f"{say('status')} --watch", f"{candidate.name} is being filled by a run that is under way: {done}")
    if candidate is not None:
        return _advance(say, candidate, max_dead_letters, nothing_serves=active is None)
    behind = sum(version.pending for version in found)
    if behind:
        return Next(say("sync"), f"{behind} changes wait to be embedded")
    for version in sorted(found, key=lambda each: "direct" not in each.rolled_back):
        if version.state == "standby":
            return _standing_by(say, version, soak_seconds)
    if active is not None:
        gone = [version.name for version in found if version.state == "retired" and version.is_declared]
        tidy = f"; {' and '.join(gone)} may leave the YAML" if gone else ""
        return Next(f"{say('sync')} --watch", f"{active.name} serves and is up to date; declare a new version to migrate{tidy}")
    return Next(None, "every declared version is retired; declare a new one")


def phase(found: Sequence[VersionStatus]) -> Phase:
    """How far the migration is, in one word: of a decision against a version, else of the version under way, else of what serves."""
    if any("direct" in each.rolled_back and not each.rolled_back["direct"].judged_since for each in found):
        return "rolled_back"
    serves = any(each.state == "active" for each in found)
    candidate = _under_way(found, nothing_serves=not serves)
    if candidate is not None and not candidate.is_untouched:
        return _phase_of(candidate)
    if serves:
        return "soaking" if any(each.state == "standby" for each in found) else "serving"
    return "retired" if candidate is None and found else "declared"


def _phase_of(candidate: VersionStatus) -> Phase:
    if candidate.state == "building" or candidate.ann_index != "valid":
        return "backfilling"
    gate = candidate.gate
    if gate is None or gate.stale is not None or gate.outcome == "undecided":
        return "judging"
    return "ready" if gate.outcome == "pass" else "failed"


class _Commands:
    """Commands as a person types them."""

    def __init__(self, index: str) -> None:
        self._index = index

    def __call__(self, verb: str, *rest: str) -> str:
        return " ".join(["embed-pipeline", verb, self._index, *rest])


def _standing_by(say: _Commands, version: VersionStatus, soak_seconds: float) -> Next:
    """What to do about a version that served before. One that somebody has rolled back from is theirs to decide on: nothing offers to drop it."""
    name, left = version.name, soak_seconds - version.seconds
    by, judged = version.rolled_back.get("direct"), version.gate
    if by is None:
        if left > 0:
            return Next(f"{say('sync')} --watch", f"{name} is kept for a rollback, for {duration(left)} more at least")
        return Next(say("retire", name), f"{name} has been standby for {duration(version.seconds)} and may go, for good")
    why = f"{name} was {by}"
    give_up = f"to give it up, retire it{f' in {duration(left)}' if left > 0 else ''}"
    if not by.judged_since or judged is None or judged.stale is not None:
        return Next(say("gate", name), f"{why}; once its gate passes it may serve again; {give_up}")
    if judged.outcome == "pass":
        return Next(say("cutover", name), f"{why}; it has passed its gate since and may serve again; {give_up}")
    return Next(None, f"{why}; its gate since then: {judged.outcome}; {give_up}")


def _under_way(found: Sequence[VersionStatus], *, nothing_serves: bool) -> VersionStatus | None:
    """The version to bring on: ready before building before declared, one whose gate failed last; then the most filled. Of equals the newest, and
    while nothing serves the oldest: every other version is judged against it."""

    def rank(version: VersionStatus) -> tuple[int, float]:
        if version.state == "ready":
            return (3 if _has_failed(version) else 0), 0.0
        filled = version.partitions_done / version.partitions if version.partitions else 0.0
        return {"building": 1, "declared": 2}.get(version.state, -1), -filled

    candidates = [version for version in (found if nothing_serves else reversed(found)) if rank(version)[0] >= 0]
    return min(candidates, key=rank, default=None)


def _refining(
    say: _Commands, found: Sequence[VersionStatus], candidate: VersionStatus | None, route: Route | None, *, may_refine: bool
) -> Next | None:
    """What to do about a version that refines what serves, or could while it is being filled; None where that is to go on."""
    if route is None:
        return None
    if route.refine is not None:
        by = next(version for version in found if version.name == route.refine)
        judged = by.refine_gate
        if judged is None or judged.stale is not None:
            why = f"{route} serves, and its evidence is stale: {judged.stale}" if judged else f"{route} serves without evidence"
            return Next(say("gate", by.name, "--route", "refine"), why)
        if judged.outcome != "pass":
            return Next(say("cutover", route.version), f"{route} serves, and its last gate did not pass: {judged.outcome}")
        return None
    if not may_refine or candidate is None or candidate.state != "building" or candidate.stored == 0:
        return None
    if "refine" in candidate.rolled_back and not candidate.rolled_back["refine"].judged_since:
        return None  # Somebody has decided against it: it is filled, and not offered again.
    judged = candidate.refine_gate
    if judged is None or judged.stale is not None:
        why = f"{candidate.name} is partly filled and may refine {route.version}, which has not been judged as it is now"
        return Next(say("gate", candidate.name, "--route", "refine"), why)
    if judged.outcome == "pass":
        return Next(say("cutover", candidate.name, "--route", "refine"), f"{candidate.name} passed its gate as a refinement")
    return None


def _has_failed(version: VersionStatus) -> bool:
    return version.gate is not None and version.gate.outcome == "fail" and version.gate.stale is None


def _advance(say: _Commands, version: VersionStatus, max_dead_letters: int, *, nothing_serves: bool) -> Next:
    name = version.name
    if version.state == "declared":
        first = f"what it takes says: {say('plan', name)}"
        return Next(say("backfill", name), f"{name} is declared and nothing of it is there yet; {first}")
    if version.state == "building":
        done = f"{version.partitions_done} of {version.partitions} partitions of {name} are filled"
        return Next(
            say("backfill", name), done if version.partitions_done < version.partitions else f"{done}, its ANN index is not"
        )
    if version.ann_index != "valid":
        return Next(say("backfill", name), f"the ANN index of {name} is {version.ann_index}")
    if version.gate is None:
        return Next(say("gate", name), f"{name} is ready and has not been judged")
    if version.gate.stale is not None:
        return Next(say("gate", name), f"the evidence about {name} is stale: {version.gate.stale}")
    if version.gate.outcome == "undecided":
        needed = version.gate.queries_needed
        how_many = "" if needed is None else f"; about {needed} would probably decide"
        return Next(None, f"the gate of {name} is undecided: add queries to the held-out set, then judge it again{how_many}")
    if version.gate.outcome == "fail" and nothing_serves:
        return Next(None, f"the gate failed {name}, and nothing serves yet: declare a better version")
    if version.gate.outcome == "fail":
        return Next(say("retire", name), f"the gate failed {name}; declare a better version, and drop this one, for good")
    if version.dead_letters > max_dead_letters:
        named = f" ({'; '.join(version.first_dead_letters)})" if version.first_dead_letters else ""
        return Next(
            say("dead-letters", name),
            f"dead letters of {name}: {version.dead_letters}{named}, and max_dead_letters is {max_dead_letters}; "
            "mend these documents, then have them tried again",
        )
    return Next(say("cutover", name), f"{name} passed its gate")


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""
