"""Expand: see sql/0006_batch_jobs.sql."""

from __future__ import annotations

from embed_pipeline.catalog.migrations.scripts import run_script

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_script("0006_batch_jobs.sql")


def downgrade() -> None:
    raise NotImplementedError("the catalog holds the only record of which version serves: restore a backup instead")
