"""A provider's batch interface: many texts in one job, answered within a day, at a lower price.

A job carries a token of ours, so that one whose answer was lost is found again and not paid for twice. Each text is a request of its own
in the job, named by its hash: what is refused is refused alone, and no list of who is who has to be kept.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from embed_pipeline.embedders import failures
from embed_pipeline.embedders.protocol import Embedded, Role, Vectors
from embed_pipeline.errors import EmbedderError, ProviderRefused
from embed_pipeline.spec import AccountSpec, VersionSpec

T = TypeVar("T")

# Between tries, in seconds, with full jitter.
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
ONLINE = "Set backfill: {mode: online} in the index's defs.yaml, and run the same command again."


@dataclass(frozen=True)
class JobState:
    """Where a job stands. `words` says it in the provider's own, and why where it went wrong."""

    is_over: bool
    words: str


@dataclass(frozen=True)
class Answer:
    """What one text of a job was answered: a vector, or None and the provider's words."""

    name: str
    vector: Vectors | None
    words: str = ""
    tokens: int = 0


class BatchService(Protocol):
    """One provider's batch interface for one model. Raises `failures` as a Service does."""

    def submit(self, texts: Mapping[str, str], token: str) -> str:
        """Start a job for these texts by name; returns the job's id at the provider."""
        ...

    def find(self, token: str) -> str | None:
        """The id of the job that was submitted with this token; None when there is none."""
        ...

    def poll(self, job: str) -> JobState:
        """Where it stands."""
        ...

    def collect(self, job: str) -> Iterator[Answer]:
        """The answers of a job that is over, in any order; of texts that were not worked off there may be none."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


def named(text: str) -> str:
    """The name of a text in a job: equal texts are asked for once."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class PatientBatch:
    """A batch interface that is asked again when it did not answer, and whose refusals are errors of this package."""

    def __init__(self, service: BatchService, spec: VersionSpec, account: AccountSpec) -> None:
        self._service, self._account = service, account
        self._who = f"{spec.provider}, model {spec.model_name},"

    def submit(self, texts: Mapping[str, str], token: str, *, may_be_there: bool = False) -> str:
        """Start the job, unless there is one with this token. `may_be_there`: somebody may have submitted it before."""
        uncertain = may_be_there

        def ask() -> str:
            nonlocal uncertain
            found = self._service.find(token) if uncertain else None
            uncertain = True
            return found or self._service.submit(texts, token)

        return self._asked(ask, "does not take the batch job")

    def find(self, token: str) -> str | None:
        """The job with this token; None where there is none, also where there are no jobs at all."""

        def ask() -> str | None:
            try:
                return self._service.find(token)
            except (failures.Systemic, failures.Refused) as gone:
                if gone.status != 404:
                    raise
                return None

        return self._asked(ask, "does not say which batch jobs there are")

    def poll(self, job: str) -> JobState:
        """Where it stands; over, when the provider does not know it any more."""

        def ask() -> JobState:
            try:
                return self._service.poll(job)
            except (failures.Systemic, failures.Refused) as gone:
                if gone.status != 404:
                    raise
                return JobState(True, f"unknown to the provider: {gone.words}")

        return self._asked(ask, "does not say how the batch job stands")

    def collect(self, job: str) -> list[Answer]:
        """All its answers. None when the provider does not know it any more."""

        def ask() -> list[Answer]:
            try:
                return list(self._service.collect(job))
            except (failures.Systemic, failures.Refused) as gone:
                if gone.status != 404:
                    raise
                return []

        return self._asked(ask, "does not give the answers of the batch job")

    def close(self) -> None:
        """Close the connections."""
        self._service.close()

    def _asked(self, ask: Callable[[], T], what: str) -> T:
        tries = 0
        while True:
            try:
                return ask()
            except (failures.RateLimited, failures.Transient) as exc:
                tries += 1
                if tries >= self._account.max_tries:
                    raise EmbedderError(
                        f"{self._who} {what}, {tries} times in a row: {exc.words.rstrip('.')}.",
                        next_step="Run the same command again later: jobs that were submitted are found again.",
                    ) from None
                bound = min(LONGEST_WAIT, FIRST_WAIT * 2 ** (tries - 1))
                time.sleep(min(exc.retry_after, LONGEST_WAIT) if exc.retry_after is not None else random.uniform(0, bound))
            except failures.Failure as exc:
                shown = "" if exc.status is None else f" (status {exc.status})"
                raise ProviderRefused(f"{self._who} {what}{shown}: {exc.words.rstrip('.')}.", next_step=ONLINE) from None


class Answers:
    """The answers of a job, as an embedder that knows these texts and no other. What is no vector of the version is left out."""

    def __init__(self, answers: Sequence[Answer], dimensions: int) -> None:
        self._dimensions = dimensions
        self._found = {each.name: each for each in answers if each.vector is not None and _is_sound(each.vector, dimensions)}
        self.refused = {each.name: each.words for each in answers if each.name not in self._found}
        """By name, the provider's words about a text that has no vector."""
        self.tokens = sum(each.tokens for each in answers)

    def knows(self, text: str) -> bool:
        """Whether there is a vector for this text, prefix included."""
        return named(text) in self._found

    def embed(self, texts: Sequence[str], role: Role) -> Embedded:
        """Their vectors. KeyError for a text that it does not know."""
        found = [self._found[named(text)] for text in texts]
        rows = [each.vector for each in found if each.vector is not None]
        vectors = np.stack(rows) if rows else np.zeros((0, self._dimensions), np.float32)
        return Embedded(vectors, tokens=sum(each.tokens for each in found))

    def identity(self) -> Mapping[str, str]:
        """Nothing: the version's own embedder says it."""
        return {}

    def close(self) -> None:
        """Nothing is held."""


def _is_sound(vector: Vectors, dimensions: int) -> bool:
    return vector.shape == (dimensions,) and bool(np.isfinite(vector).all()) and bool(vector.any())
