"""The embedded PostgreSQL: each protection taken out."""

from __future__ import annotations

from tests.mutations.removal import Edit, Removal
from tests.mutations.removals.where import EMBEDDED

EMBEDDED_RACES = (
    Removal(
        "starts_without_a_lock",
        (Edit("postgres/home.py", "fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass"),),
        (EMBEDDED + "test_simultaneous_starts_make_one_server",),
        r"assert",
    ),
    Removal(
        "any_server_counts_as_ready",
        (Edit("postgres/embedded.py", "state.prepared != postmaster.identity or not processes.alive", "not processes.alive"),),
        (EMBEDDED + "test_start_is_completed_after_the_starter_was_killed",),
        r"does not exist",
    ),
    Removal(
        "old_backends_are_not_waited_for",
        (
            Edit(
                "postgres/embedded.py",
                'if "could not bind" not in output and "still in use" not in output:',
                'if "could not bind" not in output:',
            ),
        ),
        (EMBEDDED + "test_start_waits_for_the_last_backend_of_a_killed_server",),
        r"did not start|assert not True",
    ),
    Removal(
        "process_id_is_believed",
        (Edit("postgres/processes.py", " and postmaster.data_dir in found[1]", ""),),
        (EMBEDDED + "test_process_id_that_now_belongs_to_a_stranger_does_not_block_the_start",),
        r"refuses us|Connection refused|assert not True",
    ),
)
