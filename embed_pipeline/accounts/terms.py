"""Accounts with providers as the catalog knows them: what is declared, what a request costs, what was spent, who waits and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from psycopg.types.json import Jsonb

from embed_pipeline.embedders import models
from embed_pipeline.embedders.metering import Spent
from embed_pipeline.embedders.protocol import Urgency
from embed_pipeline.postgres.queries import Queries
from embed_pipeline.spec import AccountSpec, BudgetSpec, IndexSpec, PriceSpec, VersionSpec

queries = Queries(__file__, "terms.sql")

Kind = Literal["query", "dual-write", "check", "backfill", "batch"]

KINDS: Mapping[Urgency, Kind] = {
    Urgency.QUERY: "query",
    Urgency.SERVING: "dual-write",
    Urgency.LIVE: "dual-write",
    Urgency.CHECK: "check",
    Urgency.BACKFILL: "backfill",
}


@dataclass(frozen=True)
class Price:
    """US dollars for a million tokens; None where nobody knows. In batches a model without a price of its own costs the same."""

    usd_per_million: float | None = None
    batch_usd_per_million: float | None = None

    def usd(self, tokens: float) -> float | None:
        """The price of so many tokens, asked one request at a time."""
        return None if self.usd_per_million is None else tokens * self.usd_per_million / 1_000_000

    def batch_usd(self, tokens: float) -> float | None:
        """The same through the provider's batch interface."""
        return None if self.batch_usd_per_million is None else tokens * self.batch_usd_per_million / 1_000_000


@dataclass(frozen=True)
class Terms:
    """The accounts, prices and budget that an index declares."""

    accounts: Mapping[str, AccountSpec]
    prices: Mapping[str, PriceSpec]
    budget: BudgetSpec | None

    @classmethod
    def declared(cls, spec: IndexSpec) -> Terms:
        """As the declaration has them."""
        return cls(spec.accounts, spec.prices, spec.budget)

    @classmethod
    def read(cls, conn: psycopg.Connection, index: str) -> Terms:
        """As they were last registered; the defaults for an index that was registered before there were any."""
        row = conn.execute(queries("terms"), {"index": index}).fetchone()
        kept: dict[str, Any] = {} if row is None else row[0]
        budget = kept.get("budget")
        return cls(
            {name: AccountSpec.model_validate(each) for name, each in kept.get("accounts", {}).items()},
            {name: PriceSpec.model_validate(each) for name, each in kept.get("prices", {}).items()},
            None if budget is None else BudgetSpec.model_validate(budget),
        )

    def keep(self, conn: psycopg.Connection, index: str) -> None:
        """Keep them in the catalog for who knows the database only. There is no secret in them."""
        kept = {
            "accounts": {name: each.model_dump(mode="json") for name, each in self.accounts.items()},
            "prices": {name: each.model_dump(mode="json") for name, each in self.prices.items()},
            "budget": None if self.budget is None else self.budget.model_dump(mode="json"),
        }
        conn.execute(queries("keep_terms"), {"index": index, "terms": Jsonb(kept)})

    def account(self, version: VersionSpec) -> AccountSpec:
        """The account of a version, with its defaults where it is not declared."""
        return self.accounts.get(version.account_name or "", AccountSpec())

    def price(self, version: VersionSpec) -> Price:
        """The declared price of the version's model, else the packaged one (`embedders/models.yaml`)."""
        declared = self.prices.get(version.model_name)
        if declared is not None:
            online: float | None = declared.usd_per_million_tokens
            batch = declared.batch_usd_per_million_tokens
        else:
            model = models.known(version.provider, version.model_name)
            online = None if model is None else model.usd_per_million_tokens
            batch = None if model is None else model.batch_usd_per_million_tokens
        return Price(online, online if batch is None else batch)


def spending(conn: psycopg.Connection, index: str) -> dict[str, dict[Kind, Spent]]:
    """The cost of each version of an index so far, by kind of work; requests under way count as estimated."""
    found: dict[str, dict[Kind, Spent]] = {}
    for version, kind, requests, tokens, usd in conn.execute(queries("spending"), {"index": index}):
        found.setdefault(version, {})[kind] = Spent(requests, tokens, usd)
    return found


def total(parts: Mapping[Kind, Spent]) -> Spent:
    """All kinds of work together. Without a price for one of them there is no price for all."""
    prices = [each.usd for each in parts.values()]
    usd = None if any(price is None for price in prices) else sum(price for price in prices if price is not None)
    return Spent(sum(each.requests for each in parts.values()), sum(each.tokens for each in parts.values()), usd)


@dataclass(frozen=True)
class AccountState:
    """One account now: what it may ask for in a minute and what it asked for in the last one, and who waits for how long, in seconds."""

    account: str
    max_requests: int | None
    max_tokens: int | None
    requests: int = 0
    tokens: int = 0
    blocked_seconds: float = 0.0
    waiting: str = ""
    """Why the most urgent of those who wait does; empty: nobody waits."""
    waiting_for: str = ""
    waiting_seconds: float = 0.0


def account_state(conn: psycopg.Connection, account: str, declared: AccountSpec) -> AccountState:
    """The state of an account that an index declares, or that its provider's name stands for."""
    limits = (declared.requests_per_minute, declared.tokens_per_minute)
    row = conn.execute(queries("account_state"), {"account": account}).fetchone()
    if row is None:
        return AccountState(account, *limits)
    blocked, learned_requests, learned_tokens, requests, tokens = row
    waits = conn.execute(queries("account_waits"), {"account": account}).fetchone()
    urgency, reason, seconds = waits or (None, "", 0.0)
    return AccountState(
        account,
        _least(limits[0], learned_requests),
        _least(limits[1], learned_tokens),
        requests,
        tokens,
        blocked,
        reason,
        "" if urgency is None else KINDS[Urgency(urgency)],
        seconds,
    )


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)
