"""What a person on call asks of an index, each question answered in one sentence, with the command that helps. Pure.

What is wrong is `attention`'s word for it: `status --check` and a check in Dagster say no to the same. Only whether a rollback is possible is
no matter of it, for that is a question of the future.

No sentence holds what changes by itself (an age, a count of what waits): who says each minute what has changed would say it each minute.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

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
    QUEUE_AGE: f"No change has waited for a live version for more than {BEHIND_SECONDS:.0f} s.",
    DEAD_LETTERS: "No live version has more documents without a vector than gate.max_dead_letters.",
    NOTHING_BYPASSED: "The last full comparison found no document that differs without a queued change.",
    SAME_MODEL: "No provider's model is known to have changed behind its name.",
    ROLLBACK_POSSIBLE: "The version that served before stands by, complete, and no change has waited for it for long.",
}
# By which of attention's codes each of them fails. Of `coverage`, `ann_index` and most of `evidence_stale` a look each minute knows nothing:
# they are counted.
FAILS_BY = {
    SERVES: (
        "vectors_gone",
        "another_ledger",
        "coverage",
        "no_evidence",
        "evidence_stale",
        "store_away",
        "ann_index",
        "readers_told_otherwise",
        "watch",
    ),
    CAPTURE_ARMED: ("documents_unusable", "capture_off", "doubt"),
    QUEUE_AGE: ("queue",),
    DEAD_LETTERS: ("dead_letters",),
    NOTHING_BYPASSED: ("bypassed",),
    SAME_MODEL: ("model_changed",),
}
# What the page says beside the checks, what a retire's own check says, and what only `status` looks for.
ASKED_ELSEWHERE = ("held", "declared_otherwise", "retire_unfinished", "reader_left_behind", "old_transaction")
# Asked of each version by itself.
NOT_RETIRED = "not_retired"
# Seconds, and how a person says them.
AGES = (
    (86_400.0, "a day"),
    (21_600.0, "6 hours"),
    (3_600.0, "an hour"),
    (900.0, "15 minutes"),
    (300.0, "5 minutes"),
    (BEHIND_SECONDS, "a minute"),
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


def _failed(now: Now, question: str, sentence: str | None = None) -> Answer | None:
    """The answer no, where attention has a code of the question; `sentence`: instead of attention's, which may hold what changes by itself."""
    found = [each for each in now.attention if each.code in FAILS_BY[question]]
    if not found:
        return None
    severe = any(each.severity == "critical" for each in found)
    said = sentence or " ".join(dict.fromkeys(each.sentence for each in found))
    return Answer(question, False, said, severe, next((each.next for each in found if each.next), None))


def _serves(now: Now) -> Answer:
    if now.serves is None or now.moved is None:
        return Answer(SERVES, False, f"Nothing serves {now.status.index} yet.", command=now.status.next.command)
    why = f": {now.moved.reason}" if now.moved.reason else ""
    when = f"since {now.moved.at:%Y-%m-%d %H:%M} UTC, generation {now.status.serving.generation}"
    well = Answer(SERVES, True, f"{now.status.serving.route} serves {when}, by {now.moved.actor}{why}")
    return _failed(now, SERVES) or well


def _capture_armed(now: Now) -> Answer:
    return _failed(now, CAPTURE_ARMED) or Answer(CAPTURE_ARMED, True, "Every change of a document is captured.")


def _queue_age(now: Now) -> Answer | None:
    live = [version for version in now.status.versions if version.is_live]
    if not live:
        return None
    late = [(version, age) for version in live if (age := age_of(version)) is not None]
    said = " ".join(
        f"Changes have waited for {version.name}{', which serves,' if version == now.serves else ''} for more than {age}: "
        "what it finds is of before."
        for version, age in late
    )
    well = Answer(QUEUE_AGE, True, f"No change has waited for a live version for more than {BEHIND_SECONDS:.0f} s.")
    return _failed(now, QUEUE_AGE, said) or well


def age_of(version: VersionStatus) -> str | None:
    """How long the oldest change has waited for it, in words; None where that is not long."""
    waits = version.oldest_pending_seconds if version.pending else 0.0
    return next((words for seconds, words in AGES if waits > seconds), None)


