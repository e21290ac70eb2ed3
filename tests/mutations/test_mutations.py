"""Mutation testing: every protection is taken out of a copy of the package, one at a time, and what is there for it must fail.

First the tests that are named for it; then the fault campaign, judged by its oracle alone: an oracle that is never seen to object proves
nothing. Which of them a soak takes out says `chosen.py`, what each is and what must object `patches.py`.
"""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path

import pytest

from embed_pipeline.postgres import embedded
from tests.mutations.chosen import chosen
from tests.mutations.pages import FAULTS, RACES, function, page
from tests.mutations.patched import Preloaded
from tests.mutations.patches import HERE, ROOT, Patch, apply, patches, read
from tests.unit.test_docs import functions_of

TESTED = [name for name, patch in patches().items() if patch.sees]
JUDGED = [name for name, patch in patches().items() if patch.scene]
SCENE_SECONDS = 120.0
# The seed that they were seen to fail with, and one migration of it. What hangs without its protection is not waited for as long.
SMALL = {"SOAK_SEED": "20", "SOAK_SECONDS": "0", "CAMPAIGN_STEP_SECONDS": "20"}

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
    get_context("forkserver").set_forkserver_preload(["embed_pipeline"])
    for way in ("spawn", "forkserver"):
        with get_context(way).Pool(1) as pool:
            assert pool.apply(place) == here
    code = "import pathlib, embed_pipeline; print(pathlib.Path(embed_pipeline.__file__).parents[1])"
    for directory in (".", "/"):
        assert subprocess.run([sys.executable, "-c", code], cwd=directory, capture_output=True, text=True).stdout.strip() == here
