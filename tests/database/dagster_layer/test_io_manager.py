"""What an asset returns becomes the documents of an index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import psycopg
import pyarrow as pa
import pytest

from embed_pipeline import DocumentsIOManager
from tests.database.dagster_layer.conftest import sentence

DECLARED = """
type: embed_pipeline.EmbeddingIndex
attributes:
  name: news
  database_url: {url}
  documents: {{asset: warehouse/articles}}
  versions: {{v1: {{provider: "tests.harness.fakes:HashEmbedder", model_name: m, dimensions: 8}}}}
"""


class Warehouse:
    """An asset that returns what it is told to, and the manager that writes it."""

    def __init__(self, folder: Path, url: str, app: psycopg.Connection, instance: dg.DagsterInstance) -> None:
        (folder / "defs.yaml").write_text(DECLARED.format(url=url))
        self._folder, self._app, self._instance = folder, app, instance

    def returns(self, table: Any, partition: str | None = None, **options: Any) -> dg.ExecuteInProcessResult:
        days = None if partition is None else dg.StaticPartitionsDefinition([partition])

        @dg.asset(key=["warehouse", "articles"], io_manager_key="documents", partitions_def=days)
        def articles() -> Any:
            return table

        manager = DocumentsIOManager(index="news", declared_in=str(self._folder), **options)
        return dg.materialize(
            [articles], instance=self._instance, resources={"documents": manager}, partition_key=partition, raise_on_error=False
        )

    def stored(self) -> list[tuple[Any, ...]]:
        return self._app.execute("SELECT id, title, text, metadata FROM public.news ORDER BY id").fetchall()


@pytest.fixture
def warehouse(tmp_path: Path, database_url: str, app: psycopg.Connection, instance: dg.DagsterInstance) -> Warehouse:
    return Warehouse(tmp_path, database_url, app, instance)


def shown(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    assert result.success, sentence(result)
    (event,) = result.asset_materializations_for_node("warehouse__articles")
    return {name: value.value for name, value in event.metadata.items()}


def test_rows_are_inserted_and_updated_by_their_id(warehouse: Warehouse) -> None:
    frame = pd.DataFrame({"id": [1, 2], "title": ["one", None], "text": ["first", "second"], "year": [1999, 2001]}, index=[7, 8])
    first = shown(warehouse.returns(frame))
    assert (first["inserted"], first["dagster/row_count"], first["table"]) == (2, 2, "public.news")
    assert warehouse.stored() == [("1", "one", "first", {"year": 1999}), ("2", None, "second", {"year": 2001})]

    again = shown(warehouse.returns(pa.table({"id": ["2", "3"], "text": ["another", "third"], "year": [2001, 2002]})))
    assert (again["inserted"], again["updated"], again["deleted"]) == (1, 1, 0), "what is not in it stays"
    assert [row[0] for row in warehouse.stored()] == ["1", "2", "3"]


def test_documents_go_only_where_that_is_said_and_not_too_many(warehouse: Warehouse) -> None:
    ids = [f"{number:03d}" for number in range(200)]
    many = pd.DataFrame({"id": ids, "text": ids})
    shown(warehouse.returns(many))
    refused = sentence(warehouse.returns(many[:150], full=True))
    assert (
        "What warehouse/articles returned lacks 50 of the 200 documents of public.news, and `full` would delete these" in refused
    )
    assert "accept_loss=50" in refused
    assert "of one partition" in sentence(warehouse.returns(many, partition="monday", full=True))
    assert "holds no document" in sentence(warehouse.returns(many[:0], full=True))
    assert len(warehouse.stored()) == 200
    assert shown(warehouse.returns(many[:190], full=True))["deleted"] == 10
    assert shown(warehouse.returns(many[:150], full=True, accept_loss=40))["deleted"] == 40


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (pd.DataFrame({"id": ["1"]}), "What warehouse/articles returned has no column 'text'"),
        (pd.DataFrame({"id": ["1", "1"], "text": ["a", "b"]}), "has the id '1' twice, in rows 1 and 2"),
        (pd.DataFrame({"id": ["1", None], "text": ["a", "b"]}), "row 2, has no id"),
        (["a text"], "is no table of documents (list: "),
        (None, "is no table of documents (NoneType: "),
    ],
)
def test_what_is_no_document_is_refused_in_a_sentence(warehouse: Warehouse, table: Any, said: str) -> None:
    refused = sentence(warehouse.returns(table))
    assert said in refused
    assert warehouse.stored() == []


def test_documents_are_read_from_the_database_and_not_handed_over(warehouse: Warehouse) -> None:
    manager = DocumentsIOManager(index="news", declared_in="nowhere")
    with pytest.raises(dg.Failure) as refused:
        manager.load_input(dg.build_input_context())
    assert "Name the asset in `deps`" in str(refused.value.description)