def _dead_letters(now: Now) -> Answer | None:
    live = [version for version in now.status.versions if version.is_live]
    if not live:
        return None
    allowed = f"Allowed are {now.max_dead_letters} (gate.max_dead_letters)."
    lacking = "; ".join(f"{version.dead_letters:,} of {version.name}" for version in live if version.dead_letters)
    command = f"embed-pipeline dead-letters {now.status.index}" if lacking else None
    well = Answer(DEAD_LETTERS, True, f"Documents without a vector: {lacking or 'none'}. {allowed}", command=command)
    failed = _failed(now, DEAD_LETTERS)
    return well if failed is None else replace(failed, sentence=f"{failed.sentence} {allowed}")


def _nothing_bypassed(now: Now) -> Answer | None:
    found = now.status.comparison
    if found is None:
        return None
    said = f"Compared at {found.at:%Y-%m-%d %H:%M} UTC: {found.sentence}"
    return _failed(now, NOTHING_BYPASSED, said) or Answer(NOTHING_BYPASSED, True, said)


def _same_model(now: Now) -> Answer:
    well = Answer(SAME_MODEL, True, "No model is known to have changed behind its name.")
    failed = _failed(now, SAME_MODEL)
    return (
        well
        if failed is None
        else replace(failed, sentence=f"{failed.sentence} Such a model embeds nothing more until a person has decided.")
    )


def _rollback_possible(now: Now) -> Answer | None:
    if now.serves is None:
        return None
    before = now.version(now.status.serving.previous)
    command = f"embed-pipeline rollback {now.status.index}"
    if before is None or not before.is_live:
        said = "There is nothing to go back to: no version served before, or it is retired."
        return Answer(ROLLBACK_POSSIBLE, False, said)
    age = age_of(before)
    if age is not None:
        said = f"Changes have waited for {before.name} for more than {age}: a rollback works them off first, or is told to take them along."
        return Answer(ROLLBACK_POSSIBLE, False, said, command=command)
    said = f"{now.status.serving.previous_route} can serve again now: {before.name} is complete and up to date."
    return Answer(ROLLBACK_POSSIBLE, True, said, command=command)


def not_retired(now: Now, name: str) -> Answer:
    """Whether what was filled of the version is still there; of one that was retired, what is left to do."""
    version = now.version(name)
    if version is None or version.state != "retired":
        return Answer(NOT_RETIRED, True, f"{name} is {'declared' if version is None else version.state}.")
    since = "" if version.since is None else f" at {version.since:%Y-%m-%d %H:%M} UTC"
    if not version.dropped:
        said = f"{name} was retired{since}, and its vectors are not dropped yet."
        return Answer(NOT_RETIRED, False, said, command=f"embed-pipeline retire {now.status.index} {name}")
    said = f"{name} was retired{since}, and its vectors are dropped: what is green here is of before. It may leave the YAML; then this is gone."
    return Answer(NOT_RETIRED, False, said)


def page(now: Now, what_does: Callable[[str], str]) -> str:
    """All of it on one page, in Markdown: what serves, every version, what is not well, what to do.

    `what_does`: how the reader gets done what a command does, in Markdown.
    """
    found = {answer.name: answer for answer in answers(now)}
    wrong = [
        f"- **{answer.name}**: {answer.sentence}" for answer in found.values() if not answer.passed and answer.name != SERVES
    ]
    covered = coverage(now)
    held = (
        []
        if now.status.control.state == "running"
        else [f"Backfills are {now.status.control.state} by {now.status.control.changed_by}: {now.status.control.reason}"]
    )
    parts = [
        f"**{found[SERVES].sentence}**",
        *([] if covered is None else [f"It finds {covered}."]),
        *held,
        *(["\n".join(wrong)] if wrong else []),
        table(now),
        f"Next: {now.status.next.why}{f' ({what_does(now.status.next.command)})' if now.status.next.command else ''}.",
    ]
    return "\n\n".join(parts)


def table(now: Now) -> str:
    """The versions, as a Markdown table."""
    rows = ["| version | state | since (UTC) | filled | without vector | gate |", "|---|---|---|---:|---:|---|"]
    for version in now.status.versions:
        state = f"**{version.state}**" if version.name == now.status.serving.version else version.state
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
