"""What is asked again, what is set aside and what stops: a provider's failures, told apart, against the loopback provider."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from embed_pipeline.embedders import remote, sending
from embed_pipeline.embedders.checked import VersionEmbedder
from embed_pipeline.embedders.metering import Headroom, Ticket, Unmetered
from embed_pipeline.embedders.protocol import Urgency
from embed_pipeline.errors import ConfigurationError, EmbedderError, ProviderRefused, Stopped
from embed_pipeline.spec import AccountSpec, VersionSpec
from tests.harness.providers.loopback import Provider
from tests.harness.real_models import TOKENIZER

MODEL = "text-embedding-3-small"
Open = Callable[..., VersionEmbedder]


class Recording(Unmetered):
    """A meter that keeps what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[str, int | float | None]] = []
        self.urgencies: set[Urgency] = set()

    def admit(self, urgency: Urgency, tokens: int) -> Ticket:
        self.urgencies.add(urgency)
        return super().admit(urgency, tokens)

    def answered(self, ticket: Ticket, tokens: int, headroom: Headroom | None = None) -> None:
        self.told.append(("answered", tokens))
        super().answered(ticket, tokens, headroom)

    def failed(
        self, ticket: Ticket, *, retry_after: float | None = None, headroom: Headroom | None = None, too_fast: bool = False
    ) -> None:
        self.told.append(("too fast" if too_fast else "failed", retry_after))


