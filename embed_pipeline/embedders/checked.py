"""An embedder together with its version's declaration: the only way by which the rest of the package embeds anything.

What a provider answers is not believed: every answer is counted, measured and checked before a row of it is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from embed_pipeline.embedders.chunker import Chunker, Passage
from embed_pipeline.embedders.custom import describe
from embed_pipeline.embedders.fitting import Fitting
from embed_pipeline.embedders.metering import Meter
from embed_pipeline.embedders.protocol import Embedded, Embedder, Role, Urgency, Vectors
from embed_pipeline.embedders.registry import open_embedder
from embed_pipeline.embedders.remote import RemoteEmbedder
from embed_pipeline.embedders.rows import norms_of, unfit
from embed_pipeline.embedders.sending import KEPT
from embed_pipeline.errors import EmbedderError, EmbedPipelineError, WrongAnswer
from embed_pipeline.foreign_words import readable, whole
from embed_pipeline.spec import AccountSpec, VersionSpec


@dataclass
class _Gathering:
    """What the calls for some texts have brought so far, at the positions of the caller."""

    vectors: Vectors
    rejected: dict[int, str] = field(default_factory=dict)
    truncated: set[int] = field(default_factory=set)
    tokens: int = 0
    _answered: set[int] = field(default_factory=set)

    def keep(self, positions: Sequence[int], answer: Embedded) -> None:
        self.vectors[positions] = answer.vectors
        self.rejected |= {positions[n]: reason for n, reason in answer.rejected.items()}
        self.truncated |= {positions[n] for n in answer.truncated}
        self.tokens += answer.tokens
        self._answered |= {position for n, position in enumerate(positions) if n not in answer.unanswered}

    def embedded(self, asked: Sequence[int], failure: EmbedPipelineError | None) -> Embedded:
        unanswered = frozenset(asked) - self._answered
        return Embedded(
            self.vectors, dict(sorted(self.rejected.items())), frozenset(self.truncated), self.tokens, unanswered, failure
        )


class VersionEmbedder:
    """One embedding version's embedder: adds prefixes, calls in batches, checks every answer, normalises.

    `name` is the version's name in the index; messages show it. Thread-safe when the embedder is.
    """

    def __init__(self, embedder: Embedder, spec: VersionSpec, *, name: str | None = None) -> None:
        self.spec = spec
        self.name = name
        self._embedder = embedder
        self.chunker = None if spec.chunker is None else Chunker(spec.chunker)
        """How this version's texts are split; None: a document is one vector."""
        self._fitting = Fitting(spec) if spec.too_long == "chunk" else None
        identity = dict(embedder.identity())
        self.fingerprint: str = spec.fingerprint(identity | _splitting(self.chunker, self._fitting))
        """sha256 (hex) of all that decides a vector: what a stored vector is labelled with."""
        self.model_version: str = spec.model_version or identity.get("model", "")[:12] or "1"
        """The declared revision; else the first 12 hex digits of the model file's sha256; else "1"."""

    @classmethod
    def open(
        cls, spec: VersionSpec, *, name: str | None = None, account: AccountSpec | None = None, meter: Meter | None = None
    ) -> VersionEmbedder:
        """Open the embedder that `spec` declares. Raises ConfigurationError or EmbedderError when it cannot be.

        `account` and `meter` are for the providers that are asked over the network: who pays, and what counts and holds
        the limits. Absent: an account with its defaults, and a count in this process that holds nobody up.
        """
        return cls(open_embedder(spec, account, meter), spec, name=name)

    @property
    def is_remote(self) -> bool:
        """Whether a provider is asked over the network, with an account, its limits and its bill."""
        return isinstance(self._embedder, RemoteEmbedder)

    @property
    def meter(self) -> Meter | None:
        """What the requests of a provider pass through; None where nobody is asked over the network."""
        return self._embedder.meter if isinstance(self._embedder, RemoteEmbedder) else None

    @property
    def learned(self) -> list[str]:
        """What the server behind the model was found not to take since it was opened, in sentences."""
        return list(self._embedder.learned) if isinstance(self._embedder, RemoteEmbedder) else []

    def count(self, texts: Sequence[str]) -> list[int]:
        """About how many tokens a provider will bill for each of these documents' texts, prefixes included; 0 where nobody bills."""
        if isinstance(self._embedder, RemoteEmbedder):
            return self._embedder.count([self.spec.document_prefix + text for text in texts])
        return [0] * len(texts)

    def cut(self, tokens: Sequence[int]) -> list[slice]:
        """Texts of so many tokens cut into calls: contiguous, in order, all of them.

        Of a provider each is one request, within what it takes in one; else `batch_size` texts.
        """
        if isinstance(self._embedder, RemoteEmbedder):
            return self._embedder.cut(tokens)
        step = self.spec.texts_per_call
        return [slice(start, min(start + step, len(tokens))) for start in range(0, len(tokens), step)]

    def passages(self, text: str) -> list[Passage]:
        """Where the passages of a document are that have a vector each: by the chunker, and none over max_tokens with `too_long: chunk`.

        One for the whole text when the version splits nothing, and when the text is blank: it is rejected in the embedder's words.
        """
        whole = [Passage(0, len(text))]
        found = whole if self.chunker is None else self.chunker.passages(text) or whole
        return found if self._fitting is None else [part for passage in found for part in self._fitting.passages(text, passage)]

    @property
    def passage_characters(self) -> int | None:
        """About how many characters of a long text a passage brings at least; None: a document is one vector."""
        if self.spec.chunker is None:
            return None
        new = self.spec.chunker.size - self.spec.chunker.overlap
        return new if self._fitting is None else min(new, self._fitting.max_tokens)

    def embed_documents(self, texts: Sequence[str], urgency: Urgency = Urgency.BACKFILL) -> Embedded:
        """Vectors of documents: float32, shape (len(texts), dimensions), L2-normalised when the version says so.

        A text that can have no vector is in `rejected` with its reason, and its row is zeros; a blank text is rejected
        without asking the provider. Raises WrongAnswer when the answer does not fit, EmbedderError when the provider
        fails. Positions are those of `texts`. `urgency`: who goes first where the provider's limits are short.
        """
        return self.ask_documents(texts, urgency).whole()

    def ask_documents(
        self, texts: Sequence[str], urgency: Urgency = Urgency.BACKFILL, tokens: Sequence[int] | None = None
    ) -> Embedded:
        """The same for who can keep a part: what ended it is the answer's `failure`, and is not raised.

        `tokens`: of each text, as `count` gave them.
        """
        return self._embed(texts, "document", self.spec.document_prefix, urgency, tokens)

    def embed_queries(self, texts: Sequence[str], urgency: Urgency = Urgency.QUERY) -> Embedded:
        """The same for queries, with the query prefix. Half of a surrogate pair, as a cut-off input holds it, is asked as U+FFFD."""
        return self._embed([whole(text) for text in texts], "query", self.spec.query_prefix, urgency).whole()

    def embed_query(self, text: str) -> Vectors:
        """The vector of one query, shape (dimensions,). Raises EmbedPipelineError when this text can have none."""
        answer = self.embed_queries([text])
        if 0 in answer.rejected:
            raise EmbedPipelineError(
                f"The query has no vector in {self._who}: {answer.rejected[0].rstrip('.')}.",
                next_step="Ask with another text.",
            )
        row: Vectors = answer.vectors[0]
        return row

    def close(self) -> None:
        """Close the embedder."""
        self._embedder.close()

    @property
    def _who(self) -> str:
        model = f"{self.spec.provider}, model {self.spec.model_name}"
        return f"version {self.name} ({model})" if self.name else model

    def _embed(
        self, texts: Sequence[str], role: Role, prefix: str, urgency: Urgency, tokens: Sequence[int] | None = None
    ) -> Embedded:
        found = _Gathering(np.zeros((len(texts), self.spec.dimensions), dtype=np.float32))
        # Looked at before the prefix, which would hide that there is nothing behind it.
        found.rejected = {n: "empty text" for n, text in enumerate(texts) if not text.strip()}
        asked = [n for n in range(len(texts)) if n not in found.rejected]
        # A provider's embedder packs by itself, by what the provider takes in one request.
        step = max(1, len(asked)) if self.is_remote else self.spec.texts_per_call
        failure: EmbedPipelineError | None = None
        for start in range(0, len(asked), step):
            positions = asked[start : start + step]
            counted = None if tokens is None else [tokens[n] for n in positions]
            try:
                answer = self._call([prefix + texts[n] for n in positions], role, urgency, counted)
                failure = answer.failure
                found.keep(positions, self._checked(answer, len(positions)))
            except EmbedPipelineError as problem:
                # Of an answer that is no good nothing is kept, whatever had ended it.
                failure = failure or problem
            if failure is not None:
                break
        return found.embedded(asked, failure)

    def _call(self, texts: list[str], role: Role, urgency: Urgency, tokens: list[int] | None) -> Embedded:
        try:
            if isinstance(self._embedder, RemoteEmbedder):
                return self._embedder.embed(texts, role, urgency, tokens)
            return self._embedder.embed(texts, role)
        except EmbedPipelineError:
            raise
        except Exception as exc:
            raise EmbedderError(
                f"The embedder of {self._who} failed: {describe(exc, self.spec)}.",
                next_step=f"Run the same command again once it answers. {KEPT} What such a class may raise: docs/how-to/own-embedder.md",
            ) from exc

    def _checked(self, answer: Embedded, count: int) -> Embedded:
        """The answer to `count` texts with float32, normalised rows and zeros for rejected texts; or WrongAnswer."""
        vectors = self._float32(answer.vectors)
        if vectors.ndim != 2:
            raise self._wrong(f"{count} texts with an array of shape {vectors.shape}, not one row for each text")
        if vectors.shape[0] != count:
            raise self._wrong(f"{count} texts with {vectors.shape[0]} vectors")
        if vectors.shape[1] != self.spec.dimensions:
            raise self._wrong(
                f"{count} texts with vectors of {vectors.shape[1]} dimensions, not the declared {self.spec.dimensions}"
            )
        cut = frozenset(answer.truncated)
        outside = [n for n in (*answer.rejected, *cut) if n not in range(count)]
        if outside:
            raise self._wrong(f"{count} texts with a word on position {outside[0]}, which was not asked")
        rejected = {n: readable(reason) for n, reason in answer.rejected.items()}
        if self.spec.too_long != "truncate":
            # The provider cut although the version forbids it: half a text's vector must not pass for the whole's.
            rejected |= dict.fromkeys(cut - rejected.keys(), "over the token limit: the embedder cut it")
        kept = np.array([n not in rejected and n not in answer.unanswered for n in range(count)], dtype=bool)
        norms = norms_of(vectors)
        for bad, what in unfit(vectors, norms, self.spec):
            self._refuse(kept & bad, what)
        if self.spec.normalize:
            # Rejected rows may hold anything; they divide by one and become zeros below.
            vectors = (vectors / np.where(kept, norms, 1.0)[:, np.newaxis]).astype(np.float32)
        if not kept.all():
            vectors = np.where(kept[:, np.newaxis], vectors, np.float32(0))
        return replace(answer, vectors=vectors, rejected=rejected, truncated=cut - rejected.keys())

    def _float32(self, vectors: object) -> Vectors:
        try:
            # An overflow becomes infinity, which is refused with its position; numpy need not warn of it too.
            with np.errstate(over="ignore"):
                return np.asarray(vectors).astype(np.float32, copy=False)
        except (TypeError, ValueError) as exc:
            raise self._wrong("something that is not one row of numbers for each text") from exc

    def _refuse(self, bad: NDArray[np.bool_], what: str) -> None:
        positions = np.flatnonzero(bad)
        if len(positions):
            raise self._wrong(f"{len(bad)} texts with {len(positions)} vectors that hold {what}: {_some(positions)}")

    def _wrong(self, what: str) -> WrongAnswer:
        return WrongAnswer(
            f"The embedder of {self._who} answered {what}.",
            next_step="Nothing of this answer was stored. Correct the embedder or the version's declaration.",
        )


def fingerprint_of(spec: VersionSpec, identity: Mapping[str, str]) -> str:
    """The fingerprint of a declared version whose embedder says this of itself, without opening the embedder."""
    chunker = None if spec.chunker is None else Chunker(spec.chunker)
    return spec.fingerprint({**identity, **_splitting(chunker, Fitting(spec) if spec.too_long == "chunk" else None)})


def _splitting(chunker: Chunker | None, fitting: Fitting | None) -> dict[str, str]:
    """What decides where texts are split."""
    chunks = {} if chunker is None else {"chunks": chunker.identity()}
    return chunks if fitting is None else chunks | {"fitting": fitting.identity()}


def _some(positions: Iterable[int], most: int = 5) -> str:
    listed = [str(n) for n in positions]
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return f"position {', '.join(listed[:most])}{more} of the batch"
