"""The application that reads: a process that searches all along and writes down what every answer was ranked by."""

from __future__ import annotations

import random
import time
from pathlib import Path

import psycopg

from embed_pipeline.search import Answer, Searcher
from tests.faults.campaign import models
from tests.faults.campaign.impatient import in_turn
from tests.faults.campaign.load import ANCHORS, anchor_text
from tests.faults.campaign.records import Log, Record

# The oldest pointer that a reader may believe, when it missed the notice of a flip.
REFRESH_SECONDS = 1.0
# Documents that a search asks for.
WANTED = 5


def read(url: str, seed: int, named: list[str], stop: Path, log_file: Path) -> None:
    """One reader, until `stop` exists: mostly by the serving version, now and then by one of `named`."""
    models.exempt = True
    chosen = random.Random(f"{seed} reader")
    with Log(log_file) as log, Searcher("docs", url, refresh_seconds=REFRESH_SECONDS, max_connections=2) as searcher:
        while not stop.exists():
            version = chosen.choice(named) if named and chosen.random() < 0.15 else None
            if chosen.random() < 0.7:
                number = chosen.randint(1, ANCHORS)
                with log.timed("search") as record:
                    record["anchor"] = str(number)
                    _search(searcher, anchor_text(number), version, record)
            else:
                with log.timed("search") as record:
                    _search(searcher, _text_of_somebody(url, chosen), version, record)
            time.sleep(0.005)


def _search(searcher: Searcher, text: str, version: str | None, record: Record) -> None:
    record["asked"] = version
    if version is None:
        # More documents than that are there at any moment.
        record["wanted"] = WANTED
    note(record, searcher.search(text, k=WANTED, version=version))


def note(record: Record, answer: Answer) -> None:
    """What the oracle wants to know of an answer."""
    record |= {
        "version": answer.version,
        "fingerprint": answer.fingerprint,
        "generation": answer.generation,
        "route": [answer.route.version, answer.route.refine],
        "note": answer.note,
        "hits": [(hit.doc_id, hit.distance) for hit in answer.hits],
    }


def _text_of_somebody(url: str, chosen: random.Random) -> str:
    """The text of a document that was there a moment ago, or one that never was."""
    with psycopg.connect(url, autocommit=True) as conn, in_turn(conn):
        rows = conn.execute(
            "SELECT title, body FROM articles WHERE id > %s ORDER BY id LIMIT 1", (chosen.randrange(2_000),)
        ).fetchall()
    texts = [f"{title}\n\n{body}" for title, body in rows if not models.refused(f"{title}{body}")]
    return texts[0] if texts else "nothing like it"
