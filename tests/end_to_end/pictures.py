"""`make pictures`: every picture of the documentation drawn anew: the demo's by a run of it, Dagster's pages by headless Chromium.

    python -m tests.end_to_end.pictures [recall] [graph] [serving] [verdict] [refused]

Without names all of them. The pages are those of an index whose v1 serves and whose v2 has been judged; a shop's v2 beside it is refused.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from embed_pipeline.postgres import embedded
from embed_pipeline.postgres.home import HOME_VARIABLE
from tests.end_to_end.browser import NO_CHROMIUM, Pages, browsing, chromium, until
from tests.end_to_end.running import ROOT, running

IMAGES = ROOT / "docs" / "images"
SEED = 3
QUERIES = 300
# Pages are drawn by so many pixels of the screen to one of the layout, so that letters are sharp where a page is shown small.
SCALE = 1.5
DEFS = """
type: embed_pipeline.EmbeddingIndex
attributes:
  name: {name}
  partitions: 8
  versions:
    v1: {{provider: "tests.harness.fakes:WordsEmbedder", model_name: words-small, dimensions: 32, options: {{salt: a, drop: 0.3}}}}
    v2: {{provider: "tests.harness.fakes:WordsEmbedder", model_name: words-large, dimensions: {dimensions}, options: {{salt: b, drop: {drop}}}}}
  holdout: {{path: "{holdout}"}}
  gate: {{min_queries: 100, margin: 0.02}}
"""
COLOURS = ("red", "blue", "fast", "slow", "cold", "warm", "old", "new", "long", "short")
THINGS = ("car", "tree", "house", "boat", "river", "stone", "bird", "lamp", "road", "wheel")
WORDS = [colour + thing for colour in COLOURS for thing in THINGS]


def main(wanted: list[str]) -> None:
    if chromium() is None:
        sys.exit(NO_CHROMIUM)
    chosen = wanted or ["recall", *DRAWN]
    with tempfile.TemporaryDirectory() as place:
        os.environ[HOME_VARIABLE] = str(Path(place) / "home")
        try:
            if "recall" in chosen:
                subprocess.run([sys.executable, "-m", "embed_pipeline.cli.main", "demo"], cwd=ROOT, check=True)
                (drawn,) = Path(place).glob("home/**/recall.png")
                shutil.copy(drawn, IMAGES / "recall.png")
            if DRAWN.keys() & set(chosen):
                _pages(Path(place), [name for name in DRAWN if name in chosen])
        finally:
            embedded.stop(Path(place) / "home")


def _pages(place: Path, chosen: list[str]) -> None:
    docs = _index(place, "docs", 1_500, dimensions=64, drop=0.05)
    shop = _index(place, "shop", 400, dimensions=16, drop=0.5)
    url = embedded.ensure_running().url()
    project = place / "project"
    with running(project, docs, url, shop=shop) as client, browsing(client, scale=SCALE) as pages:
        for name in ("docs", "shop"):
            _cli(project, "load", name, str(place / f"{name}.jsonl"))
            for version in ("v1", "v2"):
                _cli(project, "backfill", name, version)
                if version == "v1":
                    _cli(project, "gate", name, version)
                    _cli(project, "cutover", name, version, "--reason", "first version")
        assert pages.materialize("docs__v2_gate") == "SUCCESS"
        assert pages.materialize("docs__v2_cutover") == "SUCCESS"
        assert pages.materialize("shop__v2_gate") == "FAILURE"
        for name in chosen:
            pages.page.set_viewport_size({"width": 1300, "height": 800})
            DRAWN[name](pages)
            pages.page.screenshot(path=IMAGES / f"{name}.png")
            print(IMAGES / f"{name}.png")


def _index(place: Path, name: str, documents: int, *, dimensions: int, drop: float) -> str:
    """Writes what is loaded and what is asked, and gives the declaration."""
    drawn = random.Random(SEED)
    texts = {f"d{number:04}": " ".join(drawn.choices(WORDS, k=14)) for number in range(documents)}
    (place / f"{name}.jsonl").write_text("\n".join(json.dumps({"id": key, "text": text}) for key, text in texts.items()))
    holdout = place / f"{name}-holdout.jsonl"
    asked = [
        {"query": " ".join(drawn.sample(texts[key].split(), 5)), "doc_id": key} for key in drawn.sample(sorted(texts), QUERIES)
    ]
    holdout.write_text("\n".join(json.dumps(row) for row in asked))
    return DEFS.format(name=name, dimensions=dimensions, drop=drop, holdout=holdout)


def _cli(project: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "embed_pipeline.cli.main", *arguments], cwd=project, check=True)


def _graph(pages: Pages) -> None:
    """The nodes of the version that serves, in its group."""
    until(
        lambda: (
            "" if "v2 serves" in pages.text("/assets/docs/serving", "Latest check results") else "the sensor has not looked yet"
        )
    )
    pages.page.set_viewport_size({"width": 1500, "height": 620})
    pages.text("/asset-groups", "docs__v2")
    pages.page.get_by_text("Hide navigation").click()
    pages.page.get_by_text("docs__v2", exact=True).last.dblclick()
    pages.page.get_by_text("evaluation", exact=True).last.wait_for()
    pages.page.wait_for_timeout(5_000)


def _serving(pages: Pages) -> None:
    until(
        lambda: (
            ""
            if "v2 serves" in pages.text("/assets/docs/serving?view=events", "Description")
            else "the sensor has not looked yet"
        )
    )


def _verdict(pages: Pages) -> None:
    pages.text("/assets/docs/v2/evaluation?view=checks&checkDetail=held_out_recall", "Latest execution")
    pages.page.get_by_text("Show more").first.click()
    pages.page.wait_for_timeout(2_000)


def _refused(pages: Pages) -> None:
    pages.text(f"/runs/{pages.newest_run('shop__v2_gate')}", "RUN_FAILURE")
    pages.page.wait_for_timeout(2_000)


DRAWN: dict[str, Callable[[Pages], None]] = {"graph": _graph, "serving": _serving, "verdict": _verdict, "refused": _refused}


if __name__ == "__main__":
    main(sys.argv[1:])
