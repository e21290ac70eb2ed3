"""Ranking metrics per query, computed by ir-measures (https://ir-measur.es) over rankings put in one defined order.

A ranking is a sequence of (document id, score) in any order, one entry per document; the highest score is the best.
Equal scores are ordered by document id, so that no result depends on the order in which a store happened to answer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from embed_pipeline.errors import ConfigurationError
from embed_pipeline.extras import needed_for

Ranking = Sequence[tuple[str, float]]
Rankings = Mapping[str, Ranking]
Judgements = Mapping[str, Mapping[str, int]]

ALLOWED = "recall@k, nDCG@k, RR@k (also written MRR@k), with k from 1 to 1000"
MAX_CUTOFF = 1000

_NAMES = {"recall": "recall", "r": "recall", "ndcg": "nDCG", "rr": "RR", "mrr": "RR"}


@dataclass(frozen=True)
class Metric:
    """A metric of the first `cutoff` documents: `family` is recall, nDCG or RR. All lie in 0..1, higher is better."""

    family: str
    cutoff: int

    def __str__(self) -> str:
        return f"{self.family}@{self.cutoff}"


def parse_metric(name: str) -> Metric:
    """The metric called `name`, in any case ("recall@10", "MRR@10"); ConfigurationError names the allowed ones."""
    match = re.fullmatch(r"([A-Za-z]+)@([0-9]{1,4})", name)
    if match and match[1].lower() in _NAMES and 1 <= int(match[2]) <= MAX_CUTOFF:
        return Metric(_NAMES[match[1].lower()], int(match[2]))
    raise ConfigurationError(f"There is no metric {name!r}.", next_step=f"Use one of {ALLOWED}.")


def per_query(metric: str, judgements: Judgements, ranking: Rankings) -> dict[str, float]:
    """`metric` of every judged query, in sorted order of the query ids; a query without results scores 0.

    recall@k: relevant documents (grade >= 1) among the first k, over all relevant ones; below 1 if more than k are.
    nDCG@k: gain = grade, discount = log2(rank + 1), ideal over all judged documents (Jarvelin and Kekalainen, TOIS
    2002, as in trec_eval). RR@k: 1 / rank of the first relevant document within k, else 0. Unjudged documents count as
    irrelevant.

    Raises ConfigurationError for an unknown metric, ValueError for a ranking that names a document twice or has a score
    that is not a number.
    """
    with needed_for("A gate"):
        import ir_measures

    wanted = parse_metric(metric)
    measure = {"recall": ir_measures.R, "nDCG": ir_measures.nDCG, "RR": ir_measures.RR}[wanted.family] @ wanted.cutoff
    # Scores -1, -2, ...: the library orders equal scores in its own way, which differs between its metrics.
    run = {
        query_id: {doc_id: -float(rank) for rank, doc_id in enumerate(top(ranking.get(query_id, ()), wanted.cutoff), 1)}
        for query_id in judgements
    }
    scores = dict.fromkeys(sorted(judgements), 0.0)
    for result in ir_measures.iter_calc([measure], {query: dict(judged) for query, judged in judgements.items()}, run):
        scores[result.query_id] = float(result.value)
    return scores


def top(ranking: Ranking, k: int) -> list[str]:
    """The first `k` document ids: highest score first, then by id. ValueError for a repeated document or a NaN."""
    if len({doc_id for doc_id, _ in ranking}) != len(ranking):
        raise ValueError("a ranking names a document twice; collapse chunks into documents first")
    if any(math.isnan(score) for _, score in ranking):
        raise ValueError("a ranking has a score that is not a number")
    return [doc_id for doc_id, _ in sorted(ranking, key=lambda hit: (-hit[1], hit[0]))[:k]]


def unjudged_at_k(judgements: Judgements, ranking: Rankings, k: int) -> float:
    """Share (0..1) of the documents in the first `k` of all judged queries that nobody judged; 0 without results.

    They count as irrelevant. A set judged on one version's results is biased for it; a much higher share on the other
    side shows that.
    """
    shown = [(query_id, doc_id) for query_id in judgements for doc_id in top(ranking.get(query_id, ()), k)]
    return sum(doc_id not in judgements[query_id] for query_id, doc_id in shown) / len(shown) if shown else 0.0
