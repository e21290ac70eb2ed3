"""Expand: see sql/0005_providers.sql."""

from __future__ import annotations

from embed_pipeline.catalog.migrations.scripts import run_script

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    run_script("0005_providers.sql")


def downgrade() -> None:
    raise NotImplementedError("the catalog holds the only record of which version serves: restore a backup instead")
