"""What a held-out set can prove: each way in which it can fool somebody, as one sentence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from embed_pipeline.evaluate.examine import Examined, World, clustered, examine, normalised, written_otherwise
from embed_pipeline.evaluate.holdout import Holdout
from embed_pipeline.evaluate.verdict import GateRule, judge


def held(queries: dict[str, str], judgements: dict[str, dict[str, int]] | None = None) -> Holdout:
    """Each query has the document of its own id, where nothing else is said."""
    return Holdout(queries, judgements or {each: {each: 1} for each in queries}, "0" * 64)


def look(holdout: Holdout, texts: dict[str, str] | None = None, *, documents: int = 1_000, min_queries: int = 2) -> Examined:
    there = {each: f"a text about {each}" for each in holdout.document_ids()} if texts is None else texts
    return examine(holdout, World(documents, there), max_missing=0.05, min_queries=min_queries, cutoff=10)


def said(examined: Examined) -> list[str]:
    return [f"{'refused: ' if each.refuses else ''}{each.sentence}" for each in examined.findings]


def numbered(count: int, text: str = "query {n}") -> dict[str, str]:
    return {str(n): text.format(n=n) for n in range(count)}


def test_nothing_is_said_of_a_good_set() -> None:
    examined = look(held(numbered(100)))
    assert said(examined) == []
    assert (examined.different, examined.judged, examined.missing) == (100, 100, ())


@pytest.mark.parametrize(("one", "other"), [
    ("Read a file", "read   a FILE?"),
    ("ﬁle — open", "File: open!"),
    ("STRASSE", "Straße"),
    ("C++", " c++ ."),
    ("文件、打开", "文件 打开"),
])  # fmt: skip
def test_queries_that_say_the_same(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)


@pytest.mark.parametrize(("one", "other"), [("c++", "c"), ("a file", "afile"), ("कि", "का"), ("?", "!"), ("1.5", "15")])
def test_queries_that_do_not(one: str, other: str) -> None:
    assert normalised(one) != normalised(other)


def test_one_query_a_thousand_times() -> None:
    examined = look(held(numbered(1_000, "the same")), min_queries=100)
    assert said(examined) == [
        "refused: 1000 queries are 1 different one (without case, space and punctuation), and the gate asks for at least 100."
    ]


def test_queries_forty_times_each() -> None:
    """25 queries look like 1,000. They count as 25, and the interval is that of 25."""
    queries = {str(n): f"query {n % 25}" for n in range(1_000)}
    examined = look(held(queries), min_queries=20)
    assert said(examined) == ["1000 queries are 25 different ones (without case, space and punctuation), and each counts once."]
    random = np.random.default_rng(0)
    losses = random.random(25) < 0.1
    before = dict.fromkeys(queries, 1.0)
    after = {each: float(not losses[int(each) % 25]) for each in queries}
    pairs = examined.by_cluster(before), examined.by_cluster(after)
    assert [len(each) for each in pairs] == [25, 25]
    rule = GateRule("recall@10", 0.2, 0.95, 20)
    alone = judge([1.0] * 25, [float(not each) for each in losses], rule)
    assert judge(*pairs, rule).lower == alone.lower
    assert judge(list(before.values()), list(after.values()), rule).lower > alone.lower + 0.05, "as if there were 1,000"


def test_scores_of_one_cluster_are_averaged() -> None:
    examined = look(held({"a": "one", "b": "two", "c": "ONE"}))
    assert examined.by_cluster({"a": 1.0, "b": 0.25, "c": 0.0}) == [0.5, 0.25]
    assert clustered({"a": "one", "b": "two", "c": "ONE"}) == {"a": "a", "b": "b", "c": "a"}


def test_queries_that_are_their_documents_text() -> None:
    queries = numbered(4)
    texts = {"0": "Query 0.", "1": "query 1 and much more of it", "2": "other", "3": "query 3"}
    assert said(look(held(queries), texts)) == [
        "2 of 4 queries are the very text of a relevant document: whatever a model is worth, it finds that."
    ]
    irrelevant = held({"q": "the text", "r": "r"}, {"q": {"a": 0, "b": 1}, "r": {"b": 1}})
    assert said(look(irrelevant, {"a": "the text", "b": "b"})) == []


def test_a_few_documents_that_are_gone_are_left_out_for_all() -> None:
    queries = numbered(100)
    judgements = {each: {each: 1} for each in queries} | {"0": {"0": 1, "gone": 2}, "1": {"missing": 1}}
    holdout = held(queries, judgements)
    texts = {each: f"a text about {each}" for each in holdout.document_ids() - {"gone", "missing"}}
    examined = look(holdout, texts)
    assert said(examined) == [
        "2 documents of the 101 judged are not in the documents table: 'gone', 'missing'; their judgements were left out for every version, "
        "and with them 1 query."
    ]
    assert len(examined.holdout.queries) == 99
    assert examined.holdout.judgements["0"] == {"0": 1}
    assert examined.holdout.sha256 == holdout.sha256


def test_too_many_documents_that_are_gone() -> None:
    queries = numbered(100)
    texts = dict.fromkeys(list(queries)[6:], "text")
    (refused,) = said(look(held(queries), texts))
    assert refused == (
        "refused: 6 documents of the 100 judged are not in the documents table, more than holdout.max_missing 5% allows: "
        "'0', '1', '2' and 3 more."
    )
    assert said(look(held(queries), dict.fromkeys(list(queries)[5:], "text")))[0].startswith("5 documents of the 100")
    assert look(held({"q": "q"}), {}).refusal is not None, "with nothing left"


def test_every_document_is_relevant() -> None:
    everything = {str(n): 1 for n in range(20)}
    all_of_them = held({"q": "q", "r": "r"}, {"q": everything, "r": everything})
    assert said(look(all_of_them, documents=20)) == [
        "refused: Every document is relevant to every query: no search could be wrong."
    ]
    one_of_them = held({"q": "q", "r": "r"}, {"q": everything, "r": {"1": 1}})
    assert said(look(one_of_them, documents=20)) == ["Every document is relevant to 1 of the 2 queries."]
    assert said(look(held(numbered(3)), documents=10)) == [
        "There are 10 documents, and 10 hits count: a search leaves out next to nothing."
    ]


@pytest.mark.parametrize(("missing", "there", "alike"), [
    (["0001", "0002"], [["1", "2"], ["3"]], 2),
    (["doc-12", "DOC-13"], [["12"], ["13", "14"]], 2),
    (["1.0", "2.0", "x"], [["1", "2"]], 2),
    (["A-b", "c"], [["a-B"]], 1),
    (["a", "b"], [["c"]], 0),
])  # fmt: skip
def test_ids_that_are_written_otherwise(missing: list[str], there: list[list[str]], alike: int) -> None:
    assert written_otherwise(missing, there)[0] == alike


def test_a_provisional_set_says_so() -> None:
    examined = look(replace(held(numbered(100)), provisional=True))
    assert [each.kind for each in examined.findings] == ["provisional"]
    assert said(examined)[0].startswith("The held-out set is provisional: ")
    assert examined.refusal is None
