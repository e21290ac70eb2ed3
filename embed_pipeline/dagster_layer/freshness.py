"""How old the last dual-write and the last comparison may be: Dagster shows either as stale where nothing runs any more, and nothing else would."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import dagster as dg
from croniter import croniter

# The sensor says of a dual-write that nothing waits, once in this time: what has nothing to do is not late.
QUIET_SECONDS = 600.0
# A run takes 15 minutes at most before Dagster ends it.
LATE = timedelta(minutes=30)
# Of a cron's ticks so many are looked at: each day of the week, and each hour of a day, among them.
TICKS = 50
LEAST = timedelta(minutes=2)


def of_dual_write() -> dg.FreshnessPolicy:
    """Late: neither has a run worked off what waited, nor has the sensor seen that nothing waits."""
    return dg.FreshnessPolicy.time_window(fail_window=LATE, warn_window=LATE * 2 / 3)


def of_comparison(schedule: str) -> dg.FreshnessPolicy:
    """A warning when one tick of the schedule brought no comparison, a failure when two did not: by its longest time between two ticks."""
    ticks = croniter(schedule, datetime(2024, 1, 1, tzinfo=UTC))
    times = [ticks.get_next(datetime) for _ in range(TICKS)]
    longest = max(max(later - earlier for earlier, later in pairwise(times)), LEAST)
    return dg.FreshnessPolicy.time_window(fail_window=longest * 2.5, warn_window=longest * 1.5)
