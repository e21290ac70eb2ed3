"""The status of an index as lines that fit a terminal: what serves, what is wrong, each version, what runs, what comes next. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embed_pipeline.cli.render import account_line, count, number, share, size, spent_line, throttle_line
from embed_pipeline.report.ages import duration

if TYPE_CHECKING:
    from embed_pipeline.catalog.serving import Pointer
    from embed_pipeline.report.history import Step
    from embed_pipeline.report.index_status import Attention, Event, IndexStatus
    from embed_pipeline.report.next_command import Phase
    from embed_pipeline.report.version_status import GateState, VersionStatus

# So many events are shown; `history` has all.
EVENTS = 5
# A gate's event carries its whole sentence.
REASON = 80
# How far the migration is is no part of whether the index is well: a word like `failed` beside `well` would say both.
PHASES: dict[Phase, str] = {
    "declared": "no version is begun",
    "backfilling": "a version is being filled",
    "judging": "a version is to be judged",
    "failed": "a version has failed its gate, and does not serve",
    "ready": "a version has passed its gate",
    "rolled_back": "a version was rolled back from",
    "soaking": "the version before is kept for a rollback",
    "serving": "no migration is under way",
    "retired": "every version is retired",
}


@dataclass(frozen=True)
class Line:
    """A line, and under what its continuation stands where a terminal is too narrow for it."""

    text: str
    hang: int = 4

    def within(self, width: int | None) -> list[str]:
        if width is None or len(self.text) <= width:
            return [self.text]
        indent = len(self.text) - len(self.text.lstrip())
        # What is aligned in columns stays so: only from the hanging indent on may it be broken.
        first = self.text[: self.hang] if self.hang > indent else self.text[:indent]
        return textwrap.wrap(
            self.text[len(first) :],
            width,
            initial_indent=first,
            subsequent_indent=" " * max(self.hang, indent),
            break_long_words=False,
            break_on_hyphens=False,
        )


def fitted(lines: Iterable[str], hang: int, width: int | None) -> list[str]:
    """Lines that stand in two columns, the second of which begins at `hang`, within a terminal of this width."""
    return [piece for line in lines for piece in Line(line, hang).within(width)]


def status_lines(found: IndexStatus, width: int | None = None, *, everything: bool = False) -> list[str]:
    """An index. `width`: of the terminal, None where lines may be as long as they are. `everything`: also what was retired, and all evidence."""
    lines = [
        *_head(found),
        *_attention(found.attention),
        *_under_way(found),
        *_versions(found, everything=everything),
        *_about(found),
        # Of a move, what came to serve is named, and what ceased to is not.
        *_events([each for each in found.events if each.to_state != "standby"][:EVENTS], width),
        *_next(found),
    ]
    return [piece for line in lines for piece in line.within(width)]


def health_lines(found: IndexStatus, width: int | None = None) -> list[str]:
    """One line where an index is well, else a line for each reason."""
    if found.is_well:
        return [f"{found.index}: well; {PHASES[found.phase]}"]
    head = Line(f"{found.index}: {count(len(found.attention), 'thing')} to see to; {PHASES[found.phase]}")
    return [piece for line in (head, *_attention(found.attention)) for piece in line.within(width)]


def history_lines(found: Iterable[Step], width: int | None = None) -> list[str]:
    """A step a line. A move names its evidence, whose sentence the step of that gate has."""
    lines = [line for each in found for line in _step(each)]
    return [piece for line in lines for piece in line.within(width)]


def _step(step: Step) -> Iterator[Line]:
    what = f" {step.version}" if step.version and not step.is_move else ""
    change = f" {step.before or 'nothing'} -> {step.after}" if step.is_move or step.before else f" {step.after or ''}".rstrip()
    on = "no evidence, none is asked for" if step.evidence_id is None else f"evidence {step.evidence_id}: {step.outcome}"
    told = (
        f" (generation {step.generation}, {on})"
        if step.is_move
        else f" (evidence {step.evidence_id})"
        if step.evidence_id is not None
        else ""
    )
    reason = " ".join(step.reason.split())
    yield Line(
        f"{step.at:%Y-%m-%d %H:%M:%S}  {step.event}{what}{change}{told} by {step.actor}{f': {reason}' if reason else ''}", 21
    )


def summary_line(found: IndexStatus) -> str:
    """The state in one line, for a log."""
    serves = f"{found.serving.route} serves" if found.serving.route else "nothing serves"
    filling = [
        f"{each.name} {each.partitions_done}/{each.partitions} partitions" for each in found.versions if each.state == "building"
    ]
    wrong = (
        f"{count(len(found.attention), 'thing')} to see to: {', '.join(each.code for each in found.attention)}"
        if found.attention
        else "well"
    )
    queue = f"queue {number(max((each.pending for each in found.versions), default=0))}"
    return "; ".join([f"{found.index}: {found.phase}, {serves}", *filling, queue, wrong])


def _head(found: IndexStatus) -> Iterator[Line]:
    pointer, documents = found.serving, f"{count(found.documents, 'document')} in {found.documents_table}"
    if pointer.route is None:
        yield Line(f"{found.index}: serves nothing yet; {documents}")
        return
    yield Line(f"{found.index}: serves {pointer.route} (generation {pointer.generation}); {documents}")
    serving = next((each for each in found.versions if each.name == pointer.version), None)
    facts = [_moved(found.served_since, pointer)]
    if found.coverage is not None:
        facts.append(f"a search finds {share(found.coverage)} of them")
    if serving is not None:
        facts.append(_queue(serving))
    yield Line(f"  {'; '.join(each for each in facts if each)}")


def _moved(move: Event | None, pointer: Pointer) -> str:
    before = f", {pointer.previous_route} before" if pointer.previous_route else ""
    if move is None:
        return before.removeprefix(", ")
    because = f": {' '.join(move.reason.split())}" if move.reason else ""
    return f"since {move.at:%Y-%m-%d %H:%M} by {move.actor}{because}{before}"


def _queue(version: VersionStatus) -> str:
    return f"queue {number(version.pending)} ({duration(version.oldest_pending_seconds)})" if version.pending else "queue 0"


def _attention(found: Iterable[Attention]) -> Iterator[Line]:
    """What is wrong, and under it the command."""
    for each in found:
        yield Line(f"  {'!!' if each.severity == 'critical' else ' !'} {each.code}: {' '.join(each.sentence.split())}", 5)
        if each.next is not None:
            yield Line(f"     do: {each.next}", 9)


def _under_way(found: IndexStatus) -> Iterator[Line]:
    for each in found.running:
        what = count(each.amount, "partition") if each.work == "backfill" else count(each.amount, "change")
        yield Line(f"  now: {each.work} of {each.version}, {what}, by {each.who}", 7)
    yield from (Line(f"  {throttle_line(each)}") for each in found.throttle if each.answer != "go")


def _versions(found: IndexStatus, *, everything: bool) -> Iterator[Line]:
    shown = [each for each in found.versions if everything or each.state != "retired" or not each.dropped]
    route = found.serving.route
    names = max((len(each.name) for each in shown), default=0)
    states = [f"{each.state} {duration(each.seconds)}" if each.since else each.state for each in shown]
    widest = max(map(len, states), default=0)
    for each, state in zip(shown, states, strict=True):
        mark = "*" if each.state == "active" else "+" if route is not None and each.name == route.other else " "
        covered = share(each.coverage) if each.is_live else ""
        columns = f"{mark} {each.name:<{names}}  {state:<{widest}}  {covered:>6}  "
        yield Line((columns + ", ".join(_words(each, found, everything=everything))).rstrip(), len(columns))
        yield from _of_version(each, everything=everything)
    left = [each.name for each in found.versions if each not in shown]
    if left:
        yield Line(f"  {', '.join(left)} retired (--all)")


def _words(version: VersionStatus, found: IndexStatus, *, everything: bool) -> Iterator[str]:
    """What is particular about a version, beside its columns."""
    if not version.is_live:
        return
    if version.is_untouched:
        yield "not begun"
    elif not version.is_filled:
        yield f"{version.partitions_done}/{version.partitions} partitions"
    if version.dead_letters:
        named = version.first_dead_letters[0] if version.dead_letters == 1 and version.first_dead_letters else ""
        yield f"{count(version.dead_letters, 'dead letter')}{f': {named}' if named else ''}"
    if version.pending and version.state != "active":
        yield _queue(version)
    if version.is_filled and version.ann_index != "valid":
        yield f"ANN index {version.ann_index}"
    if version.name == found.serving.previous and version.state == "standby" and not version.rolled_back:
        yield "a rollback returns to it"
    if not version.is_declared:
        yield "no longer declared: written to until it is retired"
    if not version.is_untouched:
        yield size(version.bytes)


def _of_version(version: VersionStatus, *, everything: bool) -> Iterator[Line]:
    fingerprint = f", fingerprint {version.fingerprint}" if everything and version.fingerprint else ""
    yield Line(f"    {version.model}{fingerprint}", 6)
    if not version.is_live:
        return
    for left in version.rolled_back.values():
        yield Line(f"    {left}", 6)
    # Of what serves it is history.
    if version.gate is not None and (everything or version.state != "active"):
        yield Line(f"    gate of {version.name}: {_verdict(version.gate)}", 6)
    for kind, judged in (("refine", version.refine_gate), ("bridge", version.bridge_gate)):
        if judged is not None:
            yield Line(f"    {kind} gate of {version.name}: {_verdict(judged)}", 6)
    if version.chunker:
        yield Line(f"    chunks of {version.name}: {version.chunker}", 6)
    if version.spent:
        yield Line(f"    {spent_line(version)}", 6)
    more = version.dead_letters - len(version.first_dead_letters)
    if version.dead_letters > 1 and version.first_dead_letters:
        named = "; ".join(version.first_dead_letters)
        yield Line(f"    dead letters of {version.name}: {named}{f'; and {more} more' if more > 0 else ''}", 6)


def _verdict(judged: GateState) -> str:
    return f"{judged.sentence}{f' (stale: {judged.stale})' if judged.stale else ''}"


def _about(found: IndexStatus) -> Iterator[Line]:
    """What is to be known of the index, and needs nobody."""
    yield from (Line(f"  warning: {each}") for each in found.warnings)
    yield from (Line(f"  not set yet: {each}") for each in found.not_yet_set)
    if found.not_yet_set:
        yield Line("  searches go by what is set; the next command that works on the index sets what is declared here")
    yield from (Line(f"  {account_line(each)}") for each in found.accounts)
    yield from (Line(f"  {each}") for each in found.adapters)
    if found.comparison is not None:
        yield Line(f"  last full comparison {found.comparison.at:%Y-%m-%d %H:%M}: {found.comparison.sentence}")


def _events(found: Iterable[Event], width: int | None) -> Iterator[Line]:
    """One line each: cut, since `history` has them whole."""
    for each in found:
        change = (
            f" {each.from_state} -> {each.to_state}" if each.from_state and each.to_state else f" {each.to_state or ''}".rstrip()
        )
        reason = " ".join(each.reason.split())
        line = f"  {each.at:%m-%d %H:%M:%S} {each.event}{f' {each.version}' if each.version else ''}{change} by {each.actor}"
        line += f": {reason if len(reason) <= REASON else reason[:REASON] + '...'}" if reason else ""
        yield Line(line if width is None or len(line) <= width else line[: width - 3] + "...")


def _next(found: IndexStatus) -> Iterator[Line]:
    """The command has a line of its own, to be copied whole."""
    yield Line(f"next: {found.next.command or 'nothing to run'}", 6)
    yield Line(f"      {found.next.why}", 6)
