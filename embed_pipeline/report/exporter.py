"""Metrics for Prometheus: what `measured` knows of each index, as text over HTTP, with names that never change.

A scrape never waits for a database that does not answer, and never shows what was true before it went away.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

import psycopg

from embed_pipeline.errors import ConfigurationError, EmbedPipelineError
from embed_pipeline.extras import needed_for
from embed_pipeline.report.measured import Facts, Measured, measured
from embed_pipeline.spec import IndexSpec

with needed_for("The exporter of metrics"):
    from prometheus_client import CollectorRegistry, start_http_server
    from prometheus_client.core import GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector

# Two scrapers, or a person beside one, cost the database one look.
FRESH_SECONDS = 5.0
# Prometheus gives a scrape up after ten seconds: before that it is told that there is no answer.
DEADLINE_SECONDS = 8.0
# A connection that a network has forgotten without a word hangs for as long as the kernel likes; after this another one is tried.
GIVEN_UP_SECONDS = 60.0
OUTCOMES = ("pass", "fail", "undecided")
PREFIX = "embed_pipeline_"
INDEX, VERSION = ("index",), ("index", "version")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kind:
    """One metric: what is said of it to Prometheus and in docs/monitoring."""

    labels: tuple[str, ...]
    help: str


# Gauges all: what a request was estimated at is counted while it is under way and set right when it ends, so even spending may go down,
# which Prometheus would take for a counter that began again.
METRICS = {
    "up": Kind(
        INDEX, "Whether the database of the index answered at this scrape; when it is 0, nothing else is said of the index."
    ),
    "look_seconds": Kind(INDEX, "How long the look at the catalog took."),
    "serving_info": Kind(
        (*VERSION, "route", "other", "fingerprint"),
        "What serves: the version, the kind of route, the version that refines it or asks it, its fingerprint. Always 1.",
    ),
    "serving_generation": Kind(INDEX, "The generation of the serving pointer: it grows by one at each move."),
    "version_info": Kind((*VERSION, "state", "model", "fingerprint"), "A registered version and its state. Always 1."),
    "partitions": Kind(VERSION, "Key ranges of a live version."),
    "partitions_filled": Kind(VERSION, "Key ranges of a live version that were filled and compared."),
    "coverage_ratio": Kind(
        VERSION,
        "The share of documents without an unexplained difference when a live version was last compared with all of them.",
    ),
    "coverage_timestamp_seconds": Kind(VERSION, "When that comparison was made."),
    "waiting_documents": Kind(VERSION, "Changes that wait for a live version."),
    "oldest_waiting_seconds": Kind(VERSION, "For how long the oldest of them has waited."),
    "dead_letters": Kind(VERSION, "Documents that a live version cannot have a vector of."),
    "doubts": Kind(INDEX, "Open reasons why changes may have been missed."),
    "held": Kind(INDEX, "Whether a person has paused or aborted backfills."),
    "gate_outcome": Kind(
        (*VERSION, "route", "outcome"), "1 for the outcome of the last gate of a live version, 0 for the others."
    ),
    "gate_timestamp_seconds": Kind((*VERSION, "route"), "When that gate was run."),
    "comparison_differences": Kind(INDEX, "What the last full comparison found that no change explains."),
    "comparison_timestamp_seconds": Kind(INDEX, "When the last full comparison was made."),
    "model_changed": Kind(VERSION, "Whether the model of a live version is another one behind the same name."),
    "model_check_timestamp_seconds": Kind(VERSION, "When that was last checked."),
    "readers": Kind(VERSION, "Processes that search and can embed queries for a live version."),
    "readers_left_behind": Kind(VERSION, "Processes that search and cannot."),
    "provider_requests": Kind((*VERSION, "work"), "Requests to the provider, by all processes; those under way too."),
    "provider_tokens": Kind((*VERSION, "work"), "Tokens that the provider was paid for, and the estimate of what is under way."),
    "provider_cost_usd": Kind((*VERSION, "work"), "What that cost in US dollars; absent where the price is not known."),
    "attention": Kind((*VERSION, "code", "severity"), "Something that needs a person; absent while it does not. Always 1."),
}

Sample = tuple[str, tuple[str, ...], float]


class IndexCollector(Collector):
    """Looks at the catalog when it is scraped."""

    def __init__(self, specs: Sequence[IndexSpec]) -> None:
        self._watched = [_Watched(spec) for spec in specs]

    def describe(self) -> Iterator[Metric]:
        """What it can say; a registry asks before the first scrape, and must not wait for a database."""
        return iter(_families().values())

    def collect(self) -> Iterator[Metric]:
        """One look at each index, at all of them at once."""
        now = time.monotonic()
        for each in self._watched:
            each.begin(now)
        families = _families()
        for each in self._watched:
            for name, labels, value in each.samples(now):
                families[name].add_metric(labels, value)
        return iter(families.values())


def _families() -> dict[str, GaugeMetricFamily]:
    return {name: GaugeMetricFamily(PREFIX + name, kind.help, labels=kind.labels) for name, kind in METRICS.items()}


@dataclass
class _Watched:
    """One index. At most one look a minute is left hanging, so that a database that hangs collects few threads and sessions."""

    spec: IndexSpec
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _look: _Look | None = None

    def begin(self, now: float) -> None:
        with self._lock:
            kept = FRESH_SECONDS if self._look is None or self._look.done.is_set() else GIVEN_UP_SECONDS
            if self._look is None or self._look.began < now - kept:
                self._look = _Look(self.spec)
                threading.Thread(target=self._look.run, name=f"metrics-{self.spec.name}", daemon=True).start()

    def samples(self, now: float) -> Iterator[Sample]:
        """Of a scrape that began at `now`. A look that hung through an earlier one says nothing of now, even when it ends."""
        look, index = self._look, (self.spec.name,)
        in_time = look is not None and look.done.wait(max(now + DEADLINE_SECONDS - time.monotonic(), 0))
        found = look.found if look is not None and in_time and look.began >= now - FRESH_SECONDS else None
        yield "up", index, float(found is not None)
        if look is not None and found is not None:
            yield "look_seconds", index, look.seconds
            yield from _of_index(found)
            for facts in found.facts:
                yield from _of_version(found, facts)


class _Look:
    def __init__(self, spec: IndexSpec) -> None:
        self.done = threading.Event()
        self.found: Measured | None = None
        self.seconds = 0.0
        self._spec = spec
        self.began = time.monotonic()

    def run(self) -> None:
        try:
            self.found = measured(self._spec)
        except (EmbedPipelineError, psycopg.Error) as problem:
            log.warning("index %s cannot be measured: %s", self._spec.name, " ".join(str(problem).split()))
        finally:
            self.seconds = time.monotonic() - self.began
            self.done.set()


def _of_index(found: Measured) -> Iterator[Sample]:
    index = (found.index,)
    if not found.facts:
        return
    route = found.pointer.route
    fingerprints = {each.version: each.fingerprint for each in found.facts}
    if route is not None:
        labels = (found.index, route.version, route.kind, route.other or "", fingerprints.get(route.version, ""))
        yield "serving_info", labels, 1.0
    yield "serving_generation", index, found.pointer.generation
    yield "doubts", index, found.doubts
    yield "held", index, float(found.held)
    if found.comparison is not None:
        yield "comparison_differences", index, found.comparison.differences
        yield from _at("comparison_timestamp_seconds", index, found.comparison.at)
    for wrong in dict.fromkeys((found.index, each.version or "", each.code, each.severity) for each in found.attention):
        yield "attention", wrong, 1.0
    for (version, kind), gate in sorted(found.gates.items(), key=lambda each: each[0]):
        for outcome in OUTCOMES:
            yield "gate_outcome", (found.index, version, kind, outcome), float(gate.outcome == outcome)
        yield from _at("gate_timestamp_seconds", (found.index, version, kind), gate.at)


def _of_version(found: Measured, facts: Facts) -> Iterator[Sample]:
    version = (found.index, facts.version)
    yield "version_info", (*version, facts.state, facts.model, facts.fingerprint), 1.0
    for work, spent in found.spent.get(facts.version, {}).items():
        yield "provider_requests", (*version, work), spent.requests
        yield "provider_tokens", (*version, work), spent.tokens
        if spent.usd is not None:
            yield "provider_cost_usd", (*version, work), spent.usd
    if facts.state == "retired":
        return
    yield "partitions", version, facts.partitions
    yield "partitions_filled", version, facts.filled
    if facts.coverage is not None:
        yield "coverage_ratio", version, facts.coverage
    yield from _at("coverage_timestamp_seconds", version, facts.coverage_at)
    pending = found.pending.get(facts.version)
    yield "waiting_documents", version, pending.rows if pending else 0
    yield "oldest_waiting_seconds", version, pending.oldest_seconds if pending else 0.0
    yield "dead_letters", version, facts.dead_letters
    yield "model_changed", version, float(facts.model_changed is not None)
    yield from _at("model_check_timestamp_seconds", version, facts.model_checked)
    yield "readers", version, facts.readers
    yield "readers_left_behind", version, facts.left_behind


def _at(name: str, labels: tuple[str, ...], at: datetime | None) -> Iterator[Sample]:
    if at is not None:
        yield name, labels, at.timestamp()


@contextmanager
def serving_metrics(specs: Sequence[IndexSpec], listen: str) -> Iterator[str]:
    """Metrics of these indexes over HTTP while the block runs; gives the URL. ConfigurationError where it cannot listen there."""
    host, port = _address(listen)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(IndexCollector(specs))
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as problem:
        raise ConfigurationError(
            f"Metrics cannot be served on {listen} ({problem.strerror or problem}).",
            next_step="Name an address of this machine and a free port, as in 127.0.0.1:9464.",
        ) from None
    try:
        yield f"http://{f'[{host}]' if ':' in host else host}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _address(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise ConfigurationError(f"{listen!r} is no address to listen on.", next_step="Write it as in 127.0.0.1:9464.")
    return host, int(port)
