"""No fault with all rules, in any order of steps; without a rule the fault that it prevents. Larger settings are for the soak."""

from __future__ import annotations

import pytest

from tests.model import MODELS
from tests.model.explore import Model, explore


def settings(*, large: bool) -> list[tuple[Model, str]]:
    return [(model, name) for model in MODELS for name, setting in model.settings.items() if setting.large is large]


def rules(*, spare: bool) -> list[tuple[Model, str]]:
    return [(model, name) for model in MODELS for name, rule in model.rules.items() if (rule.missed_in is None) is spare]


def named(value: object) -> str:
    return value.name if isinstance(value, Model) else str(value)


def told(way: tuple[str, ...]) -> str:
    return "\n  ".join(("the shortest way:", *way))


@pytest.mark.parametrize(("model", "setting"), settings(large=False), ids=named)
def test_no_fault_with_all_rules(model: Model, setting: str) -> None:
    outcome = explore(model, model.settings[setting].first)
    assert outcome.fault is None, told(outcome.way)


@pytest.mark.parametrize(("model", "rule"), rules(spare=False), ids=named)
def test_each_rule_is_missed(model: Model, rule: str) -> None:
    where = model.rules[rule].missed_in
    assert where is not None
    outcome = explore(model, model.settings[where].first, model.without(rule))
    assert outcome.fault, f"{outcome.states:,} states of {where} without {rule}, and no fault"


@pytest.mark.parametrize(("model", "limit"), [(model, name) for model in MODELS for name in model.limits], ids=named)
def test_known_limit_is_still_there(model: Model, limit: str) -> None:
    assert explore(model, model.limits[limit].first).fault, "no limit any more: make it a setting"


@pytest.mark.soak
@pytest.mark.parametrize(("model", "setting"), settings(large=True), ids=named)
def test_no_fault_in_large_settings(model: Model, setting: str) -> None:
    outcome = explore(model, model.settings[setting].first)
    assert outcome.fault is None, told(outcome.way)


@pytest.mark.soak
@pytest.mark.parametrize(("model", "rule"), rules(spare=True), ids=named)
def test_spare_rules_are_spare(model: Model, rule: str) -> None:
    for name, setting in model.settings.items():
        if not setting.large:
            outcome = explore(model, setting.first, model.without(rule))
            assert outcome.fault is None, f"{rule} is needed in {name}; {told(outcome.way)}"
