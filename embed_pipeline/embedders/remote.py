"""A provider that is asked over the network, as an embedder: what is asked together, what is asked again, and what is given up.

Texts are packed into requests, each is admitted by the account's meter, and its failures are treated by what they are (`failures.py`): wait
where it was too fast, try again where it may pass, look for the one text where one is refused, and stop where everything is.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from embed_pipeline.embedders import failures
from embed_pipeline.embedders.metering import Meter
from embed_pipeline.embedders.packing import pack
from embed_pipeline.embedders.protocol import Embedded, Role, Urgency, Vectors
from embed_pipeline.embedders.service import Reply, Service
from embed_pipeline.embedders.tokens import Counter, Estimate, Exact, at_most, exact_counter, not_a_text
from embed_pipeline.errors import ConfigurationError, EmbedderError, EmbedPipelineError, ProviderRefused, WrongAnswer
from embed_pipeline.spec import AccountSpec, VersionSpec

# Asked after a refusal: when this is refused too, it was not for what a text says.
PROBE = "The library opens at nine in the morning."
# A batch of so many texts of which more than half are refused is no batch with a bad text in it: something else is wrong.
LEAST_TO_JUDGE = 8
# Waits between tries: between 0 and a bound that doubles from the first to the longest (full jitter: Brooker, "Exponential
# Backoff And Jitter", AWS Architecture Blog, 2015), in seconds.
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
# A request that was too fast for so long, in seconds, is not slow but stopped.
HELD_BACK_SECONDS = 900.0
# A request may take this share of a minute's tokens: a whole minute in one could only be sent once the minute is empty.
SHARE_OF_MINUTE = 1 / 6
KEPT = "What was written is kept; the same command resumes."


@dataclass
class _Work:
    """The texts of one call, as they are sent, and what has become of each by its position."""

    texts: list[str]
    role: Role
    urgency: Urgency
    counts: dict[int, int] = field(default_factory=dict)
    rows: dict[int, Vectors] = field(default_factory=dict)
    rejected: dict[int, str] = field(default_factory=dict)
    truncated: set[int] = field(default_factory=set)
    tokens: int = 0

    def keep(self, positions: Sequence[int], reply: Reply, tokens: int) -> None:
        self.rows |= dict(zip(positions, reply.vectors, strict=True))
        self.tokens += tokens

    def reject(self, position: int, reason: str) -> None:
        self.truncated.discard(position)
        self.rejected[position] = reason

    def embedded(self, dimensions: int, who: str, failure: EmbedPipelineError | None) -> Embedded:
        lengths = {len(row) for row in self.rows.values()} or {dimensions}
        if len(lengths) > 1:
            raise WrongAnswer(
                f"{who} answered with vectors of different lengths: {', '.join(map(str, sorted(lengths)))}.",
                next_step="Nothing of this answer was stored. See whether another model answers behind the name.",
            )
        vectors = np.zeros((len(self.texts), lengths.pop()), dtype=np.float32)
        for position, row in self.rows.items():
            vectors[position] = row
        unanswered = set(range(len(self.texts))) - self.rows.keys() - self.rejected.keys()
        truncated = frozenset(self.truncated) - unanswered
        return Embedded(vectors, dict(sorted(self.rejected.items())), truncated, self.tokens, frozenset(unanswered), failure)


class RemoteEmbedder:
    """One version's model behind a provider. Thread-safe: each call of `embed` asks with the thread that calls it."""

    def __init__(self, service: Service, spec: VersionSpec, account: AccountSpec, meter: Meter) -> None:
        self._service, self._spec, self._account, self._meter = service, spec, account, meter
        self._who = f"{spec.provider}, model {spec.model_name},"
        self._exact: Exact | None = exact_counter(spec)
        self._counter: Counter = self._exact or Estimate()
        limits = service.limits
        self._max_tokens = spec.max_tokens or limits.max_tokens
        self._most_texts = min(limits.texts, spec.texts_per_call)
        self._most_tokens = limits.tokens
        if account.tokens_per_minute is not None:
            self._most_tokens = min(limits.tokens, max(1, int(account.tokens_per_minute * SHARE_OF_MINUTE)))
        self._closed = threading.Event()
        if spec.too_long == "truncate" and not service.cuts and (self._exact is None or self._max_tokens is None):
            raise ConfigurationError(
                f"{self._who} cannot cut a text that is too long, and without the model's tokenizer neither can we.",
                next_step="Declare tokenizer_path and max_tokens, or too_long: reject or chunk.",
            )

    def count(self, texts: Sequence[str]) -> list[int]:
        """About how many tokens the provider will bill for each of `texts`, prefixes included."""
        return [self._counter.count(text) for text in texts]

    def cut(self, tokens: Sequence[int]) -> list[slice]:
        """Texts of so many tokens cut into what one request takes: contiguous, in order, all of them."""
        return pack(tokens, self._most_texts, self._most_tokens)

    def embed(
        self, texts: Sequence[str], role: Role, urgency: Urgency = Urgency.BACKFILL, tokens: Sequence[int] | None = None
    ) -> Embedded:
        """Vectors of `texts`, not normalised; prefixes are the caller's. Several requests, one after the other, when they need several.

        `tokens`: of each text, where they were counted before. Rejected: a blank text, one over max_tokens (`too_long`), and one that the
        provider refuses, in its words. `failure` of the answer: ProviderRefused when the provider refuses everything, EmbedderError when it
        does not answer, WrongAnswer, and what the meter raises. Raises WrongAnswer where what was answered does not fit together.
        """
        work = _Work(list(texts), role, urgency)
        counts = self.count(texts) if tokens is None else tokens
        asked = [position for position, count in enumerate(counts) if self._may_be_asked(work, position, count)]
        failure: EmbedPipelineError | None = None
        try:
            for part in self.cut([work.counts[position] for position in asked]):
                self._answer(work, asked[part])
        except EmbedPipelineError as problem:
            failure = problem
        return work.embedded(self._spec.dimensions, self._who, failure)

    @property
    def meter(self) -> Meter:
        """What its requests pass through."""
        return self._meter

    def identity(self) -> Mapping[str, str]:
        """What decides the vectors and is not in the declaration: input types, and who cuts a text that is too long."""
        identity = dict(self._service.identity())
        if self._spec.too_long == "truncate":
            identity["cut"] = "provider" if self._exact is None else self._exact.sha256
        return identity

    def close(self) -> None:
        """Close the connections; a thread that waits before another try ends with EmbedderError."""
        self._closed.set()
        self._service.close()

    def _may_be_asked(self, work: _Work, position: int, count: int) -> bool:
        """Whether the text goes to the provider; rejects or cuts it here where that needs no provider."""
        text = work.texts[position]
        reason = not_a_text(text)
        if reason is None:
            work.counts[position] = count
        if reason is None and self._max_tokens is not None:
            if self._exact is not None:
                reason = self._cut_or_reject(work, position, self._exact, self._max_tokens)
            elif self._service.limits.cuts_silently and at_most(text) > self._max_tokens:
                reason = (
                    f"up to {at_most(text)} tokens, the limit is {self._max_tokens}, and {self._spec.provider} would cut it without a word; "
                    "with tokenizer_path it could be counted"
                )
        if reason is not None:
            work.rejected[position] = reason
        return reason is None

    def _cut_or_reject(self, work: _Work, position: int, exact: Exact, limit: int) -> str | None:
        text, count = work.texts[position], work.counts[position]
        if count <= limit:
            return None
        beginning = exact.cut(text, limit) if self._spec.too_long == "truncate" else ""
        if not beginning.strip():
            return f"{count} tokens, the limit is {limit}"
        work.texts[position] = beginning
        work.counts[position] = exact.count(beginning)
        work.truncated.add(position)
        return None

    def _answer(self, work: _Work, positions: Sequence[int]) -> None:
        """Ask for these together, and when they are refused for parts of them, until each has its vector or its reason."""
        todo: list[tuple[Sequence[int], bool]] = [(positions, False)]
        refused: dict[int, failures.Refused] = {}
        proven = False
        while todo:
            part, cut = todo.pop()
            try:
                reply, tokens = self._ask(
                    [work.texts[n] for n in part], work.role, work.urgency, cut, sum(work.counts[n] for n in part)
                )
            except failures.TooLong as exc:
                todo += self._without_the_long_ones(work, part, cut, exc)
            except failures.Refused as exc:
                if not proven and not isinstance(exc, failures.TooMuch):
                    self._prove_that_some_are_taken(exc, work, refused)
                    proven = True
                if len(part) > 1:
                    todo += [(half, cut) for half in self._halves(part, exc)]
                    continue
                refused[part[0]] = exc
                work.reject(part[0], f"refused by {self._spec.provider}: {exc.words}")
                if len(positions) >= LEAST_TO_JUDGE and len(refused) > len(positions) / 2:
                    what = f"refuses most of a batch, {len(refused)} of {len(positions)} texts so far"
                    raise self._not_the_texts(what, exc, work, refused) from None
            else:
                work.keep(part, reply, tokens)
                if cut:
                    work.truncated |= set(part)
        if len(refused) > 1:
            # It may have begun to refuse everything in the middle of them.
            self._prove_that_some_are_taken(list(refused.values())[-1], work, refused)

    def _halves(self, part: Sequence[int], exc: failures.Refused) -> list[Sequence[int]]:
        middle = len(part) // 2
        if isinstance(exc, failures.TooMuch) and exc.texts:
            # A server's own setting, which no list of models has: the next packs are smaller.
            self._most_texts = min(self._most_texts, middle)
        return [part[middle:], part[:middle]]

    def _without_the_long_ones(
        self, work: _Work, part: Sequence[int], cut: bool, exc: failures.TooLong
    ) -> list[tuple[Sequence[int], bool]]:
        """What to ask next when one of `part` is too long; a text that is alone is cut or rejected."""
        if len(part) > 1:
            return [(some, cut) for some in self._long_ones_apart(work, part)]
        if self._spec.too_long == "truncate" and self._service.cuts and not cut:
            # Only here is it known that this text is cut: a provider that may cut does not say whether it did.
            return [(part, True)]
        work.reject(part[0], self._why_too_long(exc, work.texts[part[0]]))
        return []

    def _long_ones_apart(self, work: _Work, part: Sequence[int]) -> list[Sequence[int]]:
        """`part` in two: those that may be too long by our count, longest last, and the others; in halves when that tells nothing."""
        counts = {position: work.counts[position] for position in part}
        ordered = sorted(part, key=lambda position: counts[position])
        limit = self._max_tokens or max(counts.values())
        middle = sum(count <= limit / 2 for count in counts.values())
        if middle in (0, len(part)):
            middle = len(part) // 2
        return [ordered[:middle], ordered[middle:]]

    def _why_too_long(self, exc: failures.TooLong, text: str) -> str:
        limit = exc.limit or self._max_tokens
        if limit is None:
            return f"over the limit of tokens: {exc.words}"
        if exc.count is not None and exc.count > limit:
            return f"{exc.count} tokens, the limit is {limit}"
        count = self._counter.count(text)
        return (
            f"about {count} tokens, the limit is {limit}" if count > limit else f"over the limit of {limit} tokens: {exc.words}"
        )

    def _prove_that_some_are_taken(self, refusal: failures.Refused, work: _Work, refused: Mapping[int, failures.Refused]) -> None:
        """One request of a harmless text. ProviderRefused when that is refused too: then no text is to blame."""
        try:
            _, tokens = self._ask([PROBE], work.role, work.urgency, False, self._counter.count(PROBE))
        except failures.Refused:
            raise self._not_the_texts("refuses every text, a harmless one too", refusal, work, refused) from None
        work.tokens += tokens

    def _not_the_texts(
        self, what: str, refusal: failures.Refused, work: _Work, refused: Mapping[int, failures.Refused]
    ) -> ProviderRefused:
        """The error; what was refused by then is no reason against any text."""
        for position in refused:
            del work.rejected[position]
        return self._stopped(what, refusal.words, refusal.status)

    def _ask(self, texts: Sequence[str], role: Role, urgency: Urgency, cut: bool, expected: int) -> tuple[Reply, int]:
        """One request, again while that makes sense; the reply and the tokens billed. Raises Refused when it is the texts.

        `expected`: the tokens by our count.
        """
        held_back, fast, tries = 0.0, 0, 0
        while True:
            try:
                return self._ask_once(texts, role, urgency, cut, expected)
            except failures.RateLimited as exc:
                fast += 1
                wait = exc.retry_after if exc.retry_after is not None else _jitter(fast)
                if held_back + wait > HELD_BACK_SECONDS:
                    words = f"has held this request back for {held_back:.0f} s and asks for {wait:.0f} s more"
                    raise self._gave_up(words, exc) from None
                held_back += wait
            except failures.Transient as exc:
                tries += 1
                if tries >= self._account.max_tries:
                    raise self._gave_up(f"did not answer, {tries} times in a row", exc) from None
                wait = _jitter(tries) if exc.retry_after is None else min(exc.retry_after, LONGEST_WAIT)
            except failures.Systemic as exc:
                raise self._stopped("refuses everything", exc.words, exc.status, exc.next_step) from None
            if self._closed.wait(wait):
                raise EmbedderError(f"The embedder of {self._who.rstrip(',')} is closed.")

    def _ask_once(self, texts: Sequence[str], role: Role, urgency: Urgency, cut: bool, expected: int) -> tuple[Reply, int]:
        ticket = self._meter.admit(urgency, expected)
        try:
            reply = self._request(texts, role, cut)
        except failures.RateLimited as exc:
            self._meter.failed(ticket, retry_after=exc.retry_after, headroom=exc.headroom, too_fast=True)
            raise
        except failures.Transient as exc:
            if exc.unheard:
                # The provider may have done the work. A budget that is to hold counts what may be billed.
                self._meter.answered(ticket, expected)
            else:
                self._meter.failed(ticket, retry_after=exc.retry_after)
            raise
        except WrongAnswer:
            self._meter.answered(ticket, expected)
            raise
        except BaseException:
            self._meter.failed(ticket)
            raise
        tokens = expected if reply.tokens is None else reply.tokens
        self._meter.answered(ticket, tokens, reply.headroom)
        if reply.tokens is not None:
            self._counter.learn(texts, reply.tokens)
        return reply, tokens

    def _request(self, texts: Sequence[str], role: Role, cut: bool) -> Reply:
        """One request. What it raises is of this package, and drags nothing along.

        A library's exception may hold the request, and so the key. Python keeps what an exception replaced, also where `from None`
        hides it from a traceback; so it is let go here.
        """
        try:
            return self._service.request(texts, role, cut=cut)
        except (failures.Failure, EmbedPipelineError) as exc:
            exc.__context__ = None
            raise
        except Exception as exc:
            name = type(exc).__name__
        raise EmbedderError(
            f"The library of {self._spec.provider} failed with {name}.",
            next_step="Install the versions that constraints.txt names, and run the same command again.",
        )

    def _stopped(self, what: str, words: str, status: int | None, next_step: str = "") -> ProviderRefused:
        shown = "" if status is None else f" (status {status})"
        return ProviderRefused(
            f"{self._who} {what}{shown}: {words.rstrip('.')}.",
            next_step=next_step or f"Correct the version's declaration, or ask the provider. {failures.RESUME}",
        )

    def _gave_up(self, what: str, exc: failures.Failure) -> EmbedderError:
        return EmbedderError(
            f"{self._who} {what}: {exc.words.rstrip('.')}.", next_step=f"Run the same command again later. {KEPT}"
        )


def _jitter(tries: int) -> float:
    return random.uniform(0, min(LONGEST_WAIT, FIRST_WAIT * 2 ** (tries - 1)))
