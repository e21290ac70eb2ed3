"""The throttle: each protection taken out."""

from __future__ import annotations

from tests.mutations.removal import Edit, Removal
from tests.mutations.removals.where import THROTTLE, THROTTLE_RULES

THROTTLE_RACES = (
    Removal(
        "no_row_is_no_lag",
        (Edit("migrate/throttle_rules.py", "        if name not in there:\n", "        if False:\n"),),
        ("tests/database/migrate/test_throttle_signals.py::test_a_dead_standby_means_wait_and_its_return_means_go",),
        r"the backfill did not wait",
    ),
    Removal(
        "first_reason_decides",
        (
            Edit(
                "migrate/throttle_rules.py",
                "min(objections, key=lambda objection: not objection.stop, default=None)",
                "next(iter(objections), None)",
            ),
        ),
        (THROTTLE_RULES + "test_a_stop_outranks_a_wait",),
        r"assert 'wait' == 'stop'",
    ),
    Removal(
        "first_reading_stops",
        (
            Edit(
                "migrate/throttle_rules.py",
                "again = before.suspects is not None and before.suspects != signals.reading.taken",
                "again = True",
            ),
        ),
        (THROTTLE_RULES + "test_a_stop_for_a_slot_takes_two_readings",),
        r"assert 'stop' == 'wait'",
    ),
    Removal(
        "time_is_lag",
        (Edit("migrate/throttle_rules.py", "        if not standby.lag_bytes:\n", "        if standby.lag_bytes is None:\n"),),
        (THROTTLE_RULES + "test_no_bytes_are_no_lag_whatever_the_time_says",),
        r"assert 'wait' == 'go'",
    ),
    Removal(
        "goes_on_at_the_limit",
        (
            Edit(
                "migrate/throttle_rules.py",
                "return declared / 2 if signal in before.held else declared",
                "return declared",
            ),
        ),
        (THROTTLE_RULES + "test_it_goes_on_only_below_half_of_the_limit",),
        r"assert 'go' == 'wait'",
    ),
    Removal(
        "every_stutter_is_audited",
        (
            Edit(
                "migrate/throttle.py",
                'if now.answer == "wait" and last is not None and clock - last < QUIET_SECONDS:',
                "if False:",
            ),
        ),
        (THROTTLE + "test_a_stuttering_throttle_does_not_fill_the_audit",),
        r"assert \[\('go', 'wait",
    ),
    Removal(
        "audit_fails_the_backfill",
        (
            Edit(
                "migrate/throttle.py",
                "        except psycopg.Error:\n            # A word",
                "        except ZeroDivisionError:\n            # A word",
            ),
        ),
        (THROTTLE + "test_an_audit_that_cannot_be_written_stops_nothing",),
        r"UndefinedTable",
    ),
)
