"""The catalog's first form. `schema.sql` is the same in one file; from the second revision on this one keeps a copy of it as it was."""

from __future__ import annotations

from embed_pipeline.catalog.migrations.scripts import run_script

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_script("../schema.sql")


def downgrade() -> None:
    raise NotImplementedError("the catalog holds the only record of which version serves: restore a backup instead")
