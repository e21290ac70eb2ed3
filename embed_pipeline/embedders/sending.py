"""One request to a provider: admitted by the account's meter, and asked again while that makes sense."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence

from embed_pipeline.embedders import failures
from embed_pipeline.embedders.metering import Meter
from embed_pipeline.embedders.protocol import Role, Urgency
from embed_pipeline.embedders.service import Reply, Service
from embed_pipeline.embedders.tokens import Counter
from embed_pipeline.errors import EmbedderError, EmbedPipelineError, ProviderRefused, WrongAnswer
from embed_pipeline.spec import AccountSpec, VersionSpec

# Waits between tries: between 0 and a bound that doubles from the first to the longest (full jitter: Brooker, "Exponential
# Backoff And Jitter", AWS Architecture Blog, 2015), in seconds.
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
# A request that was too fast for so long, in seconds, is not slow but stopped.
HELD_BACK_SECONDS = 900.0
KEPT = "What was written is kept; the same command resumes."


class Sender:
    """Sends requests for one version. Thread-safe."""

    def __init__(self, service: Service, spec: VersionSpec, account: AccountSpec, meter: Meter, counter: Counter) -> None:
        self._service, self._spec, self._meter, self._counter = service, spec, meter, counter
        self._who = f"{spec.provider}, model {spec.model_name},"
        self.most_tries = account.max_tries
        self._closed = threading.Event()

    def ask(
        self, texts: Sequence[str], role: Role, urgency: Urgency, *, cut: bool, expected: int, tries: int
    ) -> tuple[Reply, int]:
        """The reply and the tokens billed. `expected`: the tokens by our count.

        Raises Refused or Unusable, which may be for one of the texts, and so may Transient, which is raised after `tries`. What
        holds for everything is an EmbedPipelineError.
        """
        held_back, fast, failed = 0.0, 0, 0
        while True:
            try:
                return self._ask_once(texts, role, urgency, cut, expected)
            except failures.RateLimited as exc:
                fast += 1
                wait = exc.retry_after if exc.retry_after is not None else _jitter(fast)
                if held_back + wait > HELD_BACK_SECONDS:
                    words = f"has held this request back for {held_back:.0f} s and asks for {wait:.0f} s more"
                    raise self.gave_up(words, exc) from None
                held_back += wait
            except failures.Transient as exc:
                failed += 1
                if failed >= tries:
                    raise
                wait = _jitter(failed) if exc.retry_after is None else min(exc.retry_after, LONGEST_WAIT)
            except failures.Systemic as exc:
                raise self.stopped("refuses everything", exc.words, exc.status, exc.next_step) from None
            if self._closed.wait(wait):
                raise EmbedderError(f"The embedder of {self._who.rstrip(',')} is closed.")

    def close(self) -> None:
        """A thread that waits before another try ends with EmbedderError."""
        self._closed.set()

    def stopped(self, what: str, words: str, status: int | None, next_step: str = "") -> ProviderRefused:
        """The provider takes nothing."""
        shown = "" if status is None else f" (status {status})"
        return ProviderRefused(
            f"{self._who} {what}{shown}: {words.rstrip('.')}.",
            next_step=next_step or f"Correct the version's declaration, or ask the provider. {failures.RESUME}",
        )

    def gave_up(self, what: str, exc: failures.Failure) -> EmbedderError:
        """The provider does not answer."""
        advice = exc.next_step if isinstance(exc, failures.Transient) else ""
        return EmbedderError(
            f"{self._who} {what}: {exc.words.rstrip('.')}.", next_step=f"{advice or 'Run the same command again later.'} {KEPT}"
        )

    def unusable(self, words: str) -> WrongAnswer:
        """The provider answers with nothing that can be used."""
        return WrongAnswer(
            f"{self._who} answered {words.rstrip('.')}.",
            next_step="Nothing of this answer was stored. See whether the version's base_url, model_name and dimensions are right.",
        )

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
        except failures.Unusable:
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


def _jitter(tries: int) -> float:
    return random.uniform(0, min(LONGEST_WAIT, FIRST_WAIT * 2 ** (tries - 1)))
