"""What it is to take a protection out: edits of the package's text, and the tests that must see it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Edit:
    """One change of the package's text. `old` stands exactly once in `file`, a path from `embed_pipeline/`."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Removal:
    """One protection taken out.

    `tests`: each of them must fail. `sees`: a regular expression that the first line of each failure must match, so that a slip in
    the edit (a syntax error, a missing name) does not pass for a protection that was missed. `hangs`: without it the tests may wait
    for ever, and running out of `seconds` counts as having failed. A name may end in the `[parameters]` of one case.
    """

    name: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]
    sees: str
    hangs: bool = False
    seconds: float = 100.0

    def apply(self, package: Path) -> None:
        """Edit the copy of the package. ValueError when a text does not stand there exactly once."""
        for edit in self.edits:
            file = package / edit.file
            file.write_text(edited(file, edit), encoding="utf-8")


def edited(file: Path, edit: Edit) -> str:
    """The file's text with the edit made."""
    text = file.read_text(encoding="utf-8")
    count = text.count(edit.old)
    if count != 1:
        raise ValueError(f"{edit.file} holds this text {count} times, not once:\n{edit.old}")
    return text.replace(edit.old, edit.new)


def edits_of(name: str, removals: tuple[Removal, ...]) -> tuple[Edit, ...]:
    """The edits of the removal of that name, for one that has more to show by them."""
    return next(removal.edits for removal in removals if removal.name == name)
