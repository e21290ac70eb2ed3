"""The documentation against the code: what it names exists, what it lists is complete, what it shows is valid."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import embed_pipeline
from embed_pipeline.catalog.states import STATES, TRANSITIONS
from embed_pipeline.configuration import COMPONENT_TYPE, parse_index
from embed_pipeline.spec import KINDS, AccountSpec, IndexSpec, PriceSpec, StoreSpec, VersionSpec, declaration_of
from embed_pipeline.spec.rules import SliceSpec
from tests.harness import python_page, rooms

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("tests/*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("embed_pipeline/**/*.md")})

LINK = re.compile(r"\[((?:[^\]\[]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
TEST = re.compile(r"(tests/[\w/]+\.py)::(\w+)")
SYMBOL = re.compile(r"`([\w/.]+): ([\w.]+)`")


@cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@cache
def prose_of(page: Path) -> str:
    """The page without its blocks of code, in which nothing is a link."""
    return re.sub(r"^```.*?^```", "", text_of(page), flags=re.MULTILINE | re.DOTALL)


def links(page: Path) -> Iterator[tuple[str, str]]:
    """(text, target) of the links that stay in this repository."""
    for text, target in LINK.findall(prose_of(page)):
        if "://" not in target and not target.startswith("mailto:"):
            yield text, target


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(page), flags=re.MULTILINE | re.DOTALL)


def tables(page: Path) -> Iterator[tuple[str, list[str]]]:
    """(heading above, cells) of every row of every table, without heads and rules."""
    heading, in_body = "", False
    for line in text_of(page).splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        if not line.startswith("|"):
            in_body = False
        elif set(line) <= set("|-: "):
            in_body = True
        elif in_body:
            yield heading, [cell.strip() for cell in line.strip("|").split("|")]


@cache
def anchors(page: Path) -> frozenset[str]:
    """The names that a page's headings have as link targets, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", prose_of(page), flags=re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles)


@cache
def functions_of(file: Path) -> frozenset[str]:
    if not file.is_file():
        return frozenset()
    tree = ast.parse(text_of(file))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))


def test_every_relative_link_resolves() -> None:
    broken = []
    for page in PAGES:
        for _, target in links(page):
            path, _, fragment = target.partition("#")
            found = (page.parent / path).resolve() if path else page
            if not found.exists() or (fragment and fragment not in anchors(found)):
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []


def test_every_named_test_exists() -> None:
    wrong = [
        f"{page.relative_to(ROOT)}: {file}::{name}"
        for page in PAGES
        for file, name in TEST.findall(text_of(page))
        if name not in functions_of(ROOT / file)
    ]
    assert wrong == []


def test_a_link_named_after_a_test_goes_to_its_file() -> None:
    for page in PAGES:
        for text, target in links(page):
            named = TEST.search(text)
            if named is not None:
                assert (page.parent / target).resolve() == ROOT / named[1], text


def test_every_protection_is_where_the_races_say() -> None:
    """`file: name` is a function, a named query or a trigger of that file."""
    page = ROOT / "docs/races.md"
    named = [(SYMBOL.fullmatch(text), target) for text, target in links(page)]
    found = [(match[1], match[2], target) for match, target in named if match is not None]
    assert found
    for file, name, target in found:
        assert (page.parent / target).resolve() == ROOT / "embed_pipeline" / file
        pattern = rf"(def |class |^|-- name: |FUNCTION |TRIGGER )(embed_pipeline\.)?{re.escape(name)}\b"
        assert re.search(pattern, text_of(ROOT / "embed_pipeline" / file), flags=re.MULTILINE), f"{file}: {name}"


@pytest.mark.parametrize("name", ["races", "promises", "what-it-stands-on"])
def test_every_race_and_promise_has_a_test(name: str) -> None:
    rows = [cells for _, cells in tables(ROOT / f"docs/{name}.md")]
    assert rows
    for cells in rows:
        assert any(TEST.search(cell) for cell in cells), cells[0]


def test_every_race_test_is_in_the_list_of_races_or_promises() -> None:
    """A new race test that nobody can find in the docs is half done."""
    listed = {match for name in ("races", "promises") for match in TEST.findall(text_of(ROOT / f"docs/{name}.md"))}
    unlisted = [
        f"{file.name}::{name}"
        for file in sorted(ROOT.glob("tests/races/test_*_races.py"))
        for name in sorted(functions_of(file))
        if name.startswith("test_") and name not in NO_RACE and (str(file.relative_to(ROOT)), name) not in listed
    ]
    assert unlisted == []


# Tests in the files of races that are about something else.
NO_RACE = {
    "test_a_copy_that_was_killed_goes_on_where_it_was",
    "test_a_killed_adoption_goes_on_where_it_was",
    "test_rollback_needs_a_version_that_served",
    "test_signals_cost_nothing_and_are_forgotten",
}


def yaml_blocks() -> list[Any]:
    return [
        pytest.param(page, block, id=f"{page.relative_to(ROOT)}:{number}")
        for page in PAGES
        for number, block in enumerate(blocks(page, "yaml"))
        if COMPONENT_TYPE in block
    ]


