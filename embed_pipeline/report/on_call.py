"""What a person on call asks of an index, each question answered in one sentence, with the command that helps. Pure.

No sentence holds what changes by itself (an age, a count of what waits): who says each minute what has changed would say it each minute.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from embed_pipeline.report.next_command import BEHIND_SECONDS
from embed_pipeline.report.now import Now
from embed_pipeline.report.version_status import VersionStatus

SERVES, CAPTURE_ARMED, QUEUE_AGE, DEAD_LETTERS, NOTHING_BYPASSED, SAME_MODEL, ROLLBACK_POSSIBLE = QUESTIONS = (
    "serves",
    "capture_armed",
    "queue_age",
    "dead_letters",
    "nothing_bypassed",
    "same_model",
    "rollback_possible",
)
ASKED = {
    SERVES: "A version serves, and its vectors are there.",
    CAPTURE_ARMED: "Every change of a document is captured: the triggers are armed, and nothing makes it doubtful that all were seen.",
    QUEUE_AGE: f"No change has waited for the version that serves for more than {BEHIND_SECONDS:.0f} s.",
    DEAD_LETTERS: "No live version has more documents without a vector than gate.max_dead_letters.",
    NOTHING_BYPASSED: "The last full comparison found no document that differs without a queued change.",
    SAME_MODEL: "No provider's model is known to have changed behind its name.",
    ROLLBACK_POSSIBLE: "The version that served before stands by, complete, and no change has waited for it for long.",
}
# Asked of each version by itself.
NOT_RETIRED = "not_retired"
# Seconds, and how a person says them.
AGES = (
    (86_400.0, "a day"),
    (21_600.0, "6 hours"),
    (3_600.0, "an hour"),
    (900.0, "15 minutes"),
    (300.0, "5 minutes"),
    (60.0, "a minute"),
)


@dataclass(frozen=True)
class Answer:
    """`severe`: where it failed, people are searching the wrong thing now. `command`: what helps, as `status` writes it."""

    name: str
    passed: bool
    sentence: str
    severe: bool = False
    command: str | None = None


def answers(now: Now) -> tuple[Answer, ...]:
    """Each question to which there is an answer yet, in the order in which a person asks."""
    asked: tuple[Callable[[Now], Answer | None], ...] = (
        _serves,
        _capture_armed,
        _queue_age,
        _dead_letters,
        _nothing_bypassed,
        _same_model,
        _rollback_possible,
    )
    return tuple(found for ask in asked if (found := ask(now)) is not None)


def _serves(now: Now) -> Answer:
    if now.serves is None or now.moved is None:
        return Answer(SERVES, False, f"Nothing serves {now.index} yet.", command=now.next.command)
    if now.broken:
        return Answer(SERVES, False, " ".join(now.broken), severe=True, command=now.next.command)
    why = f": {now.moved.reason}" if now.moved.reason else ""
    when = f"since {now.moved.at:%Y-%m-%d %H:%M} UTC, generation {now.pointer.generation}"
    return Answer(SERVES, True, f"{now.pointer.route} serves {when}, by {now.moved.actor}{why}")


def _capture_armed(now: Now) -> Answer:
    if not now.doubts:
        return Answer(CAPTURE_ARMED, True, "Every change of a document is captured.")
    said = f"Changes may have been missed, and every search checks its hits: {'; '.join(now.doubts)}"
    return Answer(CAPTURE_ARMED, False, said, severe=True, command=f"embed-pipeline sync {now.index} --full")


def _queue_age(now: Now) -> Answer | None:
    if now.serves is None:
        return None
    age = age_of(now.serves)
    if age is None:
        return Answer(QUEUE_AGE, True, f"No change has waited for {now.serves.name} for more than {BEHIND_SECONDS:.0f} s.")
    said = f"Changes have waited for {now.serves.name}, which serves, for more than {age}: what it finds is of before."
    return Answer(QUEUE_AGE, False, said, severe=True, command=f"embed-pipeline sync {now.index}")


def age_of(version: VersionStatus) -> str | None:
    """How long the oldest change has waited for it, in words; None where that is not long."""
    waits = version.oldest_pending_seconds if version.pending else 0.0
    return next((words for seconds, words in AGES if waits > seconds), None)


def _dead_letters(now: Now) -> Answer | None:
    live = [version for version in now.versions if version.is_live]
    if not live:
        return None
    over = [version for version in live if version.dead_letters > now.max_dead_letters]
    lacking = [version for version in live if version.dead_letters]
    said = "; ".join(_lacks(version) for version in over or lacking) or "no document lacks a vector"
    said = f"{said[0].upper()}{said[1:]}. Allowed are {now.max_dead_letters} (gate.max_dead_letters)."
    severe = any(version.state == "active" for version in over)
    command = f"embed-pipeline dead-letters {now.index}" if lacking else None
    return Answer(DEAD_LETTERS, not over, said, severe=severe, command=command)


def _lacks(version: VersionStatus) -> str:
    number = version.dead_letters
    have = "1 document has" if number == 1 else f"{number:,} documents have"
    serves = ", which serves and does not find them," if version.state == "active" else ""
    return f"{have} no vector in {version.name}{serves} ({'; '.join(version.first_dead_letters)})"


def _nothing_bypassed(now: Now) -> Answer | None:
    found = now.comparison
    if found is None:
        return None
    said = f"Compared at {found.at:%Y-%m-%d %H:%M} UTC: {found.sentence}"
    clean = found.differences == 0
    return Answer(NOTHING_BYPASSED, clean, said, command=None if clean else f"embed-pipeline sync {now.index} --full")


def _same_model(now: Now) -> Answer:
    changed = {version: facts for version, facts in now.facts.items() if facts.changed_at is not None and _is_live(now, version)}
    if not changed:
        return Answer(SAME_MODEL, True, "No model is known to have changed behind its name.")
    said = "; ".join(
        f"the model of {version} is another one since {facts.changed_at:%Y-%m-%d %H:%M} UTC"
        f"{'' if facts.lowest_cosine is None else f' (cosine {facts.lowest_cosine:.3f})'}"
        for version, facts in changed.items()
    )
    return Answer(
        SAME_MODEL,
        False,
        f"{said[0].upper()}{said[1:]}: it embeds nothing more until a person has decided.",
        severe=now.pointer.version in changed,
        command=f"embed-pipeline check-model {now.index}",
    )


def _is_live(now: Now, name: str) -> bool:
    version = now.version(name)
    return version is not None and version.is_live


def _rollback_possible(now: Now) -> Answer | None:
    if now.serves is None:
        return None
    before = now.version(now.pointer.previous)
    command = f"embed-pipeline rollback {now.index}"
    if before is None or not before.is_live:
        said = "There is nothing to go back to: no version served before, or it is retired."
        return Answer(ROLLBACK_POSSIBLE, False, said)
    age = age_of(before)
    if age is not None:
        said = f"Changes have waited for {before.name} for more than {age}: a rollback works them off first, or is told to take them along."
        return Answer(ROLLBACK_POSSIBLE, False, said, command=command)
    said = f"{now.pointer.previous_route} can serve again now: {before.name} is complete and up to date."
    return Answer(ROLLBACK_POSSIBLE, True, said, command=command)


def not_retired(now: Now, name: str) -> Answer:
    """Whether what was filled of the version is still there; of one that was retired, what is left to do."""
    version = now.version(name)
    if version is None or version.state != "retired":
        return Answer(NOT_RETIRED, True, f"{name} is {'declared' if version is None else version.state}.")
    since = "" if version.since is None else f" at {version.since:%Y-%m-%d %H:%M} UTC"
    if not version.dropped:
        said = f"{name} was retired{since}, and its vectors are not dropped yet."
        return Answer(NOT_RETIRED, False, said, command=f"embed-pipeline retire {now.index} {name}")
    said = f"{name} was retired{since}, and its vectors are dropped: what is green here is of before. It may leave the YAML; then this is gone."
    return Answer(NOT_RETIRED, False, said)


def page(now: Now) -> str:
    """All of it on one page, in Markdown: what serves, every version, what is not well, what to do."""
    found = {answer.name: answer for answer in answers(now)}
    wrong = [
        f"- **{answer.name}**: {answer.sentence}" for answer in found.values() if not answer.passed and answer.name != SERVES
    ]
    covered = coverage(now)
    held = [] if now.held.state == "running" else [f"Backfills are {now.held.state} by {now.held.changed_by}: {now.held.reason}"]
    parts = [
        f"**{found[SERVES].sentence}**",
        *([] if covered is None else [f"It finds {covered}."]),
        *held,
        *(["\n".join(wrong)] if wrong else []),
        table(now),
        f"Next: {now.next.why}{f' (`{now.next.command}`)' if now.next.command else ''}.",
    ]
    return "\n\n".join(parts)


def table(now: Now) -> str:
    """The versions, as a Markdown table."""
    rows = ["| version | state | since (UTC) | filled | without vector | gate |", "|---|---|---|---:|---:|---|"]
    for version in now.versions:
        state = f"**{version.state}**" if version.name == now.pointer.version else version.state
        since = "" if version.since is None else f"{version.since:%Y-%m-%d %H:%M}"
        filled = f"{version.partitions_done} of {version.partitions}" if version.is_live else ""
        gate = "" if version.gate is None else f"{version.gate.outcome}{', stale' if version.gate.stale else ''}"
        rows.append(f"| {version.name} | {state} | {since} | {filled} | {version.dead_letters or ''} | {gate} |")
    return "\n".join(rows)


def coverage(now: Now) -> str | None:
    """How many documents the version that serves can find, by the last comparison; never 100 % while one cannot be found."""
    found = now.coverage
    if found is None or now.serves is None or not found.documents:
        return None
    lacking = max(found.dead_letters, now.serves.dead_letters) + found.differences
    share = 100 * max(found.documents - lacking, 0) / found.documents
    shown = min(share, 99.9) if lacking else 100.0
    return f"{shown:.4g} % of {found.documents:,} documents, compared at {found.at:%Y-%m-%d %H:%M} UTC"
