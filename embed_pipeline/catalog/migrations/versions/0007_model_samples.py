"""Expand: see sql/0007_model_samples.sql."""

from __future__ import annotations

from embed_pipeline.catalog.migrations.scripts import run_script

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_script("0007_model_samples.sql")


def downgrade() -> None:
    raise NotImplementedError("the catalog holds the only record of which version serves: restore a backup instead")