@pytest.mark.parametrize(("page", "block"), yaml_blocks())
def test_every_declaration_shown_is_valid(page: Path, block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://localhost/docs")
    shown = yaml.safe_load(block)
    assert shown["type"] == COMPONENT_TYPE
    assert parse_index(shown["attributes"], page).versions


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_python_block_parses(page: Path) -> None:
    for block in blocks(page, "python"):
        ast.parse(block)


# Mappings by name: what an entry is, and the letter that stands for its name in the reference.
ENTRIES: dict[str, tuple[type[BaseModel], str]] = {
    "versions": (VersionSpec, "V"),
    "accounts": (AccountSpec, "A"),
    "prices": (PriceSpec, "M"),
    "slices": (SliceSpec, "C"),
}


def attributes(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(path, default) of every attribute of a declaration; of a mapping by name those of one entry, like `versions.V`."""
    for name, field in model.model_fields.items():
        inner = [each for each in (field.annotation, *getattr(field.annotation, "__args__", ())) if _is_model(each)]
        if field.annotation is StoreSpec:
            inner = [declaration_of(kind) for kind in KINDS]
        if name in ENTRIES:
            entry, letter = ENTRIES[name]
            yield f"{prefix}{name}", _shown(field.get_default(call_default_factory=True))
            yield from attributes(entry, f"{prefix}{name}.{letter}.")
        elif inner:
            # Of several kinds the first is the default one, and what it says of a shared attribute comes last and counts.
            for each in reversed(inner):
                yield from attributes(each, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _shown(field.get_default(call_default_factory=True))


def _is_model(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseModel)


def _shown(default: Any) -> str:
    if default is PydanticUndefined:
        return "required"
    if default is None:
        return "none"
    if isinstance(default, bool):
        return str(default).lower()
    if default in ("", {}):
        return "empty"
    return str(default)


def test_the_yaml_reference_has_every_attribute_with_its_default() -> None:
    rows = [cells for _, cells in tables(ROOT / "docs/reference/yaml.md")]
    documented = {cells[0].strip("`"): cells[2].strip("`") for cells in rows}
    assert documented == dict(attributes(IndexSpec))


def test_the_yaml_reference_says_what_makes_another_space() -> None:
    rows = [cells for _, cells in tables(ROOT / "docs/reference/yaml.md") if cells[0].startswith("`versions.V.")]
    free = {cells[0].strip("`").split(".")[2] for cells in rows if cells[3] != "yes"}
    assert free == VersionSpec.not_identity()


def test_the_states_page_has_exactly_the_transitions() -> None:
    page = ROOT / "docs/states.md"
    expected = {(current, target) for current in STATES for target in TRANSITIONS[current]}
    rows = [cells for heading, cells in tables(page) if heading == "Transitions"]
    documented = {(cells[0].strip("`"), cells[1].strip("`")) for cells in rows}
    assert documented - {("(none)", "building")} == expected
    drawn = set(re.findall(r"^ +(\w+) --> (\w+):", "".join(blocks(page, "mermaid")), flags=re.MULTILINE))
    assert drawn == expected


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {"Always installed": project["dependencies"]} | {
        f"Extra: {extra}": wanted for extra, wanted in project["optional-dependencies"].items()
    }
    names = {
        heading: {re.split(r"[<>=\[]", requirement)[0] for requirement in wanted} - {project["name"]}
        for heading, wanted in declared.items()
    }
    # `all` names this package alone.
    names = {heading: packages for heading, packages in names.items() if packages}
    documented: dict[str, set[str]] = {}
    for heading, cells in tables(ROOT / "docs/dependencies.md"):
        documented.setdefault(heading, set()).add(cells[0].strip("`"))
        assert cells[1], cells[0]
    assert documented == names


@pytest.mark.parametrize("folder", rooms.packages(), ids=lambda folder: str(folder.relative_to(ROOT)))
def test_every_package_lists_its_modules(folder: Path) -> None:
    page = folder / "README.md"
    assert page.is_file(), f"{folder} needs a README that argues its design"
    assert page.read_text(encoding="utf-8") == rooms.page(folder), "Run: make docs"
    by_hand = rooms.BLOCK.sub("", page.read_text(encoding="utf-8"))
    assert len(by_hand.split()) > 40, f"{page} argues nothing"


def test_the_reference_of_python_is_of_what_is_exported() -> None:
    assert python_page.PAGE.read_text(encoding="utf-8") == python_page.page(), "Run: make docs"
    assert sorted(name for names in python_page.GROUPS.values() for name in names) == sorted(embed_pipeline.__all__)
    for name in embed_pipeline.__all__:
        assert inspect.getdoc(getattr(embed_pipeline, name)), name


def test_a_search_imports_neither_dagster_nor_a_provider() -> None:
    code = "import sys, embed_pipeline; embed_pipeline.Searcher; print(sorted({'dagster', 'openai', 'cohere', 'voyageai'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_everything_is_found_in_one_guess() -> None:
    """CONTRIBUTING.md names a place for each question, and each place is there."""
    places = [cells[1] for heading, cells in tables(ROOT / "CONTRIBUTING.md") if heading == "Where is what?"]
    assert len(places) > 20
    for place in places:
        named = re.findall(r"`([\w./]+?)(?:: (\w+))?`", place)
        assert named, place
        for path, symbol in named:
            file = ROOT / "embed_pipeline" / path
            assert file.exists(), place
            assert not symbol or re.search(rf"\b{symbol}\b", file.read_text(encoding="utf-8")), place


def test_licence() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / project["license-files"][0]).read_text(encoding="utf-8")[:200]


def test_every_page_is_reached_from_the_index() -> None:
    reached = {(ROOT / "docs" / target.partition("#")[0]).resolve() for _, target in links(ROOT / "docs/README.md")}
    pages = {page for page in PAGES if page.is_relative_to(ROOT / "docs")} - {ROOT / "docs/README.md"}
    assert pages - reached == set()
