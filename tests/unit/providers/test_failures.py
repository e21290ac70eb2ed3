"""Failures told apart, for each provider's library and protocol alike: what passes, what is waited for, what stops, what is set aside."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest

from embed_pipeline.embedders import sending
from embed_pipeline.embedders.checked import VersionEmbedder
from embed_pipeline.embedders.metering import Unmetered
from embed_pipeline.errors import EmbedderError, ProviderRefused
from embed_pipeline.spec import AccountSpec
from tests.harness.providers.loopback import Provider
from tests.unit.providers.contract import MODELS, Subject

TEXTS = [f"text number {n}" for n in range(12)]
WORDS = "the words of this provider alone"


@pytest.fixture(params=MODELS)
def subject(request: pytest.FixtureRequest, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> Subject:
    """A service whose waits between tries are too short to be felt."""
    monkeypatch.setattr(sending, "FIRST_WAIT", 0.001)
    return Subject(request.param, provider)


def opened(subject: Subject, **account: object) -> VersionEmbedder:
    settings = AccountSpec.model_validate({"max_tries": 4} | account)
    return VersionEmbedder.open(subject.spec(batch_size=4), account=settings, meter=Unmetered())


def paid(subject: Subject) -> Counter[int]:
    """How often each of TEXTS was paid for, by its number."""
    assert subject.loopback is not None
    bill = subject.loopback.paid(MODELS[subject.name])
    return Counter({n: bill[hashlib.sha256(text.encode()).hexdigest()] for n, text in enumerate(TEXTS)})


def once_each(*without: int) -> Counter[int]:
    return Counter({n: 0 if n in without else 1 for n in range(len(TEXTS))})


@pytest.mark.parametrize("status", [408, 409, 500, 503])
def test_what_may_pass_is_tried_again_and_paid_once(subject: Subject, provider: Provider, status: int) -> None:
    rule = provider.fail("refuse", status=status, skip=1, times=3)
    embedded = opened(subject).embed_documents(TEXTS)
    assert provider.struck(rule) == 3
    assert np.linalg.norm(embedded.vectors, axis=1) == pytest.approx(1)
    assert paid(subject) == once_each()


def test_what_does_not_pass_ends_after_max_tries_in_the_providers_words(subject: Subject, provider: Provider) -> None:
    rule = provider.fail("refuse", status=500, words=WORDS)
    with pytest.raises(EmbedderError) as given_up:
        opened(subject).embed_documents(TEXTS)
    assert not isinstance(given_up.value, ProviderRefused)
    assert WORDS in str(given_up.value)
    assert provider.struck(rule) == 8, "a text and a harmless one, each as often as declared"


@pytest.mark.parametrize("kind", ["reset", "stuck"])
def test_a_silent_provider_is_asked_again(subject: Subject, provider: Provider, kind: str) -> None:
    rule = provider.fail(kind, times=1)
    embedded = opened(subject, timeout_seconds=0.3).embed_documents(TEXTS[:4])
    assert provider.struck(rule) == 1
    assert embedded.rejected == {}


def test_a_rate_limit_is_waited_for_as_long_as_it_says_and_uses_up_no_tries(subject: Subject, provider: Provider) -> None:
    rule = provider.fail("refuse", status=429, retry_after=0.01, times=6)
    embedded = opened(subject, max_tries=1).embed_documents(TEXTS[:4])
    assert provider.struck(rule) == 6
    assert embedded.rejected == {}


@pytest.mark.parametrize("rule", [{"kind": "quota"}, *({"kind": "refuse", "status": status} for status in (401, 403, 404))])
def test_what_holds_for_everything_stops_at_once_in_the_providers_words(
    subject: Subject, provider: Provider, rule: dict[str, object]
) -> None:
    number = provider.fail(**{"words": WORDS} | rule)  # type: ignore[arg-type]
    with pytest.raises(ProviderRefused) as refused:
        opened(subject).embed_documents(TEXTS)
    assert provider.struck(number) == 1, "it was asked once, and not again"
    assert rule["kind"] == "quota" or WORDS in str(refused.value)
    assert provider.billed() == []


def test_a_refused_text_is_set_aside_in_the_providers_words_and_the_others_are_paid_once(
    subject: Subject, provider: Provider
) -> None:
    provider.fail("poison", holds=TEXTS[6])
    embedded = opened(subject).embed_documents(TEXTS)
    assert set(embedded.rejected) == {6}
    assert any(word in embedded.rejected[6] for word in ("safety", "policy"))
    assert not embedded.vectors[6].any()
    assert paid(subject) == once_each(6)
    assert embedded.tokens == sum(entry["tokens"] for entry in provider.billed())


def test_a_provider_that_refuses_every_text_is_not_believed_about_any(subject: Subject, provider: Provider) -> None:
    provider.fail("refuse", status=400, words=WORDS)
    with pytest.raises(ProviderRefused, match=WORDS):
        opened(subject).embed_documents(TEXTS)


# Faults that belong to one text, whether the others of its request are paid for by then, and how many requests it may cost: one of 12
# texts, 2 tries of what may pass (RemoteEmbedder._answer says the bound).
ROW = 3
REFUSED, WHOLE, PASSING = 2 * 4 + 2, 2 * 4 + 4, 2 * 4 + 4 + 2 * 2
OF_ONE_TEXT: list[tuple[dict[str, object], bool, int, str]] = [
    ({"kind": "null"}, True, ROW, "null where a vector should be"),
    ({"kind": "empty"}, True, ROW, "a vector of 0 dimensions"),
    ({"kind": "short"}, True, ROW, "a vector of 2 dimensions"),
    ({"kind": "nan"}, True, ROW, "no finite numbers"),
    ({"kind": "infinite"}, True, ROW, "no finite numbers"),
    ({"kind": "zeros"}, True, ROW, "zeros alone"),
    ({"kind": "too_few"}, False, WHOLE, "with 0 vectors for 1 texts"),
    ({"kind": "not_json"}, False, WHOLE, "no answer of its protocol"),
    ({"kind": "reset"}, True, PASSING, "fails at this one each time"),
    ({"kind": "lost"}, False, PASSING, "fails at this one each time"),
    ({"kind": "refuse", "status": 500, "words": WORDS}, True, PASSING, WORDS),
    ({"kind": "refuse", "status": 503, "words": WORDS}, True, PASSING, WORDS),
    ({"kind": "refuse", "status": 403, "words": f"<html><title>{WORDS}</title></html>"}, True, REFUSED, WORDS),
]


@pytest.mark.parametrize(("fault", "paid_once", "most", "told"), OF_ONE_TEXT, ids=lambda value: str(value)[:40])
def test_what_fails_at_one_text_sets_that_one_aside_and_no_other(
    subject: Subject, provider: Provider, fault: dict[str, object], paid_once: bool, most: int, told: str
) -> None:
    provider.fail(**fault, holds=TEXTS[6] + "!")  # type: ignore[arg-type]
    many = [text + "!" * (n == 6) for n, text in enumerate(TEXTS)]
    embedder = VersionEmbedder.open(subject.spec(), account=AccountSpec(max_tries=2), meter=Unmetered())
    embedded = embedder.embed_documents(many)
    assert set(embedded.rejected) == {6}
    assert told in embedded.rejected[6]
    assert np.linalg.norm(np.delete(embedded.vectors, 6, axis=0), axis=1) == pytest.approx(1)
    assert len(provider.arrivals()) <= most
    if paid_once:
        assert paid(subject) == once_each(6)


@pytest.mark.parametrize("fault", [fault for fault, *_ in OF_ONE_TEXT], ids=lambda value: str(value)[:40])
def test_what_fails_at_everything_sets_no_text_aside(subject: Subject, provider: Provider, fault: dict[str, object]) -> None:
    provider.fail(**fault)  # type: ignore[arg-type]
    embedder = VersionEmbedder.open(subject.spec(), account=AccountSpec(max_tries=2), meter=Unmetered())
    answer = embedder.ask_documents(TEXTS)
    assert isinstance(answer.failure, EmbedderError)
    assert answer.rejected == {}
    assert len(TEXTS) - 1 in answer.unanswered, "a row fault strikes the last row of every answer"
    assert len(provider.arrivals()) <= 4
