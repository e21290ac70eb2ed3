"""What every asset does around its verb."""

from __future__ import annotations

import dagster as dg
import psycopg
import pytest

from embed_pipeline.dagster_layer.work import Lines, reason_of, refusals_as_failures
from embed_pipeline.errors import CutoverRefused, DatabaseUnavailable, StoreUnavailable


def test_a_refusal_becomes_its_sentence_and_is_not_tried_again() -> None:
    with pytest.raises(dg.Failure) as caught, refusals_as_failures():
        raise CutoverRefused("No.", next_step="Run: that")
    assert caught.value.description == "No. Run: that"
    assert caught.value.metadata["next step"].value == "Run: that"
    assert not caught.value.allow_retries
    assert caught.value.__suppress_context__


def test_a_refusal_is_shown_without_a_frame() -> None:
    """Dagster shows frames of any other failure, in the step and once more as the run's last line."""

    @dg.op(retry_policy=dg.RetryPolicy(max_retries=1))
    def refuses() -> None:
        with refusals_as_failures():
            raise CutoverRefused("No.", next_step="Run: that")

    @dg.job(executor_def=dg.in_process_executor)
    def refused() -> None:
        refuses()

    with dg.DagsterInstance.ephemeral() as instance:
        done = refused.execute_in_process(instance=instance, raise_on_error=False)
        (step,) = [event.step_failure_data for event in done.all_events if event.is_step_failure]
    assert not [event for event in done.all_events if event.is_step_up_for_retry], "trying again would meet the same refusal"
    assert step.user_failure_data is not None
    assert step.user_failure_data.description == "No. Run: that"
    assert (step.error.message, step.error.stack, step.error.cause) == ("No. Run: that\n", [], None)


def test_a_database_that_is_away_may_come_back() -> None:
    with pytest.raises(dg.Failure) as caught, refusals_as_failures():
        raise DatabaseUnavailable("Away.")
    assert caught.value.allow_retries


def test_a_store_that_is_away_may_come_back() -> None:
    with pytest.raises(dg.Failure) as caught, refusals_as_failures():
        raise StoreUnavailable("Away.")
    assert caught.value.allow_retries


def test_a_lost_connection_is_a_sentence_and_may_be_tried_again() -> None:
    with pytest.raises(dg.Failure) as caught, refusals_as_failures():
        raise psycopg.OperationalError("server closed the connection unexpectedly\n\tThis probably means")
    assert caught.value.description == (
        "The database stopped answering: server closed the connection unexpectedly. "
        "Everything that was committed is kept; run the same command again."
    )
    assert caught.value.allow_retries


def test_an_error_of_our_sql_stays_what_it_is() -> None:
    with pytest.raises(psycopg.errors.SyntaxError), refusals_as_failures():
        raise psycopg.errors.SyntaxError("syntax error")


def test_a_defect_stays_what_it_is() -> None:
    with pytest.raises(ZeroDivisionError), refusals_as_failures():
        raise ZeroDivisionError


def test_the_reason_names_the_run() -> None:
    assert reason_of("r1", "") == "Dagster run r1"
    assert reason_of("r1", "peak") == "peak (Dagster run r1)"


def test_lines_come_at_most_so_often() -> None:
    said: list[str] = []

    class Log:
        def info(self, msg: str) -> None:
            said.append(msg)

    seldom, always = Lines(Log(), seconds=3600), Lines(Log(), seconds=0)
    seldom.say("too soon")
    always.say("one")
    always.say("two")
    assert said == ["one", "two"]
