"""What a held-out set can prove, looked at before anything is judged: repeated queries, gone documents, judgements of another table. Pure."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from embed_pipeline.evaluate.holdout import Holdout, count_of, some_of

Kind = Literal[
    "missing", "repeated", "own_text", "all_relevant", "few_documents", "few_queries", "baseline", "unasked", "provisional"
]

# Letters, marks, numbers and symbols (C++); the rest is space, punctuation and what nobody sees.
_SAID = frozenset("LMNS")
# A text so much longer than a query cannot be its text.
_LONGER = 4


@dataclass(frozen=True)
class Finding:
    """One thing that is worth knowing of a held-out set, as a sentence. `refuses`: nothing may be judged on it; then `next_step` mends it."""

    kind: Kind
    sentence: str
    refuses: bool = False
    next_step: str | None = None


@dataclass(frozen=True)
class Examined:
    """A held-out set that was looked at: what of it can judge, and what was found.

    `clusters`: query id -> the first query that says the same; in the order of the queries.
    """

    holdout: Holdout
    clusters: dict[str, str]
    findings: tuple[Finding, ...] = ()
    missing: tuple[str, ...] = ()
    judged: int = 0
    _order: dict[str, int] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        for first in self.clusters.values():
            self._order.setdefault(first, len(self._order))

    @property
    def different(self) -> int:
        """Queries that say something different."""
        return len(self._order)

    @property
    def refusal(self) -> Finding | None:
        return next((each for each in self.findings if each.refuses), None)

    def among(self, query_ids: Collection[str]) -> Examined:
        """The same of some of the queries: those of a slice."""
        return replace(self, clusters={query_id: first for query_id, first in self.clusters.items() if query_id in query_ids})

    def by_cluster(self, scores: Mapping[str, float]) -> list[float]:
        """The scores of the queries, with those that say the same averaged: they are one observation, and are drawn together."""
        sums, counts = np.zeros(self.different), np.zeros(self.different)
        for query_id, first in self.clusters.items():
            sums[self._order[first]] += scores[query_id]
            counts[self._order[first]] += 1
        return [float(value) for value in sums / counts]


@dataclass(frozen=True)
class World:
    """What the examination has to know of the documents: how many there are, and the texts of the judged ones that are there."""

    documents: int
    texts: Mapping[str, str]


def examine(holdout: Holdout, world: World, *, max_missing: float, min_queries: int, cutoff: int) -> Examined:
    """Look at a held-out set. `cutoff`: how many hits of a search count."""
    judged = holdout.document_ids()
    missing = sorted(judged - world.texts.keys())
    usable = _without(holdout, set(missing))
    clusters = clustered(usable.queries)
    findings = [
        _provisional(holdout),
        _missing(holdout, usable, missing, len(judged), max_missing),
        _repeated(clusters, min_queries),
        _own_text(usable, world.texts),
        _all_relevant(usable, world.documents, cutoff),
    ]
    return Examined(usable, clusters, tuple(each for each in findings if each is not None), tuple(missing), len(judged))


def explained(examined: Examined, fits: str) -> Examined:
    """With what else the judgements fit, said where too many of their documents are gone."""
    findings = tuple(
        replace(each, sentence=f"{each.sentence} {fits}") if fits and each.kind == "missing" and each.refuses else each
        for each in examined.findings
    )
    return replace(examined, findings=findings)


def normalised(text: str) -> str:
    """A query as it is told from others: without case, space and punctuation."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    said = "".join(each if unicodedata.category(each)[0] in _SAID else " " for each in folded)
    # Of punctuation alone nothing is left to tell.
    return " ".join(said.split()) or folded.strip()


def clustered(queries: Mapping[str, str]) -> dict[str, str]:
    """query id -> the id of the first query that says the same."""
    first: dict[str, str] = {}
    return {query_id: first.setdefault(normalised(text), query_id) for query_id, text in queries.items()}


def written_otherwise(missing: Collection[str], there: Iterable[Sequence[str]]) -> tuple[int, tuple[str, str] | None]:
    """How many of the `missing` ids are ids that are `there` but for how they are written, and one such pair."""
    forms: dict[str, str] = {}
    for doc_id in sorted(missing):
        forms.setdefault(_form(doc_id), doc_id)
    met: dict[str, str] = {}
    for portion in there:
        for doc_id in portion:
            form = _form(doc_id)
            if form and form in forms:
                met.setdefault(form, doc_id)
    pair = min(((forms[form], doc_id) for form, doc_id in met.items()), default=None)
    return sum(_form(doc_id) in met for doc_id in missing), pair


