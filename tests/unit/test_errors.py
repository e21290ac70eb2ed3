"""Errors for programs: a code for each class, fields, and one word for the reason of a refusal; and the page that lists them."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator

import pytest

from embed_pipeline.errors import (
    AdapterRefused,
    AnotherLedger,
    ChangesOvertook,
    CutoverRefused,
    EmbedPipelineError,
    GateRefused,
    LossRefused,
    RemoveRefused,
    RetireRefused,
    Stopped,
)
from tests.harness import errors_page
from tests.harness.rooms import PACKAGE
from tests.unit.test_docs import tables

WITH_REASONS = {
    each.__name__: each.code
    for each in (
        AdapterRefused,
        AnotherLedger,
        ChangesOvertook,
        CutoverRefused,
        GateRefused,
        RemoveRefused,
        RetireRefused,
        Stopped,
    )
}


def raised() -> Iterator[tuple[str, str, frozenset[str]]]:
    """(code, reason, other fields) of every place that makes one of these errors."""
    for module in PACKAGE.rglob("*.py"):
        for call in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in WITH_REASONS:
                given = {keyword.arg: keyword.value for keyword in call.keywords}
                reason = given.pop("reason", None)
                assert isinstance(reason, ast.Constant), f"{module}:{call.lineno} gives no reason"
                yield WITH_REASONS[call.func.id], reason.value, frozenset(given) - {"next_step"}


def test_every_reason_is_listed_with_its_fields() -> None:
    listed = {
        (cells[0].strip("`"), cells[1].strip("`"), frozenset(each.strip(" `") for each in cells[2].split(",") if each.strip()))
        for heading, cells in tables(errors_page.PAGE)
        if heading == "Reasons"
    }
    assert listed == set(raised())


def test_every_code_is_listed() -> None:
    assert errors_page.PAGE.read_text(encoding="utf-8") == errors_page.page(), "Run: make docs"
    codes = [each.code for each in errors_page.classes()]
    assert len(codes) == len(set(codes)) > 20


def test_for_a_program() -> None:
    error = LossRefused("Too much.", next_step="Run: that", removed=12, versions=["v1"])
    shown = json.loads(json.dumps(error.as_values()))
    assert shown == {
        "error": "Too much.",
        "code": "loss_refused",
        "next_step": "Run: that",
        "fields": {"removed": 12, "versions": ["v1"]},
    }
    assert str(error) == "Too much. Run: that"


@pytest.mark.parametrize("words", ["a\x00b", "half a \ud83d pair"])
def test_foreign_words_in_fields_can_be_stored(words: str) -> None:
    error = EmbedPipelineError("It failed.", who=words)
    assert "\x00" not in error.fields["who"]
    error.fields["who"].encode()
