"""Two indexes, and the declaration of one cannot be read: nothing of the other waits for it."""

from __future__ import annotations

import pytest
import yaml

from tests.database.cli.conftest import Place
from tests.database.cli.test_flow import Run, ok


@pytest.fixture
def beside(place: Place) -> None:
    """An index `shop`, which asks for a variable that is not set here; read before `docs`."""
    declared = yaml.safe_load(place.config.read_text())
    declared["attributes"] |= {"name": "shop", "database_url": "{{ env.SHOP_NOT_SET }}"}
    (place.folder / "a").mkdir()
    (place.folder / "a" / "defs.yaml").write_text(yaml.safe_dump(declared))
    place.whole_folder = True


@pytest.mark.usefixtures("beside")
def test_a_rollback_is_not_held_up_by_another_indexs_declaration(place: Place, run: Run) -> None:
    ok(run("load", "docs", place.write_documents(), "--json"))
    for version in ("v1", "v2"):
        for verb in ("backfill", "gate", "cutover"):
            ok(run(verb, "docs", version, "--json"))
    assert ok(run("rollback", "docs", "--json"))["version"] == "v1"
    asked = run("status", "shop")
    assert asked.code == 2
    assert "SHOP_NOT_SET is not set" in asked.err
    assert f"{place.folder / 'a' / 'defs.yaml'}" in asked.err


@pytest.mark.usefixtures("beside")
def test_status_of_all_shows_the_others_and_a_line_for_the_bad_one(run: Run) -> None:
    shown = run("status")
    assert shown.code == 1
    assert "docs: serves nothing" in shown.out
    (line,) = shown.err.splitlines()
    assert line.startswith("error: The environment variable SHOP_NOT_SET is not set, and ")
    value = run("status", "--json").value
    assert list(value["indexes"]) == ["docs"]
    assert [each["code"] for each in value["unreadable"]] == ["configuration_error"]
