"""What the loopback provider knows and does, without HTTP: it answers, refuses and errs as it was told."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from embed_pipeline.embedders.protocol import Vectors
from tests.harness.providers.bill import Bill, Standing
from tests.harness.providers.faults import Fault, Faults
from tests.harness.providers.jobs import Jobs
from tests.harness.providers.keys import KEYS
from tests.harness.providers.protocol import Asked, Refusal, Reply, Spoken, checked
from tests.harness.providers.served import Models, Served


class Hung(Exception):
    """The connection is closed without an answer."""


@dataclass
class State:
    """Everything that a reset forgets. `keys`: provider to its good keys; None: every request is let in, with a key or without."""

    models: Models = field(default_factory=Models)
    bill: Bill = field(default_factory=Bill)
    faults: Faults = field(default_factory=Faults)
    keys: dict[str, list[str] | None] = field(default_factory=lambda: {name: [key] for name, key in KEYS.items()})
    latency: float = 0.0
    jobs: dict[str, Jobs] = field(default_factory=lambda: {"openai": Jobs(), "cohere": Jobs()})
    echoes_key: bool = False
    """Whether refusals repeat the key that was sent, as some compatible servers do."""

    def embed(self, spoken: Spoken, key: str, body: Any) -> tuple[dict[str, Any], dict[str, str]]:
        """The answer's body and headers. Raises Refusal, or Hung."""
        self.bill.enter()
        try:
            return self._embed(spoken, key, body)
        except Refusal as refusal:
            if self.echoes_key and key:
                refusal.words += f" (key {key})"
            raise
        finally:
            self.bill.leave()

    def _embed(self, spoken: Spoken, key: str, body: Any) -> tuple[dict[str, Any], dict[str, str]]:
        self.check_key(spoken, key)
        asked, model = self._understood(spoken, body)
        tokens = sum(asked.counts or ())
        arrival, standing = self.bill.arrive(spoken.name, asked.model, key, len(asked.texts), tokens)
        try:
            answer = self._answer(spoken, model, asked, standing)
        except Refusal as refusal:
            arrival.status = refusal.status
            refusal.headers = {**spoken.headers(standing), **refusal.headers}
            raise
        arrival.status = 200
        return answer, spoken.headers(standing)

    def check_key(self, spoken: Spoken, key: str) -> None:
        """Refusal when the key is not one of the good ones."""
        good = self.keys[spoken.name]
        if good is not None and key not in good:
            raise spoken.no_key(key)

    def line(self, spoken: Spoken, body: Any, job: str) -> dict[str, Any]:
        """The answer to one line of a batch job. Jobs have no limit per minute."""
        asked, model = self._understood(spoken, body)
        try:
            return self._answer(spoken, model, asked, None, job)
        except Hung:
            raise spoken.told(500, "", None) from None

    def endings(self, spoken: Spoken, model: str, texts: list[str]) -> list[Fault]:
        """The rules that decide how a batch job with these texts ends."""
        return self.faults.striking("ends", spoken.name, model, texts)

    def stand(self, at: str, spoken: Spoken) -> bool:
        """Let the rules for the endpoint `at` strike; True when its answer is to be lost."""
        faults = self.faults.striking(at, spoken.name, "", [])
        for fault in faults:
            _refuse(fault, spoken, Asked("", []))
        return any(fault.kind == "lost" for fault in faults)

    def _understood(self, spoken: Spoken, body: Any) -> tuple[Asked, Served | None]:
        asked = spoken.parse(body if isinstance(body, dict) else {})
        model = self.models.find(spoken.name, asked.model)
        if model is not None and asked.counts is None:
            asked = replace(asked, counts=[model.tokens(text) for text in asked.texts])
        return asked, model

    def _answer(
        self, spoken: Spoken, model: Served | None, asked: Asked, standing: Standing | None, job: str = ""
    ) -> dict[str, Any]:
        faults = self.faults.striking("embeddings", spoken.name, asked.model, asked.texts)
        for fault in faults:
            _refuse(fault, spoken, asked)
        if model is None:
            known = [name for provider, name in self.models.served if provider == spoken.name]
            raise spoken.no_model(asked.model, known)
        if standing is not None and standing.wait:
            raise spoken.rate_limited(model, standing, sum(asked.counts or ()))
        texts, billed, dimensions = checked(spoken, model, asked)
        if self.latency and not job:
            time.sleep(self.latency)
        vectors = self._vectors(model, texts, dimensions, asked.input_type, faults)
        self.bill.charge(spoken.name, asked.model, asked.texts, billed, asked.input_type, job)
        if any(fault.kind == "lost" for fault in faults):
            raise Hung
        return spoken.answer(asked, _spoiled(Reply(vectors, list(range(len(texts))), sum(billed)), faults, asked.texts))

    def _vectors(self, model: Served, texts: list[str], dimensions: int, input_type: str | None, faults: list[Fault]) -> Vectors:
        if any(fault.kind == "changed" for fault in faults):
            model = replace(model, salt=f"{model.salt} changed")
        return model.vectors(texts, dimensions, input_type)


def _refuse(fault: Fault, spoken: Spoken, asked: Asked) -> None:
    """What a fault does before anything is embedded."""
    if fault.kind == "stuck":
        fault.released.wait()
    elif fault.kind == "slow":
        time.sleep(fault.seconds)
    elif fault.kind == "reset":
        raise Hung
    elif fault.kind == "quota":
        raise spoken.no_money()
    elif fault.kind == "poison":
        raise spoken.refused_content(next(n for n, text in enumerate(asked.texts) if fault.holds in text))
    elif fault.kind == "error_body":
        said = spoken.told(fault.status, fault.words, fault.code)
        raise Refusal(200, json.dumps({"error": {"message": said.words, "code": said.status}}))
    elif fault.kind == "not_taken" and not _has(asked, fault.field):
        return
    elif fault.kind in ("refuse", "not_taken"):
        refusal = spoken.told(fault.status, fault.words, fault.code)
        if fault.retry_after is not None:
            refusal.headers["retry-after"] = f"{fault.retry_after:g}"
        raise refusal


def _has(asked: Asked, name: str) -> bool:
    return asked.encoding == "base64" if name == "encoding_format" else getattr(asked, name) is not None


# What stands where a vector should be.
INSTEAD: dict[str, Any] = {"null": None, "empty": [], "short": [0.5, 0.5]}


def _spoiled(reply: Reply, faults: list[Fault], texts: list[str]) -> Reply:
    vectors, indexes, instead = reply.vectors, reply.indexes, dict(reply.instead)
    for fault in faults:
        kind = fault.kind
        row = next((n for n, text in enumerate(texts) if fault.holds and fault.holds in text), len(texts) - 1)
        if kind == "too_few":
            vectors, indexes = vectors[:-1], indexes[:-1]
        elif kind == "too_many":
            vectors, indexes = np.concatenate([vectors, vectors[:1]]), [*indexes, len(indexes)]
        elif kind == "wrong_dimension":
            vectors = vectors[:, :-1]
        elif kind in ("nan", "infinite", "zeros"):
            vectors = vectors.copy()
            vectors[row, 0 if kind != "zeros" else slice(None)] = {"nan": np.nan, "infinite": np.inf, "zeros": 0.0}[kind]
        elif kind in INSTEAD:
            instead[row] = INSTEAD[kind]
        elif kind == "reordered":
            vectors, indexes = vectors[::-1], indexes[::-1]
        elif kind == "same_index":
            indexes = [0] * len(indexes)
        elif kind == "not_json":
            raise Refusal(200, "<html>a proxy's page</html>")
    return Reply(vectors, indexes, reply.tokens, instead)
