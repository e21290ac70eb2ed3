"""Every protection taken out of a copy of the package, one at a time: the tests that are there for it must fail.

Which of them a soak takes out says `chosen.py`.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from embed_pipeline.postgres import embedded
from tests.mutations.chosen import chosen
from tests.mutations.patched import ROOT, Preloaded
from tests.mutations.removal import Edit, Removal, edited
from tests.mutations.removals import REMOVALS
from tests.mutations.removals.together import TOGETHER
from tests.unit.test_docs import TEST, functions_of, tables

IMPORTS = """
import subprocess, sys
from multiprocessing import get_context
from pathlib import Path
import embed_pipeline

def place() -> str:
    return str(Path(embed_pipeline.__file__).parents[1])

def test_place() -> None:
    here = str(Path(__file__).parents[1])
    assert place() == here
    with get_context("spawn").Pool(1) as pool:
        assert pool.apply(place) == here
    code = "import pathlib, embed_pipeline; print(pathlib.Path(embed_pipeline.__file__).parents[1])"
    for directory in (".", "/"):
        assert subprocess.run([sys.executable, "-c", code], cwd=directory, capture_output=True, text=True).stdout.strip() == here
"""


BY_NAME = {removal.name: removal for removal in REMOVALS}


def function(test: str) -> str:
    """The test without the parameters of one case."""
    return test.partition("[")[0]


@pytest.mark.soak
@pytest.mark.parametrize("name", chosen(BY_NAME))
def test_the_tests_fail_without_the_protection(
    place: Path, preloaded: Preloaded, postgres_server: embedded.Server, name: str
) -> None:
    removal = BY_NAME[name]
    removal.apply(place / "embed_pipeline")
    run = preloaded.run(place, removal.tests, postgres_server.log.parent, removal.seconds)
    if run.code is None:
        assert removal.hangs, f"not done after {removal.seconds:.0f} s:\n{run.output}"
        return
    assert run.code == 1, run.output
    for test in map(function, removal.tests):
        assert test in run.failed, f"{test} does not see that {removal.name}:\n{run.output}"
        assert re.search(removal.sees, run.failed[test]), f"{test} failed for another reason: {run.failed[test]}\n{run.output}"


def test_every_process_of_a_run_imports_the_copy(place: Path, preloaded: Preloaded, postgres_server: embedded.Server) -> None:
    (place / "tests" / "test_place.py").write_text(IMPORTS)
    run = preloaded.run(place, ["tests/test_place.py"], postgres_server.log.parent, 60.0)
    assert run.passed == {"tests/test_place.py::test_place"}, run.output


@pytest.mark.parametrize("removal", [*REMOVALS, *TOGETHER], ids=lambda removal: removal.name)
def test_every_removal_fits_the_package(removal: Removal) -> None:
    """What it edits stands exactly once where it says, and the tests that it names are there."""
    for edit in removal.edits:
        assert edited(ROOT / "embed_pipeline" / edit.file, edit)
    for test in removal.tests:
        file, _, name = function(test).partition("::")
        assert name in functions_of(ROOT / file), test


def test_an_edit_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "twice.py").write_text("pass\npass\n")
    for old in ("pass", "gone"):
        with pytest.raises(ValueError, match="not once"):
            edited(tmp_path / "twice.py", Edit("twice.py", old, ""))


def test_three_seeds_in_a_row_take_out_all() -> None:
    assert sorted(name for seed in range(7, 10) for name in chosen(BY_NAME, "", seed)) == sorted(BY_NAME)


def test_a_name_that_no_protection_has_is_refused() -> None:
    with pytest.raises(ValueError, match="no protection: no_such_one"):
        chosen(BY_NAME, "no_truncate_trigger,no_such_one")


def test_names_of_removals_are_their_own() -> None:
    names = [removal.name for removal in (*REMOVALS, *TOGETHER)]
    assert len(names) == len(set(names))


def test_every_race_has_a_removal() -> None:
    """A removal names one of the tests of each row."""
    named = {function(test) for removal in REMOVALS for test in removal.tests}
    for _, cells in tables(ROOT / "docs/races.md"):
        tests = {f"{file}::{name}" for cell in cells for file, name in TEST.findall(cell)}
        assert tests & named, cells[0]
