"""Estimates the time, disk, cost and locks of a migration from a sample; changes nothing in the database."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

from embed_pipeline.accounts.cost import Cost, cost_of
from embed_pipeline.accounts.meter import RateLimiter
from embed_pipeline.accounts.terms import Price, Terms
from embed_pipeline.adapt.curve import Curve
from embed_pipeline.catalog import curve_points, evidence, serving
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import census
from embed_pipeline.embedders.checked import VersionEmbedder
from embed_pipeline.errors import HoldoutError
from embed_pipeline.evaluate.statistics import required_queries
from embed_pipeline.evaluate.verdict import POWER
from embed_pipeline.flow import speed
from embed_pipeline.flow.speed import Sample
from embed_pipeline.index import held_out
from embed_pipeline.migrate import register
from embed_pipeline.postgres.connection import resolve_url
from embed_pipeline.report.look import Look, look
from embed_pipeline.spec import IndexSpec, VersionSpec
from embed_pipeline.stores.kind import Disk, kind_of
from embed_pipeline.throttle import pressure


@dataclass(frozen=True)
class GatePlan:
    """Whether the gate will be able to decide. `needed` is None while nothing measured says how queries scatter."""

    metric: str
    margin: float
    available: int
    needed: int | None
    sentence: str


@dataclass(frozen=True)
class Plan:
    """What `embed-pipeline plan` shows. `state` is the registered version's, or None; `warnings` say what would be refused."""

    index: str
    version: str
    state: str | None
    serving: str | None
    fingerprint: str
    documents_table: str
    documents: int
    text_bytes: int
    partitions: int
    sample: Sample
    disk: Disk
    chunker: str
    place: tuple[str, ...]
    """How the place of its vectors will be made, where there is something to say about it."""
    locks: tuple[str, ...]
    gate: GatePlan
    warnings: tuple[str, ...]
    next_command: str
    cost: Cost | None = None
    """What the provider will bill; None where nobody is paid."""
    curve: Curve | None = None
    """What the held-out queries have said of this migration so far; None before its preview."""


def plan(spec: IndexSpec, name: str) -> Plan:
    """Plan the migration to the declared version `name`. Embeds up to 64 documents, which a paid provider charges for.

    Raises ConfigurationError for an unknown version, DocumentsTableError for the table, EmbedderError when the embedder fails.
    """
    declared = spec.version(name)
    with look(spec) as seen:
        price = Terms.declared(spec).price(declared)
        # Before there is a catalog there is no meter that anybody could share.
        limiter = RateLimiter(resolve_url(spec.database_url)) if seen.has_catalog else None
        meter = None if limiter is None else limiter.meter(spec.name, name, declared, Terms.declared(spec))
        embedder = VersionEmbedder.open(declared, name=name, account=spec.account(declared), meter=meter)
        try:
            documents, text_bytes = (0, 0) if seen.index is None else census.measure(seen.conn, seen.index.source)
            sample = speed.measure([] if seen.index is None else speed.texts(seen.conn, seen.index.source), embedder)
            cost = cost_of(spec, declared, price, sample.billed, documents, text_bytes)
            known = {version.name: version for version in seen.registered}
            return Plan(
                index=spec.name,
                version=name,
                state=known[name].state if name in known else None,
                serving=serving.read(seen.conn, spec.name).version if seen.has_catalog else None,
                fingerprint=embedder.fingerprint,
                documents_table=seen.spec.source().table,
                documents=documents,
                text_bytes=text_bytes,
                partitions=known[name].partitions if name in known else spec.partitions,
                sample=sample,
                disk=kind_of(spec.store).disk(spec.store, documents, declared, sample.chunks_per_document),
                chunker="" if declared.chunker is None else str(declared.chunker),
                place=kind_of(spec.store).made(spec.store, seen.spec.source(), name, declared),
                locks=locks(spec, armed=bool(known)),
                gate=_gate_plan(seen, name),
                warnings=(
                    *_warnings(seen, name, embedder, documents),
                    *_money_warnings(spec, declared, price, cost),
                    *seen.warnings,
                ),
                next_command=_next(spec.name, name, known.get(name), documents, not spec.makes_table),
                cost=cost,
                curve=_curve(seen, name),
            )
        finally:
            embedder.close()
            if limiter is not None:
                limiter.close()


def locks(spec: IndexSpec, *, armed: bool) -> tuple[str, ...]:
    """Every lock that the migration takes where an application could meet it, with the longest time it may be waited for.

    `armed`: the index is registered, and its triggers are on the documents.
    """
    table = spec.source().table
    short = f"tried for {register.LOCK_TIMEOUT_MS / 1000:g} s at a time, at most {register.LOCK_TRIES} times"
    begin = () if armed else (f"registration of the index: SHARE ROW EXCLUSIVE on {table}, for one catalog transaction, {short}",)
    return (
        *begin,
        "registration of a version: nothing of the documents",
        f"backfill and dual-write: none on rows of {table}; they read it as any SELECT does, for some milliseconds at a time",
        f"ANN index: {kind_of(spec.store).ann_locks}",
        "cutover and rollback: one row of the catalog; the documents are not touched",
        "retire: the version's own rows and table; the documents are not touched",
    )


