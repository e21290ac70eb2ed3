"""What every asset and op does around its verb: open the index, and turn a refusal into a failure of one sentence."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import dagster as dg
from dagster._core.errors import DagsterUserCodeProcessError
from dagster._core.storage.asset_check_execution_record import COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES
from dagster_shared.error import SerializableErrorInfo

from embed_pipeline.documents import shape
from embed_pipeline.errors import DatabaseUnavailable, EmbedPipelineError, StoreUnavailable
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate.opening import opened
from embed_pipeline.postgres import failures
from embed_pipeline.spec import IndexSpec

# Dagster recognises the bare class only, not MaterializeResult[...].
if TYPE_CHECKING:
    Materialized: TypeAlias = dg.MaterializeResult[Any]
else:
    Materialized = dg.MaterializeResult

PARAGRAPH = "\n\n"
# Each line is an event in Dagster's own database.
SECONDS_BETWEEN_LINES = 5.0


class Log(Protocol):
    """The part of a Dagster context's log that is used here."""

    def info(self, msg: str) -> None:
        """Write one line."""
        ...

    def warning(self, msg: str) -> None:
        """Write one line that stands out."""
        ...


class Refused(DagsterUserCodeProcessError, dg.Failure):
    """A refusal: its sentence, and nothing to try again.

    Dagster shows frames of every exception but one that brings its own from another process, which it shows as they are. This one brings
    none: the run's last line is the sentence, and no stack stands between it and who reads it.
    """

    def __init__(self, sentence: str, metadata: Mapping[str, Any]) -> None:
        shown = SerializableErrorInfo(f"{sentence}\n", [], type(self).__name__)
        super().__init__(  # type: ignore[no-untyped-call]
            description=sentence, metadata=metadata, allow_retries=False, user_code_process_error_infos=[shown]
        )


@contextmanager
def refusals_as_failures() -> Iterator[None]:
    """Within it an EmbedPipelineError becomes a dg.Failure that says the sentence, and of a refusal nothing else.

    Trying again would meet the same refusal, so retries are off, except when the database or the store did not answer.
    """
    try:
        with failures.as_sentences():
            yield
    except EmbedPipelineError as problem:
        metadata = {
            "code": problem.code,
            **problem.fields,
            **({} if problem.next_step is None else {"next step": problem.next_step}),
        }
        if isinstance(problem, DatabaseUnavailable | StoreUnavailable):
            raise dg.Failure(description=str(problem), metadata=metadata) from None
        raise Refused(str(problem), metadata) from None


def fail_by_checks(spec: IndexSpec, answered: Sequence[dg.AssetCheckResult]) -> None:
    """End the run as a failure where one of its checks has failed: who is called for a failed run is not called for a red check.

    Called when the run has handed over its answers, so that Dagster shows the check as failed, and the work as done.
    """
    if spec.checks.fail_runs:
        _fail(answered, "")


def fail_by_blocking(answered: Sequence[dg.AssetCheckResult], refusal: str) -> None:
    """The same of checks that block: Dagster would end such a run by itself, and its last words would be a stack of its own."""
    _fail(answered, f"{refusal}: ")


def _fail(answered: Sequence[dg.AssetCheckResult], refusal: str) -> None:
    failed = [each for each in answered if not each.passed]
    if failed:
        said = " ".join(sentence_of(each) for each in failed)
        raise Refused(f"{refusal}{said}", {"code": "check_failed", "checks": ", ".join(each.check_name or "" for each in failed)})


def is_news(instance: dg.DagsterInstance, asset: dg.AssetKey, answer: dg.AssetCheckResult) -> bool:
    """Whether the check's last answer was another one. A job that runs every few seconds would else call somebody each time for one cause."""
    key = dg.AssetCheckKey(asset, str(answer.check_name))
    before = instance.event_log_storage.get_asset_check_execution_history(
        key, limit=1, status=COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES
    )
    last = before[0].evaluation if before else None
    said = (answer.passed, answer.severity, answer.description)
    return last is None or (last.passed, last.severity, last.description) != said


def sentence_of(answer: dg.AssetCheckResult) -> str:
    """What a line of the log says of it: its description without what is drawn below the first paragraph."""
    return f"{answer.check_name}: {(answer.description or '').partition(PARAGRAPH)[0]}"


@contextmanager
def working_on(spec: IndexSpec, *, register_new: bool = True) -> Iterator[OpenIndex]:
    """The open index for one step; refusals become failures."""
    with refusals_as_failures(), opened(spec, register_new=register_new) as index:
        yield index


def say_doubts(log: Log, index: OpenIndex) -> list[str]:
    """Warn of everything that makes it doubtful that every change was seen; returns the reasons."""
    with index.connection() as conn:
        reasons = [doubt.reason for doubt in shape.open_doubts(conn, index.name)]
    if reasons:
        log.warning(doubted(reasons))
    return reasons


def doubted(reasons: Sequence[str]) -> str:
    """What a person reads about open doubts."""
    return (
        f"Changes may have been missed ({'; '.join(reasons)}): every search checks its hits until a full comparison has passed."
    )


def reason_of(run_id: str, given: str) -> str:
    """What the audit shows as the reason: the person's, and in any case the run."""
    return f"{given} (Dagster run {run_id})" if given else f"Dagster run {run_id}"


class Lines:
    """Progress lines, at most one every few seconds."""

    def __init__(self, log: Log, seconds: float = SECONDS_BETWEEN_LINES) -> None:
        self._log = log
        self._seconds = seconds
        self._last = time.monotonic()

    def say(self, line: str) -> None:
        """Write `line` unless the last one is too recent."""
        now = time.monotonic()
        if now - self._last >= self._seconds:
            self._last = now
            self._log.info(line)
