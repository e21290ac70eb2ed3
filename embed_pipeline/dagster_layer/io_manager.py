"""What an asset returns becomes the documents of an index: a DataFrame or a table of Arrow, written into the table that this package makes."""

# No `from __future__ import annotations` here: Dagster reads the annotations of resources as objects.

from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from embed_pipeline.configuration import load_index
from embed_pipeline.dagster_layer.work import refusals_as_failures
from embed_pipeline.errors import LoadError
from embed_pipeline.migrate import loading


class DocumentsIOManager(dg.ConfigurableIOManager):
    """Writes what an asset returns into the documents table of an index: inserts new ids, updates what differs, and touches nothing else.

    All of it or nothing, in one transaction. With `full`, documents that the table lacks are deleted, up to `reconcile.max_loss`.
    """

    index: str = Field(description="the index, by its name")
    declared_in: str = Field(
        description="the defs.yaml that declares it, or a folder above; an absolute path, or from the working directory"
    )
    full: bool = Field(False, description="what is returned are all documents: delete those that it lacks")
    accept_loss: int | None = Field(None, description="with full: so many may be deleted, whatever reconcile.max_loss says")

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Write the documents. Refused in one sentence where a row is no document; then nothing was changed."""
        called = f"What {context.asset_key.to_user_string() if context.has_asset_key else context.step_key} returned"
        with refusals_as_failures():
            if self.full and context.has_partition_key:
                raise LoadError(
                    f"{called} is of one partition, and `full` would delete the documents of all others; nothing was loaded.",
                    next_step="Leave `full` out.",
                )
            spec = load_index(Path(self.declared_in), self.index)
            with closing(loading.open_to_load(spec)) as index:
                done = loading.load_table(index, obj, called, full=self.full, accept_loss=self.accept_loss)
        context.add_output_metadata(
            {
                "index": self.index,
                "table": spec.source().table,
                "dagster/row_count": done.rows,
                "inserted": done.inserted,
                "updated": done.updated,
                "unchanged": done.unchanged,
                "deleted": done.deleted,
                "blank": done.blank,
            }
        )

    def load_input(self, context: dg.InputContext) -> Any:
        """Refused: the table is in the database, for whoever wants to read it."""
        with refusals_as_failures():
            raise LoadError(
                f"Documents of {self.index} are not handed over in Python: they may be more than fit into memory.",
                next_step="Name the asset in `deps`, and read the table from the database.",
            )
