"""How a backfill yields: signals are read, a pure rule decides, the loop waits and records why."""
