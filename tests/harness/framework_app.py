"""An application of a framework, run by a Python of its own that has it (tests/database/migrate/test_frameworks.py): `make TABLE
URL` fills its table, `ask TABLE URL` asks its retriever; both print what it finds, as JSON.

    langchain-postgres 0.0.19: PGVector (langchain_pg_embedding), PGVectorStore (store_notes)
    llama-index-vector-stores-postgres 0.9.0: PGVectorStore (data_notes)
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

DIMENSIONS = 16
NOTES = [f"body {number}" for number in range(60)]


def vector_of(text: str) -> list[float]:
    """Deterministic, and the same as `NotesEmbedder` makes in the test's own process."""
    drawn = random.Random(hashlib.sha256(text.encode()).hexdigest())
    return [drawn.gauss(0, 1) for _ in range(DIMENSIONS)]


class NotesEmbedder:
    """The same model as a provider of ours: `tests.harness.framework_app:NotesEmbedder`."""

    def __init__(self, *, dimensions: int, model_name: str, calls_file: str) -> None:
        self._calls = calls_file

    def embed(self, texts: Any, role: str) -> Any:
        import numpy as np

        from embed_pipeline.embedders.protocol import Embedded
        from tests.harness.fakes import append_lines

        append_lines(Path(self._calls), list(texts))
        return Embedded(np.asarray([vector_of(text) for text in texts], dtype=np.float32))


def langchain(url: str) -> Any:
    from langchain_core.embeddings import Embeddings
    from langchain_postgres import PGVector

    class Model(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [vector_of(text) for text in texts]

        def embed_query(self, text: str) -> list[float]:
            return vector_of(text)

    driver = url.replace("postgresql://", "postgresql+psycopg://")
    return Model(), driver, PGVector


def pgvector(url: str, make: bool) -> Callable[[str], str]:
    from langchain_core.documents import Document

    model, driver, kind = langchain(url)
    store = kind(embeddings=model, collection_name="notes", connection=driver, use_jsonb=True)
    if make:
        store.add_documents([Document(page_content=note) for note in NOTES])
    return lambda text: str(store.similarity_search(text, k=1)[0].page_content)


def pgvector_store(url: str, make: bool) -> Callable[[str], str]:
    from langchain_core.documents import Document
    from langchain_postgres import PGEngine, PGVectorStore

    model, driver, _ = langchain(url)
    engine = PGEngine.from_connection_string(url=driver)
    if make:
        engine.init_vectorstore_table(table_name="store_notes", vector_size=DIMENSIONS)
    store = PGVectorStore.create_sync(engine=engine, table_name="store_notes", embedding_service=model)
    if make:
        store.add_documents([Document(page_content=note) for note in NOTES])
    return lambda text: str(store.similarity_search(text, k=1)[0].page_content)


def llama(url: str, make: bool) -> Callable[[str], str]:
    from llama_index.core.schema import TextNode
    from llama_index.core.vector_stores.types import VectorStoreQuery
    from llama_index.vector_stores.postgres import PGVectorStore

    store = PGVectorStore(
        connection_string=url.replace("postgresql://", "postgresql+psycopg2://"),
        async_connection_string=url.replace("postgresql://", "postgresql+asyncpg://"),
        table_name="notes",
        schema_name="public",
        embed_dim=DIMENSIONS,
    )
    if make:
        store.add([TextNode(text=note, embedding=vector_of(note)) for note in NOTES])
    return lambda text: str(store.query(VectorStoreQuery(query_embedding=vector_of(text), similarity_top_k=1)).nodes[0].text)


TABLES: dict[str, tuple[Callable[[str, bool], Callable[[str], str]], str, str]] = {
    "langchain_pg_embedding": (pgvector, "id", "document"),
    "store_notes": (pgvector_store, "langchain_id", "content"),
    "data_notes": (llama, "id", "text"),
}

if __name__ == "__main__":
    verb, table, url = sys.argv[1:]
    ask = TABLES[table][0](url, verb == "make")
    print(json.dumps([ask(note) for note in NOTES[:5]]))
