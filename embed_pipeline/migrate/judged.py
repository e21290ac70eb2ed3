"""What a verdict is about, as it is now, and whether a verdict of before still is about it."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from typing import Any

import psycopg

from embed_pipeline.catalog import evidence, serving, versions
from embed_pipeline.catalog.evidence import Evidence, Present, Texts
from embed_pipeline.catalog.route import Kind
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import census
from embed_pipeline.errors import EmbedPipelineError
from embed_pipeline.index import held_out
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import beside, refining
from embed_pipeline.spec import IndexSpec

# Of so many documents the evidence keeps the hash: of all where there are no more. A share of 5 % is known to 0.5 % then (one standard error).
SAMPLED = 2_000
# What decides, and when a held-out set is believed. The other settings say what a cutover accepts, which it asks by itself.
BELIEVES = ("max_missing", "min_baseline")
DECIDES = ("metric", "margin", "confidence", "min_queries", "floor", "floor_alone", "min_ann_recall")


def rule(spec: IndexSpec) -> dict[str, Any]:
    """Every setting that decides a verdict, by its name in the YAML."""
    found = {f"gate.{name}": getattr(spec.gate, name) for name in DECIDES}
    for column, each in spec.gate.slices.items():
        found |= {f"gate.slices.{column}.{name}": value for name, value in each.model_dump().items()}
    return found if spec.holdout is None else found | {f"holdout.{name}": getattr(spec.holdout, name) for name in BELIEVES}


def judges_by(spec: IndexSpec) -> dict[str, Any]:
    """What a declaration judges by, for moves that are made by SQL. A set whose file is not on this machine, or cannot be read, is left out."""
    found = {"rule": rule(spec), "max_row_change": spec.gate.max_row_change}
    with suppress(EmbedPipelineError):
        found["holdout_sha256"] = _sha256(spec)
    return found


def present(
    conn: psycopg.Connection, index: OpenIndex, version: Version, documents: int | None = None, route: Kind = "direct"
) -> Present:
    """The world that evidence about such a route of `version` describes, as it is now, and what is searched as it is searched."""
    if route != "direct":
        return _beside(conn, index, version, documents, route)
    pointer = serving.read(conn, index.name)
    serves = pointer.version if pointer.version != version.name else None
    searched = _searched(conn, index, version)
    return Present(
        fingerprint=version.fingerprint,
        baseline_version=serves,
        holdout_sha256=_sha256(index.spec),
        documents=census.count(conn, index.source) if documents is None else documents,
        ann_index=searched["ann_index"],
        ef_search=searched["hnsw.ef_search"],
        rule=rule(index.spec),
        baseline={} if serves is None else _searched(conn, index, versions.get(conn, index.name, serves)),
    )


def _beside(conn: psycopg.Connection, index: OpenIndex, version: Version, documents: int | None, kind: Kind) -> Present:
    """Of a route beside what serves: what is found comes out of the ANN index of what serves."""
    route = beside.wanted(conn, index, version, kind)
    searched = _searched(conn, index, index.space(index.version(conn, route.version)).version)
    there = census.count(conn, index.source) if documents is None else documents
    return Present(
        fingerprint=version.fingerprint,
        baseline_version=route.version,
        holdout_sha256=_sha256(index.spec),
        documents=there,
        ann_index=searched["ann_index"],
        ef_search=searched["hnsw.ef_search"],
        rule=rule(index.spec),
        baseline=searched,
        route=kind,
        depth=route.depth,
        adapter=route.adapter,
        filled=refining.filled(conn, index, version, there) if kind == "refine" else None,
    )


def texts(conn: psycopg.Connection, index: OpenIndex, judged: Collection[str]) -> tuple[int, Texts]:
    """How many documents there are, and the texts that a verdict is about: those of the documents `judged`, and of a sample of all."""
    documents, sampled = census.count_and_choose(conn, index.source, SAMPLED)
    wanted = sorted({*judged, *sampled})
    found = census.hashes(conn, index.source, wanted)
    return documents, Texts(
        judged={doc_id: found[doc_id] for doc_id in sorted(judged) if doc_id in found},
        sampled={doc_id: found[doc_id] for doc_id in sampled if doc_id in found},
    )


def staleness(conn: psycopg.Connection, index: OpenIndex, version: Version, found: Evidence) -> str | None:
    """Why evidence about `version` no longer describes what would serve; None while it does."""
    now, allowed = present(conn, index, version, route=found.route), index.spec.gate.max_row_change
    stale = evidence.staleness(found, now, allowed)
    if stale is not None:
        return stale
    about = evidence.texts_of(conn, found)
    return evidence.moved_texts(found, about, census.hashes(conn, index.source, about.doc_ids), now.documents, allowed)


def _sha256(spec: IndexSpec) -> str | None:
    holdout = held_out.of(spec)
    return None if holdout is None else holdout.sha256


def _searched(conn: psycopg.Connection, index: OpenIndex, version: Version) -> dict[str, Any]:
    ann = index.store(version).ann_index(conn)
    return {
        "fingerprint": version.fingerprint,
        "ann_index": None if ann is None else ann.oid,
        "hnsw.ef_search": version.declared.hnsw.ef_search,
    }
