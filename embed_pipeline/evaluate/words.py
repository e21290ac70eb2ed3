"""What a person reads for each number of a verdict, and what it says. docs/reference/evidence.md has the same, for people."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """`name`: as Dagster shows it. `plotted`: it changes from verdict to verdict by itself, so that a line over time says something; the others
    are declared, or counts of what was given."""

    name: str
    meaning: str
    plotted: bool = False


MEASURES = {
    "mean_candidate": Words(
        "metric, this version", "mean of the gate's metric over all queries, of the version that was judged", True
    ),
    "mean_baseline": Words("metric, what serves", "the same of what it was compared with", True),
    "difference": Words("difference", "the first less the second; below zero the judged version is worse", True),
    "lower": Words(
        "difference at least", "lower bound of the difference; the gate passes where it is above minus the margin", True
    ),
    "upper": Words(
        "difference at most", "upper bound of the difference; the gate fails where it is not above minus the margin", True
    ),
    "margin": Words("margin", "how much worse is still allowed (gate.margin)"),
    "confidence": Words("confidence", "how sure the two bounds are (gate.confidence)"),
    "queries": Words("queries", "held-out queries that were judged"),
    "queries_written": Words("queries in the file", "held-out queries of the file, also those that could not be judged"),
    "queries_needed": Words("queries that would decide", "of an undecided verdict: about how many queries would probably decide"),
    "missing_documents": Words("judged documents missing", "documents named by the held-out set that are not in the table"),
    "ann_recall": Words(
        "ANN recall, this version", "share of what exact search finds that the ANN index finds, same model", True
    ),
    "ann_recall_baseline": Words("ANN recall, what serves", "the same of what it was compared with", True),
    "exact_candidate": Words(
        "metric by exact search, this version", "the metric without an ANN index: what the model alone is worth", True
    ),
    "exact_baseline": Words("metric by exact search, what serves", "the same of what it was compared with", True),
    "unjudged": Words("unjudged hits", "share of the hits about which the held-out set says nothing", True),
    "overlap": Words(
        "overlap", "share of hits that both have; a better model disagrees, about zero points to a wrong prefix or row", True
    ),
    "search_p50_ms": Words("search p50 (ms)", "half of the gate's searches of this version took no longer", True),
    "search_p95_ms": Words("search p95 (ms)", "of a hundred searches 95 took no longer", True),
    "search_p99_ms": Words("search p99 (ms)", "of a hundred searches 99 took no longer", True),
    "search_p50_ms_baseline": Words("search p50 (ms), what serves", "the same of what it was compared with", True),
    "search_p95_ms_baseline": Words("search p95 (ms), what serves", "the same of what it was compared with", True),
    "search_p99_ms_baseline": Words("search p99 (ms), what serves", "the same of what it was compared with", True),
    "depth": Words("depth", "of refine: how many places of each list are put in order (while_building.depth)"),
    "filled": Words("share filled", "of refine: the share of the documents of which the version had vectors", True),
    "placed": Words("placed by the version", "of refine: how many hits had their place from the version, on average", True),
    "distances_ms": Words("distances (ms)", "of refine: what the second look at the candidates took, the median", True),
    "embedding_ms": Words("embedding a query (ms)", "what the version's model takes for a query", True),
    "agreement_candidate": Words(
        "agreement, judged", "of another route: share of the version's own nearest documents that the judged lists show", True
    ),
    "agreement_baseline": Words("agreement, what serves", "the same of what it was compared with", True),
    "adapter": Words("adapter", "of bridge: the id of the map"),
    "pairs": Words("pairs", "of bridge: the pairs that the map was fitted on"),
    "not found": Words("documents it cannot find", "of bridge: documents that the version that serves has no vector of", True),
}
