"""Providers: each protection taken out."""

from __future__ import annotations

from tests.mutations.removal import Edit, Removal
from tests.mutations.removals.where import MODEL_CHECK

PROVIDER_RACES = (
    Removal(
        "admission_without_the_accounts_lock",
        (
            Edit(
                "catalog/migrations/sql/0005_providers.sql",
                "WHERE p.account = the_account FOR UPDATE;\n    IF NOT FOUND",
                "WHERE p.account = the_account;\n    IF NOT FOUND",
            ),
        ),
        ("tests/database/catalog/test_admission.py::test_two_processes_never_both_get_the_last_place",),
        r"\['go', 'go'\]",
    ),
    Removal(
        "running_backfill_does_not_look_at_its_model",
        (
            Edit(
                "migrate/backfill.py",
                "            reading.repeat(lambda conn: model_check.require_same_model(conn, index, store.version))\n",
                "",
            ),
        ),
        (MODEL_CHECK + "test_a_running_backfill_stops_when_the_check_goes_red",),
        r"DID NOT RAISE",
    ),
    Removal(
        "dual_write_does_not_look_at_its_model",
        (
            Edit(
                "migrate/dual_write.py",
                "    if not line.repeat(lambda conn: model_check.require_same_model(conn, index, version)):\n",
                "    if False:\n",
            ),
        ),
        (MODEL_CHECK + "test_a_changed_model_embeds_nothing_more_until_it_is_the_old_one_again",),
        r"would mix two spaces",
    ),
    Removal(
        "check_speaks_about_another_sample",
        (Edit("catalog/model_samples.sql", " AND taken_at = %(taken_at)s FOR UPDATE", " FOR UPDATE"),),
        (MODEL_CHECK + "test_a_check_of_a_sample_that_was_replaced_meanwhile_changes_nothing",),
        r"assert False is None",
    ),
    Removal(
        "cached_queries_know_no_space",
        (Edit("search.py", "        fingerprint = serving.version.fingerprint\n", '        fingerprint = ""\n'),),
        ("tests/database/test_query_cache.py::test_no_vector_of_the_version_before_is_served_after_a_cutover",),
        r"assert \('v2'",
    ),
)
