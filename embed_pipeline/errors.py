"""Every error a user can meet.

One base class. A message says what is wrong and where; `next_step` is the command or edit that mends it, and ends the text.
`EmbedPipelineError` and its subclasses are the only exceptions that the command line prints as a sentence; anything else is a defect.
"""

from __future__ import annotations

from embed_pipeline.foreign_words import readable


class EmbedPipelineError(Exception):
    """Base class: something was refused or failed in a way the user can act on."""

    exit_code = 1
    paid: object | None = None
    """Of an embedder that failed in the middle: what it had answered by then, for who can keep it (`migrate/embed.py`)."""

    def __init__(self, message: str, *, next_step: str | None = None) -> None:
        # Here, once for all: many a message repeats what something else said, and each is printed, logged, stored or given to Dagster.
        self.message = readable(message, None)
        self.next_step = None if next_step is None else readable(next_step, None)
        super().__init__(self.message if self.next_step is None else f"{self.message} {self.next_step}")


class ConfigurationError(EmbedPipelineError):
    """The YAML, a flag or an environment variable does not say something that can be carried out."""

    exit_code = 2


class DatabaseUnavailable(EmbedPipelineError):
    """PostgreSQL does not answer, or is not one that this package can stand on."""


class StoreUnavailable(EmbedPipelineError):
    """The store of the vectors does not answer, or asks to slow down for longer than we wait. Nothing is lost; it may be tried again."""


class ReadersNotTold(EmbedPipelineError):
    """Serving has moved, and readers who ask the store instead of the catalog could not be told yet."""


class DocumentsTableError(EmbedPipelineError):
    """The documents table is missing, has no key, or lacks a declared column."""


class LossRefused(DocumentsTableError):
    """More documents would be removed at once than reconcile.max_loss allows without being told to; they were kept."""


class LoadError(EmbedPipelineError):
    """A file of documents cannot be read, or holds something that is no document."""


class AdoptRefused(EmbedPipelineError):
    """What was there before cannot become a version as it is, for the reason given. Its vectors were left as they are."""


class CatalogError(EmbedPipelineError):
    """The control plane does not hold what was asked for (unknown index, unknown version, changed declaration)."""


class IllegalTransition(EmbedPipelineError):
    """A version is not in a state from which the asked transition is allowed."""


class VersionRetired(IllegalTransition):
    """The version was retired while work for it was under way: there is nothing left to do for it."""


class VectorsGone(EmbedPipelineError):
    """The vectors of a version that is live are not there any more, or are no table of this package's: somebody dropped or changed them."""


class AnotherLedger(EmbedPipelineError):
    """The points belong to another ledger (a copy of this database, or the one that this was copied from), or to nobody. They were left alone."""


class CutoverRefused(EmbedPipelineError):
    """The serving pointer was left exactly where it was, for the reason given."""


class ChangesOvertook(CutoverRefused):
    """Changes from before the mark became pending again in the last moment: nothing was moved, and trying again is right."""


class RetireRefused(EmbedPipelineError):
    """The version's vectors were kept, for the reason given."""


class EmbedderError(EmbedPipelineError):
    """The embedding provider fails for everything: the run stops and nothing is marked done or rejected."""


class ProviderRefused(EmbedderError):
    """The provider refuses everything (no access, no credit, no such model, endpoint gone). Its own words are in the message."""


class ModelChanged(EmbedderError):
    """The model behind a version's name is known to be another one than its vectors were made with."""


class WrongAnswer(EmbedderError):
    """The embedder answered with something that is not one finite, non-zero vector of the declared size for each text."""


class WrongSpace(EmbedPipelineError):
    """A query vector of one embedding version was offered to the vectors of another."""


class HoldoutError(EmbedPipelineError):
    """The held-out set cannot be used to judge anything: empty, too small, or about unknown documents."""


class FencedOff(EmbedPipelineError):
    """A backfill's partition is another run's by now, or is being compared: nothing more is inserted into it by this run."""


class Stopped(EmbedPipelineError):
    """A person, the budget or the throttle said stop; everything done so far is kept and the same command resumes."""
