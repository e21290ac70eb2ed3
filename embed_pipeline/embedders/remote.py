"""A provider that is asked over the network, as an embedder: what is asked together, what is asked again, and what is given up.

Texts are packed into requests, and what fails is treated by what it is (`failures.py`): `sending.py` waits where it was too fast and tries
again where it may pass; here the one text is looked for at which a request fails, and everything stops where a harmless text fails too.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from embed_pipeline.embedders import failures
from embed_pipeline.embedders.metering import Meter
from embed_pipeline.embedders.packing import pack
from embed_pipeline.embedders.protocol import Embedded, Role, Urgency, Vectors
from embed_pipeline.embedders.rows import norms_of, unfit
from embed_pipeline.embedders.sending import Sender
from embed_pipeline.embedders.service import Reply, Service
from embed_pipeline.embedders.tokens import Counter, Estimate, Exact, at_most, exact_counter, not_a_text
from embed_pipeline.errors import ConfigurationError, EmbedPipelineError
from embed_pipeline.spec import AccountSpec, VersionSpec

log = logging.getLogger(__name__)

# Asked after a failure: when this fails too, it was not for what a text says.
PROBE = "The library opens at nine in the morning."
# A batch of so many texts of which more than half are refused is no batch with a bad text in it: something else is wrong.
LEAST_TO_JUDGE = 8
# A request may take this share of a minute's tokens: a whole minute in one could only be sent once the minute is empty.
SHARE_OF_MINUTE = 1 / 6


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

    def keep(self, positions: Sequence[int], reply: Reply, spoiled: Mapping[int, str], tokens: int) -> None:
        for n, (position, row) in enumerate(zip(positions, reply.vectors, strict=True)):
            if n not in spoiled:
                self.rows[position] = row
        self.tokens += tokens

    def reject(self, position: int, reason: str) -> None:
        self.truncated.discard(position)
        self.rejected[position] = reason

    def embedded(self, dimensions: int, failure: EmbedPipelineError | None) -> Embedded:
        vectors = np.zeros((len(self.texts), dimensions), dtype=np.float32)
        for position, row in self.rows.items():
            vectors[position] = row
        unanswered = set(range(len(self.texts))) - self.rows.keys() - self.rejected.keys()
        truncated = frozenset(self.truncated) - unanswered
        return Embedded(vectors, dict(sorted(self.rejected.items())), truncated, self.tokens, frozenset(unanswered), failure)


@dataclass
class _Search:
    """The search for the texts that are to blame, in one pack."""

    positions: Sequence[int]
    proven: bool = False
    """Whether a harmless text was taken since the pack failed."""
    suspects: set[int] = field(default_factory=set)
    """Texts that failed alone, and then a harmless one was taken: what fails alone again is to blame."""
    blamed: dict[int, failures.Failure] = field(default_factory=dict)
    together: bool = False
    """Whether several texts were answered in one request."""


class RemoteEmbedder:
    """One version's model behind a provider. Thread-safe: each call of `embed` asks with the thread that calls it."""

    def __init__(self, service: Service, spec: VersionSpec, account: AccountSpec, meter: Meter) -> None:
        self._service, self._spec, self._meter = service, spec, meter
        self._exact: Exact | None = exact_counter(spec)
        self._counter: Counter = self._exact or Estimate()
        self._sender = Sender(service, spec, account, meter, self._counter)
        limits = service.limits
        self._max_tokens = spec.max_tokens or limits.max_tokens
        self._most_texts = min(limits.texts, spec.texts_per_call)
        self._most_tokens = limits.tokens
        if account.tokens_per_minute is not None:
            self._most_tokens = min(limits.tokens, max(1, int(account.tokens_per_minute * SHARE_OF_MINUTE)))
        self.learned: list[str] = []
        """What the server was found not to take, in sentences, in this run."""
        self._learning = threading.Lock()
        if spec.too_long == "truncate" and not service.cuts and (self._exact is None or self._max_tokens is None):
            raise ConfigurationError(
                f"{spec.provider}, model {spec.model_name}, cannot cut a text that is too long, and without the model's tokenizer neither can we.",
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
        provider refuses or fails at, in its words. `failure` of the answer: ProviderRefused when the provider refuses everything,
        EmbedderError when it does not answer, WrongAnswer when nothing that it answers is a vector, and what the meter raises.
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
        return work.embedded(self._spec.dimensions, failure)

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
        self._sender.close()
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
        """Ask for these together, and when that fails for parts of them, until each has its vector or its reason.

        Texts of which one is to blame are asked for by halves. One of `n` costs 2 log2(n) + 4 requests at most, and twice `max_tries`
        more where the provider fails in a way that may pass; a row that is no vector costs three, whatever came with it.
        """
        todo: list[tuple[Sequence[int], bool]] = [(positions, False)]
        search = _Search(positions)
        while todo:
            part, cut = todo.pop()
            known = len(self.learned)
            try:
                reply, tokens = self._ask(work, part, cut, self._tries(part, search))
            except failures.TooLong as exc:
                todo += self._without_the_long_ones(work, part, cut, exc)
            except (failures.Refused, failures.Transient, failures.Unusable) as exc:
                todo += [(some, cut) for some in self._blame(work, part, exc, search, known)]
            else:
                spoiled = self._spoiled(reply)
                work.keep(part, reply, spoiled, tokens)
                search.together |= len(part) > 1
                if cut:
                    work.truncated |= set(part)
                if spoiled:
                    bad = failures.Unusable(next(iter(spoiled.values())))
                    todo += [(some, cut) for some in self._blame(work, [part[n] for n in sorted(spoiled)], bad, search, known)]
        if len(search.blamed) > 1:
            # It may have begun to fail for everything in the middle of them.
            self._prove_that_some_are_taken(list(search.blamed.values())[-1], work, search)
        if search.proven and not search.together and not search.blamed and len(positions) >= LEAST_TO_JUDGE:
            # Its answers to several cannot be used, whatever they say: to pay for each twice and more would go on for ever.
            with self._learning:
                if self._most_texts > 1:
                    self._most_texts = 1
                    self._say("the server answers one text in a request, and is asked for one at a time.")

    def _tries(self, part: Sequence[int], search: _Search) -> int:
        """How often what may pass is asked for. Where a text is looked for by halves, the halves are the tries of what is in them."""
        once = search.proven and (len(part) > 1 or part[0] in search.suspects)
        return 1 if once else self._sender.most_tries

    def _blame(self, work: _Work, part: Sequence[int], exc: failures.Failure, search: _Search, known: int) -> list[Sequence[int]]:
        """What to ask for next after `part` failed; a text that is alone is rejected when it is to blame.

        `known`: how much was learned of the server when the request went out.
        """
        asks_less = isinstance(exc, failures.TooMuch)
        if len(self.learned) > known:
            return [part]
        fresh = not search.proven and not asks_less
        if fresh:
            self._prove_that_some_are_taken(exc, work, search)
            if len(self.learned) > known:
                return [part]
            search.proven = True
        if len(part) > 1:
            return self._halves(part, exc)
        if not isinstance(exc, failures.Refused) and part[0] not in search.suspects:
            # What may pass is no reason against a text until it fails on both sides of a harmless one.
            if not fresh:
                self._prove_that_some_are_taken(exc, work, search)
            search.suspects.add(part[0])
            return [part]
        search.blamed[part[0]] = exc
        work.reject(part[0], self._why_none(exc))
        if len(search.positions) >= LEAST_TO_JUDGE and len(search.blamed) > len(search.positions) / 2:
            raise self._no_text_is_to_blame(exc, work, search, f"{len(search.blamed)} of {len(search.positions)} texts so far")
        return []

    def _spoiled(self, reply: Reply) -> dict[int, str]:
        """The positions of a reply whose row is no vector of this version, and what it is."""
        spoiled: dict[int, str] = {}
        for bad, what in unfit(reply.vectors, norms_of(reply.vectors), self._spec):
            for n in np.flatnonzero(bad):
                spoiled.setdefault(int(n), f"with a vector that holds {what}")
        return spoiled | {n: f"with {what}" for n, what in reply.spoiled.items()}

    def _why_none(self, exc: failures.Failure) -> str:
        provider = self._spec.provider
        if isinstance(exc, failures.Refused):
            return f"refused by {provider}: {exc.words}"
        if isinstance(exc, failures.Unusable):
            return f"{provider} took a harmless text, and answers this one {exc.words}"
        return f"{provider} took a harmless text, and fails at this one each time: {exc.words}"

    def _halves(self, part: Sequence[int], exc: failures.Failure) -> list[Sequence[int]]:
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

    def _prove_that_some_are_taken(self, failure: failures.Failure, work: _Work, search: _Search) -> None:
        """A request of a harmless text. Raises when that fails too: then no text is to blame.

        When it is refused for a field that the server does not know, this is learned, and it is asked without.
        """
        while True:
            known = len(self.learned)
            try:
                # As patient as for the texts themselves: a server that one of them has brought down may be back in a moment.
                reply, tokens = self._sender.ask(
                    [PROBE],
                    work.role,
                    work.urgency,
                    cut=False,
                    expected=self._counter.count(PROBE),
                    tries=self._sender.most_tries,
                )
            except failures.Refused as exc:
                if not self._learn_from(exc, known):
                    raise self._no_text_is_to_blame(failure, work, search) from None
                continue
            except (failures.Transient, failures.Unusable) as exc:
                raise self._no_text_is_to_blame(exc, work, search) from None
            work.tokens += tokens
            for what in self._spoiled(reply).values():
                raise self._no_text_is_to_blame(failures.Unusable(what), work, search)
            return

    def _learn_from(self, exc: failures.Refused, known: int) -> bool:
        """Whether the server does not take something that can be left out; it is, from now on. Another thread may have learned it."""
        with self._learning:
            if len(self.learned) > known:
                return True
            sentence = self._service.leave_out(exc.words)
            if sentence is not None:
                self._say(f"{sentence} It said: {exc.words}")
            return sentence is not None

    def _say(self, sentence: str) -> None:
        said = f"{self._spec.provider}, model {self._spec.model_name}: {sentence}"
        self.learned.append(said)
        log.warning("%s", said)

    def _no_text_is_to_blame(self, failure: failures.Failure, work: _Work, search: _Search, most: str = "") -> EmbedPipelineError:
        """The error; what was found by then is no reason against any text. `most`: how many of a pack fail, where a harmless one did not."""
        for position in search.blamed:
            del work.rejected[position]
        if isinstance(failure, failures.Unusable):
            return self._sender.unusable(f"{f'most of a batch, {most}' if most else 'a harmless text too'}, {failure.words}")
        if isinstance(failure, failures.Transient):
            what = f"fails at most of a batch, {most}" if most else f"did not answer, {self._sender.most_tries} times in a row"
            return self._sender.gave_up(what, failure)
        what = f"refuses most of a batch, {most}" if most else "refuses every text, a harmless one too"
        return self._sender.stopped(what, failure.words, failure.status)

    def _ask(self, work: _Work, part: Sequence[int], cut: bool, tries: int) -> tuple[Reply, int]:
        texts, expected = [work.texts[n] for n in part], sum(work.counts[n] for n in part)
        return self._sender.ask(texts, work.role, work.urgency, cut=cut, expected=expected, tries=tries)
