"""Packing, counting and splitting by tokens."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embed_pipeline.embedders.chunker import Passage
from embed_pipeline.embedders.fitting import Fitting
from embed_pipeline.embedders.packing import pack
from embed_pipeline.embedders.tokens import ENDS, Estimate, Exact
from embed_pipeline.errors import ConfigurationError
from embed_pipeline.spec import VersionSpec
from tests.harness.real_models import TOKENIZER

TEXTS = st.text(alphabet=st.sampled_from("ab é索🙂.\n "), max_size=200)


@given(st.lists(st.integers(0, 50)), st.integers(1, 7), st.integers(1, 60))
def test_packs_are_all_of_it_in_order_within_both_limits_and_no_smaller_than_needed(
    tokens: list[int], texts: int, most: int
) -> None:
    packs = pack(tokens, texts, most)
    assert [position for part in packs for position in range(len(tokens))[part]] == list(range(len(tokens)))
    for part, after in zip(packs, [*packs[1:], None], strict=False):
        held = tokens[part]
        assert 1 <= len(held) <= texts
        assert sum(held) <= most or len(held) == 1
        if after is not None:
            assert len(held) == texts or sum(held) + tokens[after.start] > most


def test_an_estimate_learns_from_the_bill_and_stays_above_it() -> None:
    counter = Estimate()
    text = "a plain sentence of some words. " * 20
    assert counter.count(text) >= len(text) / 4
    for _ in range(30):
        counter.learn([text], 100)
    assert 100 < counter.count(text) < 120
    for _ in range(30):
        counter.learn([text], len(text))
    assert counter.count(text) == len(text) + ENDS, "never above one token for each byte"


def test_a_text_is_cut_to_the_longest_beginning_that_fits() -> None:
    exact = Exact(TOKENIZER)
    text = "Embeddings of two models live in two spaces, incomparably. " * 10
    beginning = exact.cut(text, 20)
    assert text.startswith(beginning)
    assert exact.count(beginning) == 20
    assert exact.cut(text, exact.count(text)) == text
    assert exact.cut(text, 2) == ""


def fitting(**changed: object) -> Fitting:
    declared = {"provider": "openai", "model_name": "own", "dimensions": 8, "too_long": "chunk", "max_tokens": 20}
    return Fitting(VersionSpec.model_validate(declared | changed))


BY_TOKENIZER, BY_BYTES = fitting(tokenizer_path=TOKENIZER), fitting(document_prefix="passage: ")


@settings(deadline=None)  # the first split imports the splitter
@given(TEXTS, st.booleans())
def test_what_fits_stays_whole_and_parts_fit_and_hold_all_but_white_space(text: str, exactly: bool) -> None:
    split = BY_TOKENIZER if exactly else BY_BYTES
    whole = Passage(0, len(text))
    parts = split.passages(text, whole)
    fits = split._size(text) <= 20
    assert (parts == [whole]) or not fits
    held = {position for start, end in parts for position in range(start, end)}
    assert all(text[position].isspace() for position in set(range(len(text))) - held)
    assert parts == sorted(parts)
    for start, end in parts:
        assert split._size(text[start:end]) <= 20 or end - start == 1 or not text[start:end].strip()


def test_the_limit_and_the_tokenizer_decide_where_a_text_is_split_and_so_the_space() -> None:
    assert len({BY_TOKENIZER.identity(), BY_BYTES.identity(), fitting(max_tokens=21).identity()}) == 3
    assert fitting().identity() == BY_BYTES.identity()
    with pytest.raises(ConfigurationError, match="Declare max_tokens"):
        fitting(max_tokens=None)
