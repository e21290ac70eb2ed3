"""Databases in which a migration of index `docs` is on its way: made once for each worker and copied for each test that begins there.

To get there takes longer than most tests do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import TupleRow

from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import gate
from embed_pipeline.migrate.opening import opened
from tests.conftest import SHARED_HOME, ServerUrl, database, template
from tests.harness.articles import declared, fill, make_articles, serve, write_holdout

Open = Callable[..., OpenIndex]


def filled(url: str, holdout: Path) -> None:
    with opened(declared(url, holdout, "v1")) as index:
        fill(index, "v1")


def served(url: str, holdout: Path) -> None:
    with opened(declared(url, holdout, "v1")) as index:
        serve(index, "v1")


def filled_beside(url: str, holdout: Path) -> None:
    served(url, holdout)
    with opened(declared(url, holdout, "v1", "v2")) as index:
        fill(index, "v2")


def judged_too(url: str, holdout: Path) -> None:
    served(url, holdout)
    with opened(declared(url, holdout, "v1", "v2")) as index:
        fill(index, "v2")
        assert gate.run(index, "v2").outcome == "pass"


# By the fixture that a test asks for. It declares nothing otherwise than `open_docs` does by itself, but for what is never frozen.
SCENES: dict[str, Callable[[str, Path], None]] = {
    "open_filled": filled,
    "open_served": served,
    "unjudged": filled_beside,
    "judged": judged_too,
}


@pytest.fixture(scope="session")
def scene_templates(
    server_url: ServerUrl, postgres_admin: psycopg.Connection[TupleRow], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], str]]:
    """The name of a scene's database, which is made when the first test asks for it."""
    made: dict[str, str] = {}
    with ExitStack() as held:

        def named(scene: str) -> str:
            if scene not in made:
                with database(server_url, postgres_admin, template()) as url:
                    with psycopg.connect(url, autocommit=True) as app:
                        make_articles(app)
                    SCENES[scene](url, write_holdout(tmp_path_factory.mktemp("scene") / "holdout.jsonl"))
                    # A copy that nobody ever connects to: autovacuum does not come to it, and no test has statistics that another has not.
                    copied = held.enter_context(database(server_url, postgres_admin, _name(url)))
                made[scene] = _name(copied)
            return made[scene]

        yield named


def _name(url: str) -> str:
    return url.rpartition("/")[2]


@pytest.fixture
def scene(request: pytest.FixtureRequest) -> str | None:
    """The scene that the test begins with. None in a copy of the package without a protection: what that breaks, the test is to meet."""
    asked = next((name for name in SCENES if name in request.fixturenames), None)
    return None if SHARED_HOME in os.environ else asked


@pytest.fixture
def database_url(
    request: pytest.FixtureRequest, server_url: ServerUrl, postgres_admin: psycopg.Connection[TupleRow], scene: str | None
) -> Iterator[str]:
    made = template() if scene is None else request.getfixturevalue("scene_templates")(scene)
    with database(server_url, postgres_admin, made) as url:
        yield url


@pytest.fixture
def begin(database_url: str, scene: str | None, app: psycopg.Connection, holdout: Path) -> Callable[[str], None]:
    """Makes a scene where the database is not a copy of it."""

    def made(name: str) -> None:
        if scene is None:
            SCENES[name](database_url, holdout)

    return made


@pytest.fixture
def open_filled(open_docs: Open, begin: Callable[[str], None]) -> Open:
    """Opens index `docs`, of which v1 is filled and has its ANN index: by itself, or with the named versions."""

    def open_with(*names: str, **overrides: object) -> OpenIndex:
        begin("open_filled")
        return open_docs(*(names or ("v1",)), **overrides)

    return open_with


@pytest.fixture
def open_served(open_docs: Open, begin: Callable[[str], None]) -> Open:
    """Opens index `docs`, of which v1 serves: by itself, or with the named versions."""

    def open_with(*names: str, **overrides: object) -> OpenIndex:
        begin("open_served")
        return open_docs(*(names or ("v1",)), **overrides)

    return open_with


@pytest.fixture
def unjudged(begin: Callable[[str], None]) -> None:
    """v1 serves; v2 is filled, and no gate has judged it."""
    begin("unjudged")


@pytest.fixture
def judged(open_docs: Open, begin: Callable[[str], None]) -> OpenIndex:
    """v1 serves; v2 is filled and has passed the gate."""
    begin("judged")
    return open_docs("v1", "v2")
