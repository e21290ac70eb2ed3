"""Another server than the embedded one for a run of the tests (tests/conftest.py)."""

from __future__ import annotations

import os
from typing import Any

from embed_pipeline.spec import IndexSpec
from embed_pipeline.spec.places import PgvectorServerSpec

TESTS_URL = "EMBED_PIPELINE_TESTS_URL"
# What a declaration says there, for the processes that read it: its pgvector may be one that has to be accepted by name.
ACCEPTED: dict[str, Any] = {"pgvector": {"accept": "0.8.0"}} if TESTS_URL in os.environ else {}


def accept_by_default() -> None:
    """Let every declaration that this process reads accept it: few of the tests are about the version."""
    IndexSpec.model_fields["pgvector"].default = PgvectorServerSpec.model_validate(ACCEPTED["pgvector"])
    IndexSpec.model_rebuild(force=True)
