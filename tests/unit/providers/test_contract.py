"""What every provider's embedder does, on the loopback provider and, by `make live`, on the real services: the same cases for each."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from embed_pipeline.embedders.metering import Unmetered
from embed_pipeline.errors import ProviderRefused
from tests.harness.providers.keys import VARIABLES
from tests.unit.providers.contract import DIMENSIONS, LIVE, MODELS, NARROW, Subject, why_not_live

TEXTS = [
    "A heap queue gives the smallest item first.",
    "Der Schlüssel steht nie in einer Fehlermeldung.",
    "def add(a, b):\n    return a + b\n",
    "索引を作り直さずにモデルを替える。",
    "  leading blanks, a tab\tand an emoji 🙂 ",
    "x",
]
WRONG_KEY = "sk-wrong-0123456789abcdef0123456789abcdef"


@pytest.fixture(params=[(place, name) for place in ("loopback", "live") for name in MODELS], ids=lambda param: "-".join(param))
def tested(request: pytest.FixtureRequest) -> Subject:
    place, name = request.param
    if place == "loopback":
        return Subject(name, request.getfixturevalue("provider"))
    reason = why_not_live(name)
    if reason is not None:
        pytest.skip(reason)
    return Subject(name, None)


def test_every_text_has_its_own_vector_in_its_own_place(tested: Subject) -> None:
    embedder = tested.open()
    together = embedder.embed_documents(TEXTS)
    backwards = embedder.embed_documents(TEXTS[::-1])
    assert together.vectors.shape == (len(TEXTS), DIMENSIONS)
    assert together.vectors.dtype == np.float32
    assert together.rejected == {}
    cosines = together.vectors @ backwards.vectors[::-1].T
    assert (np.diag(cosines) > 0.999).all()
    assert (cosines - np.eye(len(TEXTS)) < 0.98).all()
    embedder.close()


def test_tokens_are_those_of_the_bill(tested: Subject) -> None:
    meter = Unmetered()
    embedder = tested.open(meter)
    embedded = embedder.embed_documents(TEXTS)
    assert embedded.tokens == meter.spent().tokens > len(TEXTS)
    if tested.loopback is not None:
        assert embedded.tokens == sum(entry["tokens"] for entry in tested.loopback.billed())
    embedder.close()


def test_a_query_finds_its_document(tested: Subject) -> None:
    embedder = tested.open()
    documents = embedder.embed_documents(TEXTS[:4]).vectors
    query = embedder.embed_query(TEXTS[0])
    assert int(np.argmax(documents @ query)) == 0
    embedder.close()


def test_more_texts_than_one_request_takes_come_back_in_order(tested: Subject) -> None:
    # Cohere's own limit is 96; to exceed that of the others would cost more than it shows.
    embedder = tested.open(batch_size=None if tested.name == "cohere" else 48)
    texts = [f"number {n}" for n in range(100)]
    many = embedder.embed_documents(texts).vectors
    last = embedder.embed_documents(texts[-1:]).vectors[0]
    assert int(np.argmax(many @ last)) == 99
    if tested.loopback is not None:
        assert len(tested.loopback.arrivals()) > 2
    embedder.close()


def test_a_text_that_is_too_long_is_set_aside_with_both_numbers_and_the_others_go_on(tested: Subject) -> None:
    embedder = tested.open(**NARROW.get(tested.name, {}))
    embedded = embedder.embed_documents(["short", "one two three " * 12_000, "short too"])
    ((position, reason),) = embedded.rejected.items()
    assert position == 1
    assert "limit" in reason
    assert sum(character.isdigit() for character in reason) >= 6
    assert np.linalg.norm(embedded.vectors[[0, 2]], axis=1).all()
    embedder.close()


def test_an_empty_text_is_set_aside_and_not_sent(tested: Subject) -> None:
    embedder = tested.open()
    embedded = embedder.embed_documents(["", "a text", " \n"])
    assert set(embedded.rejected) == {0, 2}
    if tested.loopback is not None:
        assert [entry["begins"] for entry in tested.loopback.billed()] == ["a text"]
    embedder.close()


def test_a_wrong_key_stops_in_the_providers_words_and_is_not_repeated(tested: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLES[tested.name], WRONG_KEY)
    if tested.loopback is not None:
        tested.loopback.set(echoes_key=True)
    with pytest.raises(ProviderRefused) as refused:
        tested.open().embed_documents(["a text"])
    told = str(refused.value)
    assert "key" in told.lower() or "token" in told.lower()
    assert WRONG_KEY not in told
    assert VARIABLES[tested.name] in told


def test_an_unknown_model_stops_in_the_providers_words(tested: Subject) -> None:
    embedder = tested.open(model_name="no-such-model-at-all", max_tokens=100)
    with pytest.raises(ProviderRefused, match="no-such-model-at-all"):
        embedder.embed_documents(["a text"])
    embedder.close()


@pytest.mark.parametrize("name", MODELS)
def test_without_make_live_no_real_service_is_asked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLES[name], hashlib.sha256(b"key").hexdigest())
    monkeypatch.delenv(LIVE, raising=False)
    assert why_not_live(name) == "the real service is asked by: make live"
    monkeypatch.setenv(LIVE, "1")
    assert why_not_live(name) is None
    monkeypatch.delenv(VARIABLES[name])
    assert why_not_live(name) == f"no key for {name}: set {VARIABLES[name]} and run: make live"
