"""The protections: one patch takes each out of the package, and its header says what must object.

A header is `key: value` lines up to the first blank line; a line that is indented goes on with the one before. Then comes a unified diff.

    note: what the diff does, where it is not plain
    race: what happens at the wrong moment; a row of docs/races.md. What follows, up to the next race, is about this one
    heading: the section of docs/races.md
    breaks: what goes wrong without the protection
    protection: what prevents it
    code: file.py: function            where, from embed_pipeline/; one line each, also of an .sql file and its query
    test: tests/races/test_x.py::test_y[case]    must fail without the protection; one line each
    also: tests/races/test_x.py::test_z          is named in the row, and need not fail
    sees: a regular expression: the first line of the failure of each test above that has none yet must match it, so that a slip in the
      diff (a syntax error, a missing name) does not pass for a protection that was missed
    hangs: yes                         without it the tests may wait for ever, and running out of time counts as having failed
    seconds: 200                       that the tests may take, if not 100
    scene: tests/faults/campaign/test_moments.py::test_moments[writes]   the scenario of the campaign that must fail
    objects: a regular expression that must be found in what the scenario says
    together: no_compare_and_set       another patch, taken out of the scenario too because it stands behind this one; one line each
    outside: why the campaign has no part in it; instead of a scene

Several patches may be about one race: the first of them by its path tells of it, the others say `race` with the same words.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
APPLY = ("git", "apply", "-C1", "--recount")
SECONDS = 100.0
# The campaign on Qdrant is not run without them, and the one on pgvector has no part in them.
WITHOUT_CAMPAIGN = ("qdrant", "stores")

OF_A_RACE = ("heading", "breaks", "protection", "code", "also")
ONCE = ("note", "hangs", "seconds", "scene", "objects", "outside")
KEYS = ("race", "test", "sees", "together", *OF_A_RACE, *ONCE)


@dataclass
class Race:
    """What one patch says about a race: everything, or only its words and which tests see it."""

    words: str
    heading: str = ""
    breaks: str = ""
    protection: str = ""
    code: list[str] = field(default_factory=list)
    tests: list[str] = field(default_factory=list)
    also: list[str] = field(default_factory=list)

    @property
    def is_told(self) -> bool:
        return bool(self.heading)


@dataclass
class Patch:
    """One protection taken out. `sees`: test -> what the first line of its failure must match."""

    file: Path
    races: list[Race] = field(default_factory=list)
    sees: dict[str, str] = field(default_factory=dict)
    together: list[str] = field(default_factory=list)
    once: dict[str, str] = field(default_factory=dict)
    touched: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.file.stem

    @property
    def area(self) -> str:
        return self.file.parent.name

    @property
    def seconds(self) -> float:
        return float(self.once.get("seconds", SECONDS))

    @property
    def hangs(self) -> bool:
        return "hangs" in self.once

    @property
    def scene(self) -> str:
        return self.once.get("scene", "")

    @property
    def objects(self) -> str:
        return self.once.get("objects", "")

    @property
    def outside(self) -> str:
        return self.once.get("outside", "")


def read(file: Path) -> Patch:
    """ValueError with the file and the line where the header is wrong."""
    header, _, diff = file.read_text(encoding="utf-8").partition("\n\n")
    patch = Patch(file, touched=[line[6:] for line in diff.splitlines() if line.startswith("+++ b/")])
    waiting: list[str] = []
    try:
        for key, value in _fields(header):
            _take(patch, waiting, key, value)
        _require_whole(patch, waiting)
    except ValueError as problem:
        raise ValueError(f"{file}: {problem}") from None
    return patch


def _fields(header: str) -> Iterator[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for number, line in enumerate(header.splitlines(), 1):
        if line.startswith(" ") and found:
            found[-1] = (found[-1][0], f"{found[-1][1]} {line.strip()}")
            continue
        key, colon, value = line.partition(": ")
        if not colon or not value.strip():
            raise ValueError(f"line {number} is not `key: value`: {line}")
        if key not in KEYS:
            raise ValueError(f"line {number}: there is no key {key!r}, only {', '.join(KEYS)}")
        found.append((key, value.strip()))
    yield from found


def _take(patch: Patch, waiting: list[str], key: str, value: str) -> None:
    """`waiting`: tests that have no `sees` yet."""
    race = patch.races[-1] if patch.races else None
    if key == "race":
        patch.races.append(Race(value))
    elif key == "test":
        waiting.append(value)
        if race is not None:
            race.tests.append(value)
    elif key == "sees":
        patch.sees |= dict.fromkeys(waiting, value)
        waiting.clear()
    elif key == "together":
        patch.together.append(value)
    elif key in ONCE:
        if key in patch.once:
            raise ValueError(f"{key} stands there twice")
        patch.once[key] = value
    elif race is None:
        raise ValueError(f"{key} comes before any race")
    elif key in ("code", "also"):
        getattr(race, key).append(value)
    elif getattr(race, key):
        raise ValueError(f"{key} of one race stands there twice")
    else:
        setattr(race, key, value)


def _require_whole(patch: Patch, waiting: list[str]) -> None:
    if not patch.touched:
        raise ValueError("no diff follows the header and a blank line")
    if waiting:
        raise ValueError(f"no `sees` follows {waiting[0]}")
    for race in patch.races:
        told = [bool(each) for each in (race.heading, race.breaks, race.protection, race.code)]
        if any(told) and not all(told):
            raise ValueError(f"a race needs heading, breaks, protection and code, or none of them: {race.words}")
        if not race.tests:
            raise ValueError(f"no test sees this race: {race.words}")
    if bool(patch.scene) != bool(patch.objects):
        raise ValueError("scene and objects go together")
    if patch.scene and patch.outside:
        raise ValueError("it has a scene, and says why it has none")
    if patch.together and not patch.scene:
        raise ValueError("together is about a scene, and there is none")
    if patch.once.get("hangs", "yes") != "yes":
        raise ValueError("hangs is yes, or is left out")


@cache
def patches() -> dict[str, Patch]:
    """All of them by name, in the order of their paths. ValueError when one does not fit the others."""
    files = sorted(HERE.glob("*/*.patch"))
    found = {file.stem: read(file) for file in files}
    if len(found) != len(files):
        raise ValueError(f"two patches have one name: {sorted(str(each) for each in files if found[each.stem].file != each)}")
    behind = {name for patch in found.values() for name in patch.together}
    if behind - found.keys():
        raise ValueError(
            f"no patch has the name {', '.join(sorted(behind - found.keys()))}, which is taken out together with another"
        )
    told: dict[str, Patch] = {}
    for patch in found.values():
        if not patch.sees and patch.name not in behind:
            raise ValueError(f"{patch.file}: it names no test, and no other patch takes it out together with itself")
        if patch.sees and not (patch.scene or patch.outside or patch.area in WITHOUT_CAMPAIGN):
            raise ValueError(f"{patch.file}: it needs a scene of the campaign, or says why it is outside of it")
        for race in patch.races:
            if race.is_told and told.setdefault(race.words, patch) is not patch:
                raise ValueError(f"{patch.file} and {told[race.words].file} both tell of this race: {race.words}")
    for patch in found.values():
        for race in patch.races:
            if race.words not in told:
                raise ValueError(f"{patch.file}: no patch tells of this race: {race.words}")
    return found


def apply(taken_out: Sequence[Patch], place: Path) -> None:
    """Take the protections out of the copy of the repository in `place`. ValueError names the one that does not fit."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    # Inside of another repository, git would look for the files there.
    environment["GIT_CEILING_DIRECTORIES"] = str(place.parent)
    for patch in taken_out:
        done = subprocess.run([*APPLY, str(patch.file)], cwd=place, env=environment, capture_output=True, text=True)
        if done.returncode:
            shown = shlex.join([*APPLY, "--check", str(patch.file.relative_to(ROOT))])
            raise ValueError(f"{patch.name} does not fit the package any more. See it by: {shown}\n{done.stderr}")