def spread_of(lower: float, upper: float, queries: int, confidence: float) -> float:
    """The standard deviation per query behind one-sided bounds of a mean at `confidence` (normal approximation)."""
    return (upper - lower) * math.sqrt(queries) / (2 * NormalDist().inv_cdf(confidence))


def _gate_plan(seen: Look, name: str) -> GatePlan:
    spec = seen.spec
    rule = spec.gate

    def say(available: int, needed: int | None, sentence: str) -> GatePlan:
        return GatePlan(rule.metric, rule.margin, available, needed, sentence)

    if spec.holdout is None:
        return say(0, None, "no held-out set is declared: only the first version of an index can pass without one")
    try:
        declared = held_out.of(spec)
        available = 0 if declared is None else len(declared.queries)
        if seen.index is not None and declared is not None:
            examined = held_out.examined(seen.conn, seen.index, declared)
            held_out.require(examined)
            available = examined.different
    except HoldoutError as problem:
        return say(0, None, f"the gate could not judge: {problem.message.rstrip('.')}")
    if available < rule.min_queries:
        return say(available, None, f"{available} queries, and gate.min_queries asks for {rule.min_queries}")
    measured = _measured_spread(seen, name)
    if measured is None:
        return say(available, None, f"{available} queries; how many would be needed is known after the first comparison")
    judged, spread = measured
    # Only the spread counts: two values that have it.
    half = min(spread / math.sqrt(2), 1.0)
    needed = max(required_queries([half, -half], rule.margin, rule.confidence, POWER), rule.min_queries)
    verdict = "enough" if available >= needed else "probably too few: the verdict may be undecided"
    return say(
        available,
        needed,
        f"{available} queries; about {needed} decide with a probability of {100 * POWER:g} % at margin {rule.margin:g} when the "
        f"two are equal (from the spread that the gate of {judged} measured): {verdict}",
    )


def _curve(seen: Look, name: str) -> Curve | None:
    serves = serving.read(seen.conn, seen.spec.name).version if seen.has_catalog else None
    if serves is None or serves == name:
        return None
    points = curve_points.listed(seen.conn, seen.spec.name, name, serves)
    return Curve.of(seen.spec.name, name, serves, seen.spec.gate.margin, points)


def _measured_spread(seen: Look, name: str) -> tuple[str, float] | None:
    """(version, standard deviation of its differences per query) from evidence: the version's own, else the newest other."""
    known = [version.name for version in seen.registered]
    for candidate in [name, *reversed([each for each in known if each != name])]:
        found = evidence.latest(seen.conn, seen.spec.name, candidate) if candidate in known else None
        values = {} if found is None else found.measures
        if values.get("metric") != seen.spec.gate.metric or values.get("difference") is None:
            continue
        spread = spread_of(values["lower"], values["upper"], values["queries"], values["confidence"])
        return candidate, spread
    return None


def _warnings(seen: Look, name: str, embedder: VersionEmbedder, documents: int) -> list[str]:
    found = [f"{each}: every command will refuse this" for each in seen.differences]
    found += [f"{each}: the next command that works on the index sets it" for each in seen.not_yet_set]
    for version in seen.registered:
        if version.name == name and version.state == "retired":
            found.append(f"{name} is retired for good; declare this model under another name")
        elif version.name == name and version.fingerprint != embedder.fingerprint and not seen.differences:
            found.append(
                f"{name} is registered as {version.fingerprint[:12]} and declared as {embedder.fingerprint[:12]}: "
                "a version never changes, every command will refuse this"
            )
        elif version.name != name and version.is_live and version.fingerprint == embedder.fingerprint:
            found.append(f"{name} has the same fingerprint as {version.name}, which is live: registration will refuse it")
    if 0 < documents < seen.spec.partitions:
        found.append(f"there are fewer documents ({documents}) than partitions ({seen.spec.partitions}); some stay empty")
    if documents == 0:
        found.append("there are no documents: key ranges are cut when the version is registered, so load before the backfill")
    loose = pressure.undeclared_standbys(seen.conn, seen.spec.throttle)
    if loose:
        found.append(f"connected, and not named in throttle.standbys, so no backfill waits for it: {', '.join(loose)}")
    return found


def _money_warnings(spec: IndexSpec, version: VersionSpec, price: Price, cost: Cost | None) -> list[str]:
    if spec.budget is not None and version.is_remote and price.usd_per_million is None:
        return [
            f"a budget is declared and the price of {version.model_name} is not known: declare it under prices, or the backfill is refused"
        ]
    if cost is not None and cost.may_exceed_budget:
        return [f"the budget may stop the backfill: budget.usd_per_version is {cost.budget:g}"]
    return []


def _next(index: str, name: str, known: Version | None, documents: int, own_table: bool) -> str:
    if known is not None and known.state != "building":
        return f"embed-pipeline status {index}"
    if documents == 0 and not own_table:
        return f"embed-pipeline load {index} FILE"
    return f"embed-pipeline backfill {index} {name}"