"""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in SMALL.items():
        monkeypatch.setenv(variable, value)


@pytest.mark.soak
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", chosen(TESTED))
def test_the_tests_fail_without_the_protection(
    place: Path, preloaded: Preloaded, postgres_server: embedded.Server, name: str
) -> None:
    patch = patches()[name]
    apply([patch], place)
    run = preloaded.run(place, list(patch.sees), postgres_server.log.parent, patch.seconds)
    if run.code is None:
        assert patch.hangs, f"not done after {patch.seconds:.0f} s:\n{run.output}"
        return
    assert run.code == 1, run.output
    for test, sees in patch.sees.items():
        failed = run.failed.get(function(test))
        assert failed is not None, f"{test} does not see that {name}:\n{run.output}"
        assert re.search(sees, failed), f"{test} failed for another reason: {failed}\n{run.output}"


@pytest.mark.soak
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", chosen(JUDGED))
def test_the_campaign_fails_without_the_protection(
    place: Path, preloaded: Preloaded, postgres_server: embedded.Server, name: str
) -> None:
    patch = patches()[name]
    apply(taken_out(patch), place)
    run = preloaded.run(place, [patch.scene], postgres_server.log.parent, SCENE_SECONDS)
    if run.code == 0 and not run.passed:
        pytest.skip("the scenario cannot be run here")
    assert run.code == 1, run.output
    assert re.search(patch.objects, run.output), f"it failed for another reason:\n{run.output}"


def taken_out(patch: Patch) -> list[Patch]:
    """The patch, and what stands behind its protection."""
    return [patch, *(patches()[name] for name in patch.together)]


def test_every_process_of_a_run_imports_the_copy(place: Path, preloaded: Preloaded, postgres_server: embedded.Server) -> None:
    (place / "tests" / "test_place.py").write_text(IMPORTS)
    run = preloaded.run(place, ["tests/test_place.py"], postgres_server.log.parent, 60.0)
    assert run.passed == {"tests/test_place.py::test_place"}, run.output


@pytest.mark.parametrize("name", patches())
def test_every_patch_fits(tmp_path: Path, name: str) -> None:
    """The package, with what is taken out together with it; and the tests and the scene that it names are there."""
    patch = patches()[name]
    for file in {file for each in taken_out(patch) for file in each.touched}:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    apply(taken_out(patch), tmp_path)
    for file in tmp_path.rglob("*.py"):
        ast.parse(file.read_text(encoding="utf-8"))
    for test in [*patch.sees, *(test for race in patch.races for test in race.also), *([patch.scene] if patch.scene else [])]:
        named, _, wanted = function(test).partition("::")
        assert wanted in functions_of(ROOT / named), test


def test_a_patch_that_does_not_fit_is_named_with_the_command_that_shows_it(tmp_path: Path) -> None:
    patch = next(iter(patches().values()))
    with pytest.raises(
        ValueError, match=rf"{patch.name} does not fit .*git apply -C1 --recount --check tests/mutations/.*{patch.name}"
    ):
        apply([patch], tmp_path)


DIFF = "\n\n--- a/x.py\n+++ b/x.py\n@@ -1 +1 @@\n-a\n+b\n"
WRONG = {
    "no colon": ("race\n", "line 1 is not `key: value`: race"),
    "an unknown key": ("outside: x\ntests: y", "line 2: there is no key 'tests', only race, test, "),
    "no diff": ("outside: x\n\nnothing", "no diff follows"),
    "twice": ("outside: x\noutside: y", "outside stands there twice"),
    "no race yet": ("heading: x", "heading comes before any race"),
    "half a race": (
        "race: r\nheading: h\ntest: t\nsees: s",
        "a race needs heading, breaks, protection and code, or none of them: r",
    ),
    "a race without a test": ("race: r", "no test sees this race: r"),
    "nothing to see": ("test: t", "no `sees` follows t"),
    "a scene alone": ("scene: t", "scene and objects go together"),
    "inside and outside": ("scene: t\nobjects: o\noutside: why", "it has a scene, and says why it has none"),
    "together with nothing": ("together: x", "together is about a scene"),
    "it hangs a little": ("hangs: no", "hangs is yes, or is left out"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_header_is_named(tmp_path: Path, wrong: str) -> None:
    header, said = WRONG[wrong]
    (tmp_path / "x.patch").write_text(header if "\n\n" in header else header + DIFF)
    with pytest.raises(ValueError, match=rf"x\.patch: {re.escape(said)}"):
        read(tmp_path / "x.patch")


def test_a_header_is_read(tmp_path: Path) -> None:
    lines = [
        "note: two",
        "  lines",
        "test: t[1]",
        "sees: a: b|c",
        "race: r",
        "test: u",
        "test: v",
        "sees: d",
        "seconds: 7",
        "hangs: yes",
    ]
    (tmp_path / "x.patch").write_text("\n".join(lines) + DIFF)
    patch = read(tmp_path / "x.patch")
    assert patch.sees == {"t[1]": "a: b|c", "u": "d", "v": "d"}
    assert (patch.races[0].words, patch.races[0].tests, patch.races[0].is_told) == ("r", ["u", "v"], False)
    assert (patch.name, patch.seconds, patch.hangs, patch.touched, patch.once["note"]) == ("x", 7.0, True, ["x.py"], "two lines")


def test_the_generated_tables_are_current() -> None:
    for file in (RACES, FAULTS):
        assert file.read_text(encoding="utf-8") == page(file), f"{file.name} is not what the patches say. Run: make docs"


def test_three_seeds_in_a_row_take_out_all() -> None:
    assert sorted(name for seed in range(7, 10) for name in chosen(TESTED, "", seed)) == sorted(TESTED)


def test_a_name_that_no_protection_has_is_refused() -> None:
    with pytest.raises(ValueError, match="no protection: no_such_one"):
        chosen(TESTED, "no_truncate_trigger,no_such_one")


def test_every_folder_here_holds_patches() -> None:
    assert {file.parent for file in HERE.rglob("*.patch")} == {
        place for place in HERE.iterdir() if place.is_dir() and place.name[0] != "_"
    }
