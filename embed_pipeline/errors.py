"""Every error a user can meet.

One base class. A message says what is wrong and where; `next_step` is the command or edit that mends it, and ends the text.
`EmbedPipelineError` and its subclasses are the only exceptions that the command line prints as a sentence; anything else is a defect.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from embed_pipeline.foreign_words import readable


class EmbedPipelineError(Exception):
    """Something was refused or failed in a way the user can act on.

    `code` is the same for every error of a class and does not change with the words. `fields` are the facts of the message that a program may
    want: names, counts, and for a refusal its `reason`, one word (docs/reference/errors.md). Each is text, a number, a truth value or a list.
    """

    exit_code = 1
    code: ClassVar[str] = "error"

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.code = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    def __init__(self, message: str, *, next_step: str | None = None, **fields: Any) -> None:
        # Here, once for all: many a message repeats what something else said, and each is printed, logged, stored or given to Dagster.
        self.message = readable(message, None)
        self.next_step = None if next_step is None else readable(next_step, None)
        self.fields = {name: readable(value, None) if isinstance(value, str) else value for name, value in fields.items()}
        super().__init__(self.message if self.next_step is None else f"{self.message} {self.next_step}")

    def as_values(self) -> dict[str, Any]:
        """The error as `--json` shows it."""
        return {"error": self.message, "code": self.code, "next_step": self.next_step, "fields": self.fields}


class ConfigurationError(EmbedPipelineError):
    """Invalid configuration: the YAML, a flag or an environment variable."""

    exit_code = 2


class DatabaseUnavailable(EmbedPipelineError):
    """PostgreSQL is unreachable, or an unsupported version."""


class StoreUnavailable(EmbedPipelineError):
    """The store of the vectors does not answer, or asks to slow down for longer than we wait. Nothing is lost; it may be tried again."""


class StoreRefused(EmbedPipelineError):
    """The store of the vectors refused a request for good: its own words are in the message, and the setting behind them where it has one."""


class AliasNotUpdated(EmbedPipelineError):
    """The cutover or rollback is committed, and the alias in the store still names the version before."""


class DocumentsTableError(EmbedPipelineError):
    """The documents table is missing, has no key, or lacks a declared column."""


class LossRefused(DocumentsTableError):
    """A comparison or load would remove more documents than reconcile.max_loss allows unasked; they were kept."""


class LoadError(EmbedPipelineError):
    """A file of documents cannot be read, or holds a row that is not a document."""


class AdoptRefused(EmbedPipelineError):
    """Existing vectors cannot be imported as a version, for the reason given. They were left as they are."""


class CatalogError(EmbedPipelineError):
    """The catalog does not have what was asked for: unknown index, unknown version, changed declaration."""


class IllegalTransition(EmbedPipelineError):
    """A version is not in a state from which the asked transition is allowed."""


class VersionRetired(IllegalTransition):
    """The version was retired while work for it was under way: there is nothing left to do for it."""


class VectorsGone(EmbedPipelineError):
    """The vectors of a live version are gone, or their table is not this package's: it was dropped or changed by hand."""


class AnotherLedger(EmbedPipelineError):
    """The points belong to another ledger (a copy of this database, or the one that this was copied from), or to nobody. They were left alone."""


class GateRefused(EmbedPipelineError):
    """The gate judged nothing and stored no evidence, for the reason given."""


class CutoverRefused(EmbedPipelineError):
    """The serving pointer was left exactly where it was, for the reason given."""


class ChangesOvertook(CutoverRefused):
    """Changes from before the mark became pending again in the last moment: nothing was moved, and trying again is right."""


class AdapterRefused(EmbedPipelineError):
    """No map between two versions' spaces was fitted, for the reason given. Nothing was changed."""


class RetireRefused(EmbedPipelineError):
    """The version's vectors were kept, for the reason given."""


class RemoveRefused(EmbedPipelineError):
    """Nothing was removed, for the reason given."""


class EmbedderError(EmbedPipelineError):
    """The embedding provider fails for everything: the run stops and nothing is marked done or rejected."""


class ProviderRefused(EmbedderError):
    """The provider refuses everything (no access, no credit, no such model, endpoint gone). Its own words are in the message."""


class ModelChanged(EmbedderError):
    """The model behind a version's name is known to be another one than its vectors were made with."""


class WrongAnswer(EmbedderError):
    """The embedder answered with something that is not one finite, non-zero vector of the declared size for each text."""


class WrongSpace(EmbedPipelineError):
    """A query vector was offered to the vectors of another version, or a model to a version that was registered with another one."""


class HoldoutError(EmbedPipelineError):
    """The held-out set cannot be used to judge anything: empty, too small, about unknown documents, or nobody finds anything on it."""


class FencedOff(EmbedPipelineError):
    """Another run has taken over a backfill's partition, or it is being compared: this run inserts nothing more into it."""


class Stopped(EmbedPipelineError):
    """An operator, the budget or the throttle stopped the run. Everything done so far is kept, and the same command resumes."""
