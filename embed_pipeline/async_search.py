"""`Searcher` for asyncio."""

from __future__ import annotations

import asyncio
from typing import Any

from embed_pipeline.search import Answer, QueryVector, Searcher


class AsyncSearcher:
    """`Searcher` for asyncio: the same, each call in a worker thread (embedding is computation, not waiting)."""

    def __init__(self, index: str, database_url: str | None = None, **options: Any) -> None:
        self._searcher = Searcher(index, database_url, **options)

    async def search(self, text: str, k: int = 10, **options: Any) -> Answer:
        """See `Searcher.search`."""
        return await asyncio.to_thread(self._searcher.search, text, k, **options)

    async def search_vector(self, query: QueryVector, k: int = 10, **options: Any) -> Answer:
        """See `Searcher.search_vector`."""
        return await asyncio.to_thread(self._searcher.search_vector, query, k, **options)

    async def embed(self, text: str, version: str | None = None) -> QueryVector:
        """See `Searcher.embed`."""
        return await asyncio.to_thread(self._searcher.embed, text, version)

    async def prepare(self, version: str | None = None) -> None:
        """See `Searcher.prepare`."""
        await asyncio.to_thread(self._searcher.prepare, version)

    async def close(self) -> None:
        """See `Searcher.close`."""
        await asyncio.to_thread(self._searcher.close)

    async def __aenter__(self) -> AsyncSearcher:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
