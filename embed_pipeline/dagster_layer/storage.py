"""Dagster's own tables in the embedded PostgreSQL, so that `make dev` needs one database and nothing to configure.

In `dagster.yaml`:

    storage:
      custom:
        module: embed_pipeline.dagster_layer.storage
        class: EmbeddedPostgresStorage
        config: {}

Only dagster-postgres can be named in `storage: postgres`, and it wants a password written down; the embedded server's is random.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from dagster._config.config_schema import UserConfigSchema
from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage

from embed_pipeline.postgres.embedded import DAGSTER_DATABASE, ensure_running

URL_VARIABLE = "EMBED_PIPELINE_DAGSTER_URL"


def storage_url() -> str:
    """EMBED_PIPELINE_DAGSTER_URL, else the database `dagster` of the embedded server, which is started.

    Whatever driver the variable names, psycopg2 is used: SQLAlchemy 2.1 takes a plain postgresql:// for psycopg 3, with which
    dagster-postgres fails on every run.
    """
    given = os.environ.get(URL_VARIABLE)
    if given:
        return re.sub(r"^postgres(?:ql)?(?:\+\w+)?://", "postgresql+psycopg2://", given.strip(), count=1)
    return ensure_running().dagster_url(DAGSTER_DATABASE)


class EmbeddedPostgresStorage(DagsterPostgresStorage):
    """DagsterPostgresStorage whose URL is found when it is opened."""

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """Nothing to configure."""
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> EmbeddedPostgresStorage:
        """Open the storage; the tables are made on first use."""
        return cls(postgres_url=storage_url(), inst_data=inst_data)

    # Dagster asks for these to open one part of the storage alone, by dagster-postgres's own configuration. There is none here.

    @property
    def event_storage_data(self) -> ConfigurableClassData | None:
        """None: the parts are opened through this class."""
        return None

    @property
    def run_storage_data(self) -> ConfigurableClassData | None:
        """None: the parts are opened through this class."""
        return None

    @property
    def schedule_storage_data(self) -> ConfigurableClassData | None:
        """None: the parts are opened through this class."""
        return None
