"""No modules import each other in a circle, and no room imports from one above it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "embed_pipeline"
# From the ground up. What stands in one line may not import each other either.
FLOORS = (
    ("foreign_words", "forks", "signals"),
    ("errors",),
    ("extras",),
    ("spec",),
    ("configuration",),
    ("postgres",),
    ("embedders",),
    ("documents", "query_cache"),
    ("catalog",),
    ("accounts",),
    ("stores",),
    ("throttle", "evaluate", "testing"),
    ("index",),
    ("adapt",),
    ("flow", "search"),
    ("async_search",),
    ("migrate",),
    ("report",),
    ("doctor",),
    ("demo", "dagster_layer"),
    ("definitions", "cli"),
)
# Exports names of all rooms, on demand.
FRONT_DOOR = "embed_pipeline"


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path) -> Iterator[str]:
    """What a module imports of this package, wherever in it: also for the type checker alone, and inside of functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.split(".")[0] == FRONT_DOOR:
            for name in node.names:
                yield f"{node.module}.{name.name}"
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.split(".")[0] == FRONT_DOOR)


@pytest.fixture(scope="module")
def arrows() -> dict[str, set[str]]:
    known = modules()
    return {
        module: {name if name in known else name.rpartition(".")[0] for name in imported(path)} - {module, FRONT_DOOR}
        for module, path in known.items()
        if module != FRONT_DOOR
    }


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """The first modules found that import each other, in order; empty where there are none."""
    done: set[str] = set()

    def follow(module: str, path: list[str]) -> list[str]:
        if module in path:
            return path[path.index(module) :]
        if module not in done:
            for other in sorted(arrows.get(module, ())):
                if found := follow(other, [*path, module]):
                    return found
            done.add(module)
        return []

    for module in sorted(arrows):
        if found := follow(module, []):
            return found
    return []


def climbing(arrows: dict[str, set[str]]) -> list[str]:
    """Imports from a room on the same floor or above."""
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    found = []
    for module, others in arrows.items():
        room = module.split(".")[1]
        for other in others:
            theirs = other.split(".")[1]
            if theirs != room and floor[theirs] >= floor[room]:
                found.append(f"{module} imports {other}")
    return sorted(found)


def test_no_modules_import_each_other(arrows: dict[str, set[str]]) -> None:
    assert circle(arrows) == []
    assert circle(arrows | {"embed_pipeline.errors": {"embed_pipeline.migrate.gate"}}), "a circle goes unseen"


def test_no_room_imports_from_above(arrows: dict[str, set[str]]) -> None:
    assert climbing(arrows) == []
    assert climbing({"embed_pipeline.stores.registry": {"embed_pipeline.index.handle"}}), "a climb goes unseen"


def test_the_compare_and_set_loop_knows_no_store(arrows: dict[str, set[str]]) -> None:
    guarded = {module: others for module, others in arrows.items() if module.startswith("embed_pipeline.stores.guarded.")}
    assert guarded
    kinds = ("embed_pipeline.stores.qdrant", "embed_pipeline.stores.pgvector")
    assert [
        f"{module} imports {other}" for module, others in guarded.items() for other in others if other.startswith(kinds)
    ] == []
    assert not any("qdrant_client" in modules()[module].read_text(encoding="utf-8") for module in guarded)


CATALOG = "embed_pipeline.catalog"


def catalogs_statements(tree: ast.AST) -> list[str]:
    """Where a module takes hold of the statements of catalog's .sql files: it imports `queries`, or reaches them through a module."""
    rooms = {module.rpartition(".")[2] for module in modules() if module.startswith(CATALOG)}
    found = []
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.ImportFrom)
            and str(node.module).startswith(CATALOG)
            and any(n.name == "queries" for n in node.names)
        ):
            found.append(f"import of {node.module}.queries")
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in {f"{room}.queries" for room in rooms} - {"route.queries"}:
            found.append(f"use of {ast.unparse(node)}")
    return found


def test_catalogs_sql_is_run_by_catalog_alone() -> None:
    others = {module: path for module, path in modules().items() if not module.startswith(CATALOG)}
    found = {module: catalogs_statements(ast.parse(path.read_text(encoding="utf-8"))) for module, path in others.items()}
    assert {module: each for module, each in found.items() if each} == {}
    for line in ("from embed_pipeline.catalog.versions import queries", "versions.queries('pointer')"):
        assert catalogs_statements(ast.parse(line)), f"goes unseen: {line}"