@pytest.fixture
def opened(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> Open:
    """A version on the loopback provider whose waits are short."""
    monkeypatch.setattr(sending, "FIRST_WAIT", 0.01)

    def opened(
        name: str = "openai", *, meter: Unmetered | None = None, account: dict[str, Any] | None = None, **fields: Any
    ) -> Any:
        model = {"openai": MODEL, "cohere": "embed-english-v3.0", "voyage": "voyage-3.5"}[name]
        dimensions = {"openai": 16, "cohere": 1024, "voyage": 1024}[name]
        base = {"provider": name, "model_name": model, "dimensions": dimensions, "base_url": provider.base_url(name)}
        spec = VersionSpec.model_validate(base | fields)
        return VersionEmbedder.open(spec, name="v2", account=AccountSpec(**({"max_tries": 4} | (account or {}))), meter=meter)

    return opened


def texts(count: int) -> list[str]:
    return [f"text number {n}" for n in range(count)]


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_failures_that_pass_are_tried_again_and_everything_is_paid_once(provider: Provider, opened: Open) -> None:
    provider.fail("refuse", status=503, rate=0.4, seed=1)
    meter = Recording()
    many = texts(30)
    answer = opened(batch_size=2, meter=meter, account={"max_tries": 50}).embed_documents(many, Urgency.LIVE)
    assert answer.rejected == {}
    assert provider.paid(MODEL) == {sha(text): 1 for text in many}
    assert answer.tokens == meter.spent().tokens == sum(entry["tokens"] for entry in provider.billed())
    assert ("failed", None) in meter.told
    assert meter.urgencies == {Urgency.LIVE}


def test_what_does_not_pass_stops_after_the_declared_tries(provider: Provider, opened: Open) -> None:
    rule = provider.fail("refuse", status=500, words="our disk is full")
    with pytest.raises(EmbedderError, match=r"did not answer, 4 times in a row: our disk is full\. Run the same command"):
        opened().embed_documents(["a text"])
    assert provider.struck(rule) == 8, "the text and the harmless one, each as often as declared"


def test_an_answer_that_never_came_is_counted_because_it_may_be_billed(provider: Provider, opened: Open) -> None:
    provider.fail("lost", times=1)
    meter = Recording()
    opened(meter=meter).embed_documents(["a text of some length"])
    assert [what for what, _ in meter.told] == ["answered", "answered"]
    assert meter.spent().tokens >= sum(entry["tokens"] for entry in provider.billed())


def test_a_rate_limit_is_told_to_the_meter_and_waited_for(provider: Provider, opened: Open) -> None:
    provider.fail("refuse", status=429, words="Please try again in 20ms.", times=2)
    meter = Recording()
    answer = opened(meter=meter, account={"max_tries": 1}).embed_documents(["a text"])
    assert answer.rejected == {}
    assert meter.told == [("too fast", 0.02), ("too fast", 0.02), ("answered", answer.tokens)]


def test_a_rate_limit_without_an_end_stops_in_the_providers_words(provider: Provider, opened: Open) -> None:
    provider.fail("refuse", status=429, words="Slow down. Try again in 2h.")
    with pytest.raises(EmbedderError, match=r"asks for 7200 s more: Slow down"):
        opened().embed_documents(["a text"])


@pytest.mark.parametrize(("kind", "status"), [("refuse", 403), ("refuse", 404), ("quota", 429)])
def test_what_is_refused_for_everything_stops_at_once(provider: Provider, opened: Open, kind: str, status: int) -> None:
    rule = provider.fail(kind, status=status)
    with pytest.raises(
        ProviderRefused, match=rf"openai, model {MODEL}, refuses everything \(status {status}\): .* the same command resumes"
    ):
        opened().embed_documents(texts(3))
    assert provider.struck(rule) == 1


def test_refused_texts_are_found_and_set_aside_and_the_others_are_paid_once(provider: Provider, opened: Open) -> None:
    provider.fail("poison", holds="poison")
    many = texts(40)
    many[7] = many[8] = many[30] = "poison"
    answer = opened().embed_documents(many)
    assert list(answer.rejected) == [7, 8, 30]
    assert answer.rejected[7] == "refused by openai: Your request was rejected as a result of our safety system."
    paid = provider.paid(MODEL)
    assert paid.pop(sha(remote.PROBE)) == 2, "a harmless text proves that not everything is refused, before and after"
    assert paid == {sha(text): 1 for text in many if text != "poison"}
    alone = opened(batch_size=1).embed_documents([text for text in many if text != "poison"]).vectors
    np.testing.assert_array_equal(np.delete(answer.vectors, [7, 8, 30], axis=0), alone)


def test_a_refusal_of_everything_is_no_refusal_of_texts(provider: Provider, opened: Open) -> None:
    """400 for whatever is asked: without the harmless text every document would become a dead letter."""
    rule = provider.fail("refuse", status=400, words="This endpoint moves house today.")
    with pytest.raises(
        ProviderRefused, match=r"refuses every text, a harmless one too \(status 400\): This endpoint moves house"
    ):
        opened().embed_documents(texts(3))
    assert provider.struck(rule) == 2


def test_a_refusal_of_everything_that_begins_among_refused_texts_makes_no_dead_letters(provider: Provider, opened: Open) -> None:
    provider.fail("poison", holds="poison")
    # After: the whole, the harmless text, the half with the bad text, the bad text, its neighbour.
    provider.fail("refuse", status=400, words="This endpoint moves house today.", skip=5)
    answer = opened().ask_documents(["poison", *texts(3)])
    with pytest.raises(ProviderRefused, match="a harmless one too"):
        answer.whole()
    assert answer.rejected == {}
    assert answer.unanswered == {0, 2, 3}


def test_what_was_answered_before_a_failure_is_handed_over_and_is_not_paid_for_again(provider: Provider, opened: Open) -> None:
    many = ["poison", *texts(6), " "]
    provider.fail("poison", holds="poison")
    # The whole is refused, the harmless text answered, the half with the bad text refused, and of the rest some are answered.
    forbidden = provider.fail("refuse", status=403, holds="number 5")
    embedder = opened()
    paid = embedder.ask_documents(many)
    assert isinstance(paid.failure, ProviderRefused)
    answered = [n for n in range(len(many)) if n not in paid.rejected and n not in paid.unanswered]
    assert 7 in paid.rejected
    assert answered
    assert 6 in paid.unanswered
    provider.lift(forbidden)
    rest = embedder.embed_documents([many[n] for n in sorted(paid.unanswered)])
    assert rest.rejected.keys() <= {0}
    bill = provider.paid(MODEL)
    assert all(bill[sha(text)] == 1 for text in texts(6))
    np.testing.assert_allclose(np.linalg.norm(paid.vectors[answered], axis=1), 1, atol=1e-6)


def test_most_of_a_batch_refused_is_no_refusal_of_texts(provider: Provider, opened: Open) -> None:
    provider.fail("poison", holds="number")
    with pytest.raises(
        ProviderRefused, match=r"refuses most of a batch, 6 of 10 texts so far \(status 400\): Your request was rejected"
    ):
        opened().embed_documents(texts(10))
    few = opened().embed_documents([*texts(4), "fine"])
    assert list(few.rejected) == [0, 1, 2, 3], "of a few texts all may be bad"


@pytest.mark.parametrize("name", ["openai", "cohere", "voyage"])
def test_texts_that_are_too_long_are_set_aside_with_both_numbers(provider: Provider, opened: Open, name: str) -> None:
    embedder = opened(name)
    provider.serve(name, embedder.spec.model_name, max_tokens=100)
    many = [*texts(20), "y" * 4_000, *texts(10), "z" * 5_000]
    answer = embedder.embed_documents(many)
    assert list(answer.rejected) == [20, 31]
    if name == "voyage":  # it says the limit alone
        assert answer.rejected[20].startswith("about ")
        assert answer.rejected[20].endswith(" tokens, the limit is 100")
    else:
        assert answer.rejected[20] == "1000 tokens, the limit is 100"
    paid = provider.paid(embedder.spec.model_name)
    assert paid == {sha(text): many.count(text) for text in many if len(text) < 4_000}, "and no harmless text was needed"


def test_a_tokenizer_counts_before_anything_is_asked(provider: Provider, opened: Open) -> None:
    answer = opened(tokenizer_path=TOKENIZER, max_tokens=10).embed_documents(["short", "one two three " * 5])
    assert answer.rejected == {1: "17 tokens, the limit is 10"}
    assert [entry["begins"] for entry in provider.billed()] == ["short"]


@pytest.mark.parametrize("name", ["cohere", "voyage"])
def test_what_the_provider_cuts_is_known_and_what_it_does_not_cut_is_not_said_to_be(
    provider: Provider, opened: Open, name: str
) -> None:
    embedder = opened(name, too_long="truncate")
    provider.serve(name, embedder.spec.model_name, max_tokens=100)
    long = "".join(f"{n} " for n in range(500))
    answer = embedder.embed_documents(["a", long, "b"])
    assert (answer.truncated, answer.rejected) == ({1}, {})
    other = opened(name, too_long="truncate").embed_documents([long[:400]])
    np.testing.assert_array_equal(answer.vectors[1], other.vectors[0])
    assert other.truncated == frozenset()


def test_what_is_cut_here_ends_where_a_token_does(provider: Provider, opened: Open) -> None:
    answer = opened(too_long="truncate", tokenizer_path=TOKENIZER, max_tokens=5).embed_documents(
        ["one two three four five", "short"]
    )
    assert (answer.truncated, answer.rejected) == ({0}, {})
    assert [entry["begins"] for entry in provider.billed()] == ["one two three", "short"]
    with pytest.raises(ConfigurationError, match="Declare tokenizer_path and max_tokens"):
        opened(too_long="truncate")


@pytest.mark.parametrize("too_long", ["truncate", "chunk"])
def test_who_cuts_and_by_which_tokenizer_is_part_of_the_space(opened: Open, too_long: str) -> None:
    by_us = opened("cohere", too_long=too_long, tokenizer_path=TOKENIZER, max_tokens=512).fingerprint
    by_provider = opened("cohere", too_long=too_long, max_tokens=512).fingerprint
    assert by_us != by_provider
    rejecting = {"max_tokens": 512}
    assert opened("cohere", **rejecting).fingerprint == opened("cohere", tokenizer_path=TOKENIZER, **rejecting).fingerprint


def test_a_request_that_is_too_large_is_halved_and_the_next_ones_are_smaller(provider: Provider, opened: Open) -> None:
    provider.serve("openai", MODEL, request_texts=10)
    embedder = opened()
    many = texts(64)
    embedder.embed_documents(many)
    assert provider.paid(MODEL) == {sha(text): 1 for text in many}
    assert max(part.stop - part.start for part in embedder.cut(embedder.count(many))) == 8
    before = len(provider.arrivals())
    embedder.embed_documents(many)
    assert len(provider.arrivals()) - before == 8


def test_packs_are_within_what_the_provider_and_the_account_allow(opened: Open) -> None:
    long = ["word " * 1_000] * 200  # 5,000 bytes: at most 1,670 tokens each by the first estimate

    def sizes(embedder: VersionEmbedder, of: list[str]) -> list[int]:
        return [part.stop - part.start for part in embedder.cut(embedder.count(of))]

    assert max(sizes(opened(), long)) <= 179, "300,000 tokens in a request"
    assert set(sizes(opened("cohere"), texts(192))) == {96}
    assert sizes(opened(account={"tokens_per_minute": 12_000}), long) == [1] * 200, "a sixth of a minute holds one"


def test_who_waits_before_another_try_is_let_go_by_close(provider: Provider, opened: Open) -> None:
    rule = provider.fail("refuse", status=429, words="Try again in 10m.")
    embedder = opened()
    failed: list[EmbedderError] = []

    def ask() -> None:
        try:
            embedder.embed_documents(["a text"])
        except EmbedderError as exc:
            failed.append(exc)

    thread = threading.Thread(target=ask)
    thread.start()
    provider.wait_struck(rule)
    embedder.close()
    thread.join(10)
    assert [str(exc) for exc in failed] == [f"The embedder of openai, model {MODEL} is closed."]


def test_a_budget_that_says_stop_is_not_a_failure_of_the_provider(provider: Provider, opened: Open) -> None:
    class Spent(Recording):
        def admit(self, urgency: Urgency, tokens: int) -> Ticket:
            raise Stopped("the budget is spent")

    with pytest.raises(Stopped):
        opened(meter=Spent()).embed_documents(["a text"])
    assert provider.arrivals() == []


def test_a_server_that_fails_for_everything_in_the_middle_of_a_search_makes_no_dead_letters(
    provider: Provider, opened: Open
) -> None:
    """The text is at fault, as far as its halves tell; before it is called so, a harmless text has to be taken, and is not."""
    provider.fail("refuse", status=500, holds="poison")
    # After: the whole, the harmless text, the neighbour. From the first try of the bad text alone nothing is taken any more.
    provider.fail("refuse", status=500, words="our disk is full", skip=3)
    answer = opened(account={"max_tries": 1}).ask_documents(["fine", "poison"])
    assert answer.rejected == {}
    assert answer.unanswered == {1}
    assert "our disk is full" in str(answer.failure)


@pytest.mark.parametrize(("strikes", "rejected"), [(4, set()), (5, {1})])
def test_a_text_is_to_blame_when_it_fails_before_and_after_a_harmless_one(
    provider: Provider, opened: Open, strikes: int, rejected: set[int]
) -> None:
    """Twice with its neighbour, twice alone; then a harmless text is taken, and what fails then is no outage that has just ended."""
    provider.fail("refuse", status=500, holds="poison", times=strikes)
    answer = opened(account={"max_tries": 2}).embed_documents(["fine", "poison"])
    assert set(answer.rejected) == rejected
    assert provider.paid(MODEL)[sha("fine")] == 1


def test_a_text_at_which_a_server_stands_still_is_found(provider: Provider, opened: Open) -> None:
    provider.fail("stuck", holds="poison")
    answer = opened(account={"max_tries": 1, "timeout_seconds": 1}).embed_documents(["fine", "poison"])
    assert answer.rejected.keys() == {1}
    assert "imed out" in answer.rejected[1]


def test_a_row_that_nobody_can_store_spares_the_others_of_its_batch(provider: Provider, opened: Open) -> None:
    """One bad text makes every row of its batch NaN, as a server does that computes them together."""
    provider.fail("nan", holds="poison")
    provider.fail("zeros", holds="other poison")
    many = texts(12)
    many[3], many[9] = "poison", "other poison"
    answer = opened().embed_documents(many)
    assert set(answer.rejected) == {3, 9}
    assert {provider.paid(MODEL)[sha(text)] for n, text in enumerate(many) if n not in (3, 9)} == {1}


def test_halves_and_harmless_texts_pass_through_the_meter(provider: Provider, opened: Open) -> None:
    class Counting(Recording):
        admitted = 0

        def admit(self, urgency: Urgency, tokens: int) -> Ticket:
            self.admitted += 1
            if self.admitted > 4:
                raise Stopped("the budget is spent")
            return super().admit(urgency, tokens)

    provider.fail("refuse", status=500, holds="poison")
    meter = Counting()
    answer = opened(meter=meter, account={"max_tries": 1}).ask_documents([*texts(7), "poison"])
    assert isinstance(answer.failure, Stopped)
    assert len(provider.arrivals()) == len(meter.told) == 4
    assert answer.rejected == {}


@pytest.mark.parametrize(
    ("field", "status", "words"),
    [
        ("encoding_format", 400, "unknown variant `base64`, expected `float`"),
        ("encoding_format", 422, "encoding_format: Input should be 'float'"),
        ("dimensions", 400, 'Model "own" does not support matryoshka representation, changing output dimensions will lead to poor results.'),
        ("dimensions", 422, "Extra inputs are not permitted: dimensions"),
    ],
)  # fmt: skip
def test_what_a_server_does_not_take_is_learned_once_and_said(
    provider: Provider, opened: Open, caplog: pytest.LogCaptureFixture, field: str, status: int, words: str
) -> None:
    provider.serve("openai", "own", native=16)
    rule = provider.fail("not_taken", field=field, status=status, words=words)
    embedder = opened(model_name="own", send_dimensions=field == "dimensions" or None)
    answer = embedder.embed_documents(texts(5))
    assert answer.rejected == {}
    assert len(provider.arrivals()) == 4, "all, a harmless text, the same without the field, and all again"
    embedder.embed_documents(texts(5))
    assert len(provider.arrivals()) == 5
    (said,) = embedder.learned
    assert words in said
    assert [record.getMessage() for record in caplog.records if record.name == "embed_pipeline.embedders.remote"] == [said]
    assert provider.struck(rule) == 5


def test_a_text_that_speaks_of_a_field_changes_no_request(provider: Provider, opened: Open) -> None:
    """A provider repeats what the text says: that is no reason to leave out the dimensions."""
    provider.serve("openai", "own", native=16)
    provider.fail("refuse", status=400, holds="poison", words="invalid input: 'poison, dimensions are not supported, no base64'")
    embedder = opened(model_name="own", batch_size=4)
    answer = embedder.embed_documents([*texts(3), "poison"])
    assert set(answer.rejected) == {3}
    assert embedder.learned == []


def test_a_server_whose_answers_to_several_texts_name_no_order_is_asked_for_one_at_a_time(
    provider: Provider, opened: Open
) -> None:
    """Index 0 for every row, as a gateway was seen to answer: nothing is guessed, and after the first pack each text is paid for once."""
    provider.fail("same_index")
    embedder = opened(batch_size=8)
    embedder.embed_documents(texts(8))
    before = len(provider.arrivals())
    assert before <= 2 * 8 + 1
    more = [f"more {n}" for n in range(8)]
    assert embedder.embed_documents(more).rejected == {}
    assert len(provider.arrivals()) - before == 8
    assert {provider.paid(MODEL)[sha(text)] for text in more} == {1}
    assert embedder.learned == [
        f"openai, model {MODEL}: the server answers one text in a request, and is asked for one at a time."
    ]
