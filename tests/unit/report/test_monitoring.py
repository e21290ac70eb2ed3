"""docs/monitoring against the exporter: the table, the alert rules and the dashboard name what it says, and promtool accepts them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

pytest.importorskip("prometheus_client")

from embed_pipeline.report.attention import CODES
from embed_pipeline.report.exporter import METRICS, PREFIX

PAGES = Path(__file__).resolve().parents[3] / "docs" / "monitoring"


def rules() -> list[dict[str, str]]:
    found: list[dict[str, str]] = yaml.safe_load((PAGES / "alerts.yaml").read_text(encoding="utf-8"))["groups"][0]["rules"]
    return found


def shown() -> list[str]:
    """Every expression of the dashboard."""
    dashboard = json.loads((PAGES / "dashboard.json").read_text(encoding="utf-8"))
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def named(expressions: list[str]) -> Iterator[tuple[str, str]]:
    """Each metric that is asked for, and the labels that it is selected by."""
    for expression in expressions:
        yield from re.findall(r"\b(embed_pipeline_\w+)(?:\{([^}]*)\})?", expression)


def test_the_page_has_every_metric_with_its_labels() -> None:
    page = (PAGES / "README.md").read_text(encoding="utf-8")
    wanted = [f"| `{name}` | {', '.join(f'`{each}`' for each in kind.labels)} | {kind.help} |" for name, kind in METRICS.items()]
    assert page.split("|---|---|---|\n")[-1].splitlines() == wanted


def test_rules_and_dashboard_ask_for_what_is_exported() -> None:
    asked = list(named([*(each["expr"] for each in rules()), *shown()]))
    assert len(asked) > len(rules())
    for metric, selectors in asked:
        kind = METRICS[metric.removeprefix(PREFIX)]
        assert set(re.findall(r"(\w+)[!=]", re.sub(r'"[^"]*"', "", selectors))) <= set(kind.labels), metric


def test_every_word_of_what_needs_a_person_alarms() -> None:
    """By a rule that selects it, or by one of a number that says the same."""
    by_code = [(sign, words.split("|")) for rule in rules() for sign, words in re.findall(r'code(=~|!~)"([^"]*)"', rule["expr"])]
    (_, critical), (_, apart) = sorted(by_code, reverse=True)
    assert {sign for sign, _ in by_code} == {"=~", "!~"}
    assert set(critical) | set(apart) <= set(CODES)
    assert set(apart) - set(critical) == {"queue", "bypassed", "reader_left_behind"}, "a rule of its own each"
    assert set(critical) <= set(apart), "one alarm, not two"


@pytest.mark.soak
def test_promtool_accepts_rules_their_tests_and_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not on the PATH: apt-get download prometheus, dpkg-deb -x, and put its usr/bin there")
    recorded = [
        {"record": f"panel:{n}", "expr": expression.replace("$index", ".*")} for n, expression in enumerate(shown(), start=1)
    ]
    panels = tmp_path / "panels.yaml"
    panels.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": recorded}]}), encoding="utf-8")
    for words in (["check", "rules", "alerts.yaml", str(panels)], ["test", "rules", "alerts_test.yaml"]):
        ran = subprocess.run(["promtool", *words], cwd=PAGES, capture_output=True, text=True, timeout=120, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
