"""Estimates a migration's cost, and its duration under the account's limits, from a sample, with the error of the estimate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from embed_pipeline.accounts.terms import Price
from embed_pipeline.spec import AccountSpec, IndexSpec, VersionSpec

# Two-sided 95 % quantiles of Student's t by degrees of freedom; above them the last one, which is a little too wide.
T_95 = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
# The share of a limit that the pace of a backfill leaves it (catalog/migrations/sql/0005_providers.sql).
PACE = 60 / 62.6


@dataclass(frozen=True)
class Cost:
    """Tokens of all documents and what they cost, each with the half width of its 95 % interval; None: not known.

    `seconds` is the least time that the declared limits allow; None where none is declared.
    """

    tokens: int
    tokens_error: int | None
    usd: float | None
    usd_error: float | None
    batch_usd: float | None
    seconds: float | None
    budget: float | None
    account: str

    @property
    def may_exceed_budget(self) -> bool:
        """Whether the budget may stop the backfill before its end."""
        return self.budget is not None and self.usd is not None and self.usd + (self.usd_error or 0.0) > self.budget


def estimate(batches: Sequence[tuple[int, int]], text_bytes: int) -> tuple[int, int | None] | None:
    """(tokens, half width of the 95 % interval) of `text_bytes`, from (bytes, tokens) of each batch of a sample; None without tokens.

    A ratio estimate with its standard error from the residuals of the batches (Cochran, "Sampling Techniques", 3rd ed., chapter 6). With
    one batch nothing tells how they scatter.
    """
    batches = [(size, tokens) for size, tokens in batches if size]
    if not batches or not any(tokens for _, tokens in batches):
        return None
    n, size = len(batches), sum(size for size, _ in batches)
    ratio = sum(tokens for _, tokens in batches) / size
    if n == 1:
        return round(ratio * text_bytes), None
    residuals = sum((tokens - ratio * size) ** 2 for size, tokens in batches)
    error = math.sqrt(n / (n - 1) * residuals) / size
    return round(ratio * text_bytes), math.ceil(T_95[min(n - 1, len(T_95)) - 1] * error * text_bytes)


def cost_of(
    spec: IndexSpec, version: VersionSpec, price: Price, batches: Sequence[tuple[int, int]], documents: int, text_bytes: int
) -> Cost | None:
    """The cost of embedding all documents once; None where nobody is paid or the sample was not billed."""
    tokens = estimate(batches, text_bytes)
    if version.account_name is None or tokens is None:
        return None
    expected, error = tokens
    return Cost(
        tokens=expected,
        tokens_error=error,
        usd=price.usd(expected),
        usd_error=None if error is None else price.usd(error),
        batch_usd=price.batch_usd(expected),
        seconds=_least_seconds(spec.account(version), version, expected, documents),
        budget=None if spec.budget is None else spec.budget.usd_per_version,
        account=version.account_name,
    )


def _least_seconds(account: AccountSpec, version: VersionSpec, tokens: int, documents: int) -> float | None:
    minutes = []
    if account.tokens_per_minute is not None:
        minutes.append(tokens / account.tokens_per_minute)
    if account.requests_per_minute is not None:
        minutes.append(documents / version.texts_per_call / account.requests_per_minute)
    return 60 * max(minutes) / PACE if minutes else None
