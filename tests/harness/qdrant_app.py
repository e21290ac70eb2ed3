"""An application of a framework with its vectors in Qdrant, run by a Python of its own that has it (tests/stores/qdrant/test_frameworks.py):
`make FRAMEWORK URL COLLECTION` fills its collection, `ask FRAMEWORK URL COLLECTION` asks its retriever; both print what it finds, as JSON.

    langchain-qdrant 1.1.0: QdrantVectorStore
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

# Run as a script in a folder that Python does not look into (-P), beside the application of PostgreSQL's frameworks.
sys.path.append(__file__.rpartition("/")[0])
from framework_app import NOTES, vector_of  # type: ignore[import-not-found]

Ask = Callable[[str, str], list[str]]
"""The nearest texts to a text, of those whose metadata has this language."""


def language(number: int) -> str:
    return "de" if number % 2 else "en"


def langchain(url: str, collection: str, make: bool) -> Ask:
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_qdrant import QdrantVectorStore  # type: ignore[import-not-found]
    from qdrant_client import models

    class Model(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [vector_of(text) for text in texts]

        def embed_query(self, text: str) -> list[float]:
            return list(vector_of(text))

    if make:
        documents = [Document(note, metadata={"language": language(n)}) for n, note in enumerate(NOTES)]
        store: Any = QdrantVectorStore.from_documents(documents, Model(), url=url, collection_name=collection)
    else:
        store = QdrantVectorStore.from_existing_collection(collection, Model(), url=url)

    def ask(text: str, wanted: str) -> list[str]:
        of_it = models.FieldCondition(key="metadata.language", match=models.MatchValue(value=wanted))
        found = store.as_retriever(search_kwargs={"k": 1, "filter": models.Filter(must=[of_it])}).invoke(text)
        return [each.page_content for each in found]

    return ask


FRAMEWORKS: dict[str, Callable[[str, str, bool], Ask]] = {"langchain": langchain}

if __name__ == "__main__":
    verb, framework, server, name = sys.argv[1:]
    asked = FRAMEWORKS[framework](server, name, verb == "make")
    print(json.dumps([found for number, note in enumerate(NOTES[:5]) for found in asked(note, language(number))]))
