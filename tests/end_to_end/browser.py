"""Dagster's pages in a headless Chromium: read as a person reads them, and their buttons pressed."""

from __future__ import annotations

import itertools
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.end_to_end.running import Dagster, wait

if TYPE_CHECKING:
    from playwright.sync_api import Page

NO_CHROMIUM = "there is no chromium on the PATH: apt-get install chromium"
PATIENCE_SECONDS = 300
# What Dagster writes below the name of a check, by whether it passed and, if not, whether it is an error.
STATES = {"Succeeded", "Failed", "Warning", "Not Evaluated"}
RUNS = """query($p: String!) { runsOrError(filter: {pipelineName: $p}, limit: 1) { ... on Runs { results { runId status } } } }"""
BACKFILLS = "{ partitionBackfillsOrError(limit: 1) { ... on PartitionBackfills { results { id status } } } }"
ENDED = ("SUCCESS", "FAILURE", "CANCELED", "COMPLETED_SUCCESS", "COMPLETED_FAILED")


def chromium() -> str | None:
    return shutil.which("chromium")


class Pages:
    """One tab. Runs are waited for over GraphQL, and everything else is read off the page."""

    def __init__(self, page: Page, client: Dagster) -> None:
        self.page, self.client = page, client

    def open(self, path: str) -> None:
        self.page.goto(self.client.url + path)

    def text(self, path: str, wanted: str) -> str:
        """All that the page says, once it says `wanted`."""
        self.open(path)
        self.page.get_by_text(wanted).first.wait_for()
        return self.page.inner_text("body")

    def checks(self, asset: str, names: list[str]) -> dict[str, str]:
        """The checks on an asset, each with its state, as its tab lists them."""
        self.open(f"/assets/{asset}?view=checks")
        # An asset may have others too.
        self.page.get_by_text(re.compile(r"^Checks \(\d+\)$")).wait_for()
        lines = [line for line in self.page.inner_text("body").splitlines() if line.strip()]
        listed = [(name, state) for name, state in itertools.pairwise(lines) if name in names and state in STATES]
        return dict(listed)

    def sentence(self, asset: str, check: str, sentence: str) -> bool:
        """Whether the page of the check says this."""
        self.open(f"/assets/{asset}?view=checks&checkDetail={check}")
        self.page.get_by_text("Latest execution", exact=True).wait_for()
        return sentence in " ".join(self.page.inner_text("body").split())

    def partitions(self, asset: str) -> dict[str, int]:
        """How many partitions are filled, failed and missing, by the words of the asset's tab."""
        self.open(f"/assets/{asset}?view=partitions")
        states = ("Materialized", "Missing", "Failed")
        self.page.get_by_text("Missing", exact=False).first.wait_for()
        lines = self.page.inner_text("body").splitlines()
        counted = {}
        for line in lines:
            for state in states:
                if line.startswith(f"{state} ("):
                    counted[state] = int(line.split("(")[1].split(")")[0].replace(",", ""))
        return counted

    def backfill(self, asset: str) -> str:
        """Materialize, All, Launch backfill: how it ended."""
        before = self._newest(BACKFILLS, "partitionBackfillsOrError", "id")
        self.open(f"/assets/{asset}")
        self.page.get_by_role("button", name="Materialize").first.click()
        dialog = self.page.get_by_role("dialog")
        dialog.get_by_role("button", name="All", exact=True).click()
        dialog.get_by_role("button", name="Launch").click()
        return self._ended(BACKFILLS, "partitionBackfillsOrError", "id", before)

    def materialize(self, job: str) -> str:
        """Materialize all of a job of assets: how its run ended."""
        before = self._newest(RUNS, "runsOrError", "runId", p=job)
        self.open(f"/locations/embed_pipeline/jobs/{job}")
        self.page.get_by_role("button", name="Materialize all").click()
        self._confirm(before, job)
        return self._ended(RUNS, "runsOrError", "runId", before, p=job)

    def launch(self, job: str, config: str = "") -> str:
        """Launch Run of a job that has a launchpad, with this configuration: how it ended."""
        before = self._newest(RUNS, "runsOrError", "runId", p=job)
        self.open(f"/locations/embed_pipeline/jobs/{job}/playground")
        button = self.page.get_by_role("button", name="Launch Run")
        button.wait_for()
        if config:
            self.page.locator(".CodeMirror").first.click()
            self.page.keyboard.press("Control+A")
            self.page.keyboard.insert_text(config)
        button.click()
        return self._ended(RUNS, "runsOrError", "runId", before, p=job)

    def newest_run(self, job: str) -> str:
        return str(self._newest(RUNS, "runsOrError", "runId", p=job))

    def _confirm(self, before: str | None, job: str) -> None:
        """Dagster asks whether one is sure while something upstream was never materialized; after it has asked, or not, the run is there."""
        confirm = self.page.get_by_role("dialog").get_by_role("button", name="Confirm")

        def launched() -> bool | None:
            if confirm.count():
                confirm.click()
            return True if self._newest(RUNS, "runsOrError", "runId", p=job) != before else None

        wait(launched, PATIENCE_SECONDS)

    def _found(self, query: str, field: str, **variables: Any) -> dict[str, Any] | None:
        results = self.client.ask(query, **variables)[field]["results"]
        return dict(results[0]) if results else None

    def _newest(self, query: str, field: str, key: str, **variables: Any) -> str | None:
        found = self._found(query, field, **variables)
        return None if found is None else str(found[key])

    def _ended(self, query: str, field: str, key: str, before: str | None, **variables: Any) -> str:
        def look() -> str | None:
            found = self._found(query, field, **variables)
            new = found is not None and found[key] != before
            return str(found["status"]) if found is not None and new and found["status"] in ENDED else None

        return str(wait(look, PATIENCE_SECONDS))


@contextmanager
def browsing(client: Dagster, scale: float = 1.0) -> Iterator[Pages]:
    """A tab of a browser of its own, until the end of the block."""
    from playwright.sync_api import sync_playwright

    executable = chromium()
    assert executable is not None, NO_CHROMIUM
    with sync_playwright() as playwright:
        # As root, Chromium refuses its sandbox; it sees no pages but those of this Dagster.
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1500, "height": 950}, device_scale_factor=scale)
        page.set_default_timeout(PATIENCE_SECONDS * 1000)
        try:
            yield Pages(page, client)
        finally:
            browser.close()


def until(say: Any, seconds: float = PATIENCE_SECONDS) -> None:
    """Look until nothing differs; else what still differs is the failure."""
    deadline, differs = time.monotonic() + seconds, say()
    while differs and time.monotonic() < deadline:
        time.sleep(2)
        differs = say()
    assert not differs, differs
