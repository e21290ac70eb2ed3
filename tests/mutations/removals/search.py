"""Search: each protection taken out."""

from __future__ import annotations

from tests.mutations.removal import Edit, Removal
from tests.mutations.removals.where import SEARCH

SEARCH_RACES = (
    Removal(
        "query_meets_whatever_serves",
        (
            Edit(
                "search.py",
                "        serving = self._resolve(query.version)\n",
                "        self._forget()\n        serving = self._resolve(None)\n",
            ),
            Edit("search.py", "if query.fingerprint != serving.version.fingerprint:", "if False:"),
        ),
        (SEARCH + "test_query_version_survives_flip",),
        r"assert \('v2'",
    ),
    Removal(
        "any_space_in_python",
        (Edit("search.py", "if query.fingerprint != serving.version.fingerprint:", "if False:"),),
        (SEARCH + "test_query_vector_of_another_version_is_refused",),
        r"DID NOT RAISE",
    ),
    Removal(
        "any_space_in_sql",
        (Edit("catalog/migrations/sql/0004_stores.sql", "IF target.fingerprint IS DISTINCT FROM $3 THEN", "IF false THEN"),),
        (SEARCH + "test_sql_search_is_version_scoped",),
        r"DID NOT RAISE",
    ),
    Removal(
        "flips_are_not_heard",
        (Edit("search.py", "if notice.payload == self.index:", "if False:"),),
        (SEARCH + "test_flip_is_heard_by_notify",),
        r"assert False",
    ),
    Removal(
        "searcher_looks_once",
        (Edit("search.py", "                if last_try:\n", "                if True:\n"),),
        (SEARCH + "test_retired_under_a_cached_pointer",),
        r"UndefinedTable",
    ),
    Removal(
        "ann_scan_ends_early",
        (Edit("stores/pgvector.py", '"strict_order" if where or self.version.is_chunked else "off"', '"off"'),),
        (SEARCH + "test_rare_filter_over_an_ann_index",),
        r"assert \d+ == \d+|AssertionError",
    ),
)
