"""Help, usage and who only looks: what needs no database."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

from embed_pipeline.cli.examples import EXAMPLES, GROUPS
from embed_pipeline.cli.main import cli
from embed_pipeline.postgres import home

ROOT = Path(__file__).parents[3]


def verbs(group: click.Group, before: str = "") -> list[str]:
    found = []
    for name, command in group.commands.items():
        found += verbs(command, f"{before}{name} ") if isinstance(command, click.Group) else [f"{before}{name}"]
    return found


def test_every_verb_stands_in_one_group_and_has_an_example_that_can_be_typed() -> None:
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(cli.commands)
    assert sorted(EXAMPLES) == sorted(verbs(cli))
    for words, example in EXAMPLES.items():
        shown = CliRunner().invoke(cli, [*words.split(), "--help"]).stdout
        assert f"  Example:\n    {example}\n" in shown
        assert understood(example.removeprefix('psql "$(').removesuffix(')"')) == words


def understood(line: str) -> str:
    """The verb that the command line takes this for; a usage error where it takes it for none."""
    program, *typed = shlex.split(line)
    assert program == "embed-pipeline"
    command: click.Command = cli
    context = cli.make_context("embed-pipeline", list(typed), resilient_parsing=True)
    words = []
    while isinstance(command, click.Group):
        words.append(typed.pop(0))
        command = command.commands[words[-1]]
    command.make_context(words[-1], typed, parent=context)
    return " ".join(words)


@pytest.mark.parametrize(("page", "least"), [("docs/runbook.md", 25), ("docs/how-to/mixing-cli-and-dagster.md", 4)])
def test_every_command_of_a_page_for_bad_hours_can_be_typed(page: str, least: int) -> None:
    text = (ROOT / page).read_text()
    commands = [*re.findall(r"`(embed-pipeline [^`]+)`", text), *re.findall(r"^(embed-pipeline [^#\n]+)", text, re.MULTILINE)]
    assert len(commands) >= least
    for command in commands:
        assert understood(command) in EXAMPLES, command


def test_help_is_not_cut() -> None:
    shown = CliRunner().invoke(cli, ["--help"], terminal_width=80).stdout
    assert "..." not in shown.replace("[ARGS]...", "")
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize(
    "typed",
    [
        ["retire", "docs", "--json"],
        ["status", "--shiny", "--json"],
        ["stauts", "--json"],
        ["status", "--check", "--watch", "--json"],
    ],
)
def test_wrong_usage_is_json_where_that_was_asked_for(typed: list[str]) -> None:
    ran = CliRunner().invoke(cli, typed)
    said = json.loads(ran.stdout)
    assert (ran.exit_code, said["code"]) == (2, "usage")
    assert said["error"]
    assert said["next_step"].startswith("Run: ")
    assert CliRunner().invoke(cli, typed[:-1]).stdout == ""


@pytest.mark.parametrize("typed", [["status", "docs"], ["health", "docs"], ["history", "docs"], ["search", "docs", "words"]])
def test_a_server_that_was_stopped_stays_so_for_who_only_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: list[str]
) -> None:
    monkeypatch.setenv(home.HOME_VARIABLE, str(tmp_path))
    (tmp_path / "postgres").mkdir()
    version = {"provider": "tests.harness.fakes:WordsEmbedder", "model_name": "w", "dimensions": 8}
    declared = {"type": "embed_pipeline.EmbeddingIndex", "attributes": {"name": "docs", "versions": {"v1": version}}}
    (tmp_path / "defs.yaml").write_text(yaml.safe_dump(declared))
    ran = CliRunner().invoke(cli, [*typed, "--config", str(tmp_path / "defs.yaml")])
    assert (ran.exit_code, ran.stdout) == (1, "")
    assert ran.stderr == (
        "error: The embedded PostgreSQL is stopped, and who only looks does not start it. Run: embed-pipeline db start\n"
    )
    assert [each.name for each in (tmp_path / "postgres").iterdir()] == []
