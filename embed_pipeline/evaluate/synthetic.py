"""A provisional held-out set: a document's own heading or first sentence as the query that should find it. Pure.

Such a query has the document's words, which is what every model finds best: the set shows a wrong prefix, misaligned rows or a broken index, and
not which of two good models people are better off with.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from embed_pipeline.errors import HoldoutError
from embed_pipeline.evaluate.examine import normalised
from embed_pipeline.evaluate.holdout import count_of
from embed_pipeline.evaluate.made import MadeSet

# In words: one says too little to find one document by, and a paragraph is no query.
FEWEST, MOST = 2, 30
# Where a script has no spaces, words cannot be counted.
FEWEST_LETTERS, LONGEST = 4, 240
_MARKS = re.compile(r"^\s*(?:#+|=+|[*-])\s+|\s*[#=]+\s*$")
# The end of a sentence; the three after the bar are full-width.
_END = re.compile(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])")


def query_of(text: str) -> str | None:
    """The heading of a text, or its first sentence; None where it has none that could be asked, or is nothing more than that."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return None
    first = _MARKS.sub("", lines[0])
    query = " ".join(_END.split(first.strip(), maxsplit=1)[0].split())
    if not _is_enough(query) or len(query.split()) > MOST or len(query) > LONGEST:
        return None
    return None if normalised(query) == normalised(text) or "\x00" in query else query


def _is_enough(query: str) -> bool:
    """Two words, or a few letters of a script that has no case and may have no spaces either."""
    return len(query.split()) >= FEWEST or sum(unicodedata.category(each) == "Lo" for each in query) >= FEWEST_LETTERS


def synthetic(texts: Iterable[tuple[str, str]], size: int) -> MadeSet:
    """Up to `size` queries out of documents, (id, text), in their order. HoldoutError where none has a heading or a sentence."""
    found: dict[str, dict[str, int]] = {}
    said: dict[str, str] = {}
    seen = 0
    for doc_id, text in texts:
        if len(found) >= size:
            break
        seen += 1
        query = query_of(text)
        if query is not None:
            # Documents that begin alike are all right answers.
            found.setdefault(said.setdefault(normalised(query), query), {})[doc_id] = 1
    if not found:
        raise HoldoutError(
            "No document has a heading or a first sentence that could be a query.",
            next_step="Write queries with judgements, or take them from a log: embed-pipeline holdout from-log.",
        )
    notes = (
        f"{count_of(len(found), 'query', 'queries')} out of {count_of(seen, 'document')}.",
        "The set is provisional: every query has the words of its document, which every model finds. It shows what is broken, and not which of two "
        "good versions is better; a verdict on it says so.",
    )
    return MadeSet(found, notes, provisional=True)
