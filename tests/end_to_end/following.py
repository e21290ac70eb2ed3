"""An application beside a migration: one who writes, one who searches through the Searcher, one who asks Qdrant alone.

The models are tests.harness.fakes:HashEmbedder, salted with the version's name: a text is next to itself in its own space, and to nothing in any
other. So an answer that was ranked in more than one space, or by the query of another one, is seen in its distances.
"""

from __future__ import annotations

import random
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import psycopg
from qdrant_client import QdrantClient

from embed_pipeline.search import Searcher
from tests.harness.fakes import unit_vector

DIMENSIONS = 16
# Between two steps of an actor.
PAUSE_SECONDS = 0.05
# Documents that nobody edits. Readers ask for their texts.
ANCHORS = 30
DEADLINE_SECONDS = 60


def anchor_text(number: int) -> str:
    return f"title {number}\n\nbody {number}"


def in_space(version: str, text: str) -> Any:
    """What the model of a version makes of a text."""
    return unit_vector(f"{version}\0{text}", DIMENSIONS)


class Actor:
    """Does `step` over and over in a thread until the end; whatever it raises is kept as what an application would have seen."""

    def __init__(self) -> None:
        self.steps = 0
        self.problems: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=type(self).__name__)

    def step(self) -> None:
        raise NotImplementedError

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(DEADLINE_SECONDS)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stop.wait(PAUSE_SECONDS):
            try:
                self.step()
            except Exception:
                self.problems.append(traceback.format_exc())
            self.steps += 1


class Writer(Actor):
    """Inserts, edits and deletes every document but the anchors, each in a transaction of its own."""

    def __init__(self, url: str, seed: int) -> None:
        super().__init__()
        self._conn = psycopg.connect(url, autocommit=True)
        self._chosen = random.Random(seed)
        self._next = 1000 * seed
        self._born = list(range(ANCHORS + seed, 61, 2))

    def step(self) -> None:
        kind = self._chosen.choice(["insert", "edit", "edit", "delete"])
        if kind == "insert" or len(self._born) < 5:
            self._next += 1
            self._born.append(self._next)
            self._conn.execute("INSERT INTO articles VALUES (%s, 'new', %s)", (self._next, f"body {self._next}"))
        elif kind == "edit":
            values = (f"edited {self.steps}", self._chosen.choice(self._born))
            self._conn.execute("UPDATE articles SET body = %s WHERE id = %s", values)
        else:
            self._conn.execute("DELETE FROM articles WHERE id = %s", (self._born.pop(self._chosen.randrange(len(self._born))),))

    def stop(self) -> None:
        super().stop()
        self._conn.close()


class Reader(Actor):
    """Looks at one anchor after another. `versions` are those that answered, each time that it changed."""

    def __init__(self) -> None:
        super().__init__()
        self.versions: list[str] = []

    def look(self, number: int) -> str:
        """Search for an anchor, judge the answer, and return the version that gave it."""
        raise NotImplementedError

    def step(self) -> None:
        seen = self.look(1 + self.steps % ANCHORS)
        if not self.versions or self.versions[-1] != seen:
            self.versions.append(seen)

    def await_version(self, name: str) -> None:
        """Return when the reader has been answered by this version."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not (self.versions and self.versions[-1] == name):
            assert time.monotonic() < deadline, f"{type(self).__name__} saw {self.versions}, not {name}; {self.problems[-1:]}"
            time.sleep(0.02)


class SearcherReader(Reader):
    """Goes by the catalog."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._searcher = Searcher("docs", url, max_connections=2)

    def look(self, number: int) -> str:
        answer = self._searcher.search(anchor_text(number), k=10)
        assert answer.hits, f"{answer.version} finds nothing"
        assert answer.hits[0].doc_id == str(number)
        query = in_space(answer.version, anchor_text(number))
        for hit in answer.hits:
            if int(hit.doc_id) <= ANCHORS:
                expected = 1 - float(in_space(answer.version, anchor_text(int(hit.doc_id))) @ query)
                assert abs(hit.distance - expected) < 1e-3, f"{hit.doc_id} was not ranked in the space of {answer.version}"
        return answer.version

    def stop(self) -> None:
        super().stop()
        self._searcher.close()


class PlainReader(Reader):
    """Knows a Qdrant and a name in it. Asks with the query of one space, and takes every hit's own word for the space it is in."""

    def __init__(self, url: str, name: str) -> None:
        super().__init__()
        self.client = QdrantClient(url=url, check_compatibility=False, timeout=30)
        self.name = name

    def stop(self) -> None:
        super().stop()
        self.client.close()

    def judge(self, number: int, query: Any, hits: list[Any], vector: str) -> str:
        """The one version that all hits are of; their scores and vectors have to agree with it."""
        assert hits
        versions = set()
        for hit in hits:
            ours = hit.payload["embed_pipeline"]
            found = hit.vector[vector] if vector else hit.vector
            (version,) = ours["versions"] if not vector else [vector.split("__")[0]]
            versions.add((version, ours["versions"][version]["fingerprint"]))
            assert abs(float(np.dot(found, query)) - hit.score) < 1e-3
            if int(ours["doc_id"]) <= ANCHORS:
                wanted = in_space(version, anchor_text(int(ours["doc_id"])))
                assert np.allclose(found, wanted, atol=1e-3), f"{ours['doc_id']} is not in the space of {version}"
        assert len(versions) == 1, f"one answer, several spaces: {versions}"
        return str(versions.pop()[0])


class AliasReader(PlainReader):
    """Layout `collections`: whatever the alias leads to, in one request."""

    def look(self, number: int) -> str:
        query = in_space(self.versions[-1] if self.versions else "v1", anchor_text(number))
        hits = self.client.query_points(self.name, query=query.tolist(), limit=10, with_vectors=True).points
        return self.judge(number, query, hits, "")


class MetadataReader(PlainReader):
    """Layout `named_vectors`: the vector that the collection's metadata names, with the query of its model."""

    def look(self, number: int) -> str:
        metadata = self.client.get_collection(self.name).config.metadata or {}
        serving = metadata["embed_pipeline"]["serving"]
        query = in_space(serving["version"], anchor_text(number))
        found = self.client.query_points(
            self.name, query=query.tolist(), using=serving["vector"], limit=10, with_vectors=[serving["vector"]]
        )
        assert found.points[0].payload is not None
        assert found.points[0].payload["embed_pipeline"]["doc_id"] == str(number)
        return self.judge(number, query, found.points, serving["vector"])


@contextmanager
def beside(*actors: Actor) -> Iterator[None]:
    """All of them at work for the length of the block."""
    for actor in actors:
        actor.start()
    try:
        yield
    finally:
        for actor in actors:
            actor.stop()


def readers_of(layout: str, database_url: str, qdrant_url: str, name: str) -> tuple[Reader, Reader]:
    plain: Callable[[str, str], Reader] = MetadataReader if layout == "named_vectors" else AliasReader
    return SearcherReader(database_url), plain(qdrant_url, name)
