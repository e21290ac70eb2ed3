"""Accounts with providers, what they cost and may cost, and whether their models are still the same."""

from __future__ import annotations

from pydantic import Field

from embed_pipeline.spec.base import Declared


class AccountSpec(Declared):
    """An account with a provider: where its key is, and what it may ask for. Limits hold for all processes of a database together."""

    api_key_env: str | None = Field(
        None,
        min_length=1,
        description="environment variable that holds the key; absent: the one that the provider's library reads",
    )
    requests_per_minute: int | None = Field(None, ge=1, description="absent: what the provider's answers say")
    tokens_per_minute: int | None = Field(None, ge=1, description="absent: what the provider's answers say")
    timeout_seconds: float = Field(60.0, gt=0, description="of one request")
    max_tries: int = Field(6, ge=1, le=100, description="of one request that fails in a way that may pass; then the run stops")


class PriceSpec(Declared):
    """What a model costs, where the packaged price table is wrong or does not know it."""

    usd_per_million_tokens: float = Field(ge=0)
    batch_usd_per_million_tokens: float | None = Field(None, ge=0, description="absent: batch mode costs the same")


class BudgetSpec(Declared):
    """What may be spent on one version before its backfill stops. What serves is never stopped for money."""

    usd_per_version: float = Field(gt=0)


class ModelCheckSpec(Declared):
    """When a stored sample is embedded again, to see whether a provider still answers with the same model."""

    schedule: str = Field("41 4 * * *", description="cron, UTC; it embeds 16 short texts for each version of a provider")
    min_cosine: float = Field(0.995, gt=0, le=1, description="the least cosine between a stored vector and the one of today")