def _form(doc_id: str) -> str:
    """An id without what is often written around it: case, a prefix before its number, zeros that lead, the .0 of a float."""
    plain = doc_id.strip().casefold().removesuffix(".0")
    digits = plain[len(plain.rstrip("0123456789")) :]
    return digits.lstrip("0") or "0" if digits else plain


def _without(holdout: Holdout, missing: set[str]) -> Holdout:
    """Without judgements of documents that are gone, and without queries that have no relevant document left. The set keeps its hash."""
    if not missing:
        return holdout
    left = {
        query_id: {doc_id: grade for doc_id, grade in judged.items() if doc_id not in missing}
        for query_id, judged in holdout.judgements.items()
    }
    kept = {query_id: judged for query_id, judged in left.items() if any(judged.values())}
    return replace(holdout, queries={query_id: holdout.queries[query_id] for query_id in kept}, judgements=kept)


def _provisional(holdout: Holdout) -> Finding | None:
    if not holdout.provisional:
        return None
    return Finding(
        "provisional",
        "The held-out set is provisional: its queries were made out of documents, and nobody asked or judged them. It finds what is broken; "
        "that one version is as good as another for people, it cannot show.",
    )


def _missing(holdout: Holdout, usable: Holdout, missing: list[str], judged: int, allowed: float) -> Finding | None:
    if not missing:
        return None
    named = f"{count_of(len(missing), 'document')} of the {judged} judged {'is' if len(missing) == 1 else 'are'} not in the documents table"
    if len(missing) > allowed * judged or not usable.queries:
        return Finding(
            "missing",
            f"{named}, more than holdout.max_missing {allowed:.0%} allows: {some_of(missing)}.",
            refuses=True,
            next_step="Remove their judgements from the held-out set, or load the documents.",
        )
    lost = len(holdout.queries) - len(usable.queries)
    with_them = f", and with them {count_of(lost, 'query', 'queries')}" if lost else ""
    return Finding("missing", f"{named}: {some_of(missing)}; their judgements were left out for every version{with_them}.")


def _repeated(clusters: dict[str, str], min_queries: int) -> Finding | None:
    different = len(set(clusters.values()))
    if different == len(clusters):
        return None
    said = f"{len(clusters)} queries are {different} different {'one' if different == 1 else 'ones'} (without case, space and punctuation)"
    if different < min_queries <= len(clusters):
        return Finding(
            "repeated",
            f"{said}, and the gate asks for at least {min_queries}.",
            refuses=True,
            next_step="Add other judged queries, or lower gate.min_queries in defs.yaml.",
        )
    return Finding("repeated", f"{said}, and each counts once.")


def _own_text(usable: Holdout, texts: Mapping[str, str]) -> Finding | None:
    same = 0
    for query_id, query in usable.queries.items():
        relevant = [texts[doc_id] for doc_id, grade in usable.judgements[query_id].items() if grade]
        told = normalised(query)
        same += any(normalised(text) == told for text in relevant if len(text) <= _LONGER * len(query))
    if not same:
        return None
    return Finding(
        "own_text",
        f"{same} of {count_of(len(usable.queries), 'query', 'queries')} {'is' if same == 1 else 'are'} the very text of a relevant document: "
        "whatever a model is worth, it finds that.",
    )


def _all_relevant(usable: Holdout, documents: int, cutoff: int) -> Finding | None:
    everything = [query_id for query_id, judged in usable.judgements.items() if sum(map(bool, judged.values())) >= documents]
    if everything and len(everything) == len(usable.queries):
        return Finding(
            "all_relevant",
            "Every document is relevant to every query: no search could be wrong.",
            refuses=True,
            next_step="Judge documents irrelevant, or leave them out of the judgements.",
        )
    if everything:
        return Finding("all_relevant", f"Every document is relevant to {len(everything)} of the {len(usable.queries)} queries.")
    if documents <= cutoff:
        return Finding(
            "few_documents",
            f"There are {count_of(documents, 'document')}, and {cutoff} hits count: a search leaves out next to nothing.",
        )
    return None
