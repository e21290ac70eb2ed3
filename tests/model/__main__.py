"""`python -m tests.model [large]`: every setting with all rules, then each rule taken out, with the shortest way to the fault."""

from __future__ import annotations

import sys
from dataclasses import replace

from tests.model import MODELS
from tests.model.explore import Model, Outcome, explore


def whole(model: Model, *, large: bool) -> int:
    """All rules on. Returns how many settings have a fault."""
    faults = 0
    for name, setting in model.settings.items():
        if not setting.large or large:
            outcome = explore(model, setting.first)
            faults += outcome.fault is not None
            show(f"{model.name}, {name}: all rules", outcome, "no fault")
    for name, limit in model.limits.items():
        outcome = explore(model, limit.first)
        faults += outcome.fault is None
        show(f"{model.name}, {name}: a limit. {limit.sentence}", outcome, "NOT THERE ANY MORE")
    return faults


def without_each(model: Model) -> int:
    """Returns how many rules are not missed, plus how many spare ones are."""
    surprises = 0
    for name, rule in model.rules.items():
        if rule.missed_in is not None:
            outcome = explore(model, model.settings[rule.missed_in].first, model.without(name))
            surprises += outcome.fault is None
            show(f"{model.name}, {rule.missed_in}: without {name}. {rule.sentence}", outcome, "NOT MISSED")
            continue
        small = [setting for setting in model.settings.values() if not setting.large]
        outcomes = [explore(model, setting.first, model.without(name)) for setting in small]
        worst = next((each for each in outcomes if each.fault), outcomes[0])
        surprises += worst.fault is not None
        states, seconds = sum(each.states for each in outcomes), sum(each.seconds for each in outcomes)
        show(
            f"{model.name}, everywhere: without {name} (spare). {rule.sentence}",
            replace(worst, states=states, seconds=seconds),
            "not missed",
        )
    return surprises


def show(title: str, outcome: Outcome, otherwise: str) -> None:
    print(f"{title}\n    {outcome.states:,} states, {outcome.seconds:.2f} s: {outcome.fault or otherwise}", flush=True)
    for step in outcome.way:
        print(f"        {step}")


if __name__ == "__main__":
    bad = sum([whole(model, large="large" in sys.argv[1:]) + without_each(model) for model in MODELS])
    print(f"{bad} surprises" if bad else "no surprises")
    sys.exit(1 if bad else 0)
