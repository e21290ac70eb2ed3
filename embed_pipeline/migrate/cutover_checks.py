"""What must hold before the serving pointer moves: each is a refusal that names what is in the way and the next command."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from embed_pipeline.catalog import dead_letters, searchers, versions
from embed_pipeline.catalog import evidence as evidence_store
from embed_pipeline.catalog.evidence import Evidence
from embed_pipeline.catalog.route import Kind
from embed_pipeline.catalog.versions import Version
from embed_pipeline.documents import shape
from embed_pipeline.errors import CutoverRefused, ModelChanged
from embed_pipeline.index.handle import OpenIndex
from embed_pipeline.migrate import judged, model_check, verify
from embed_pipeline.migrate.standing import unless_dropped
from embed_pipeline.postgres import failures, holders

NAMED = 5
# A TRUNCATE or ALTER TABLE of the application that is under way is waited for; one of this age was forgotten.
LOCKED_SECONDS = 5.0

MAY: dict[Kind, str] = {"direct": "serve", "refine": "refine what serves", "bridge": "ask what serves"}


def require_evidence(conn: psycopg.Connection, index: OpenIndex, version: Version, route: Kind = "direct") -> Evidence:
    """The latest evidence about the version on such a route; CutoverRefused when there is none, it did not pass, or it is stale."""
    found = evidence_store.latest(conn, index.name, version.name, route)
    mend = f"Run: embed-pipeline gate {index.name} {version.name}{'' if route == 'direct' else f' --route {route}'}"
    if found is None:
        raise CutoverRefused(
            f"There is no evidence that {version.name} may {MAY[route]} {index.name}.",
            next_step=mend,
            reason="no_evidence",
        )
    if found.outcome != "pass":
        raise CutoverRefused(
            f"The gate of {index.name} did not pass {version.name}: {found.sentence}",
            next_step=mend,
            reason="gate_not_passed",
            outcome=found.outcome,
            evidence_id=found.id,
        )
    stale = judged.staleness(conn, index, version, found)
    if stale is not None:
        raise CutoverRefused(
            f"The evidence for {version.name} of {index.name} is stale: {stale}.",
            next_step=mend,
            reason="evidence_stale",
            evidence_id=found.id,
        )
    return found


def leave_behind(conn: psycopg.Connection, version: Version, serves: str | None, *, anyway: bool) -> tuple[str, ...]:
    """The processes that search on a machine without the version's model. `anyway` accepts that, and the audit names them."""
    unable = [str(each) for each in searchers.left_behind(conn, version)]
    if unable and not anyway:
        named = "; ".join(unable[:NAMED]) + (f"; and {len(unable) - NAMED} more" if len(unable) > NAMED else "")
        what = (
            "would find nothing" if serves is None else f"would go on with {serves} until that is retired, and then find nothing"
        )
        raise CutoverRefused(
            f"{len(unable)} of the processes that search {version.index} cannot embed queries for {version.name}, and {what}: {named}.",
            next_step=f"Put the model of {version.name} there (Searcher.prepare({version.name!r}) says whether it is), or leave them behind: "
            f"embed-pipeline cutover {version.index} {version.name} --anyway",
            reason="left_behind",
            searchers=unable,
        )
    if unable:
        versions.record_event(conn, version.index, "left behind", version=version.name, detail={"searchers": unable})
    return tuple(unable)


def refuse_changed_model(conn: psycopg.Connection, index: OpenIndex, version: Version) -> None:
    """Its queries would be embedded with another model than its documents."""
    try:
        model_check.require_same_model(conn, index, version)
    except ModelChanged as changed:
        raise CutoverRefused(changed.message, next_step=changed.next_step, reason="model_changed") from None


@contextmanager
def documents_as_armed(index: OpenIndex) -> Iterator[None]:
    """A table or column that was renamed or dropped since the index was opened is a refusal."""
    try:
        yield
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn) as problem:
        ours = failures.sentence(problem)
        if ours is not None:
            raise ours from problem
        raise CutoverRefused(
            f"{index.source} is not the table any more that capture was armed for: {problem.diag.message_primary}.",
            next_step="Correct documents in the index's defs.yaml, or put the table back; then run the same command again.",
            reason="documents_changed",
        ) from problem


def refuse_locked_documents(conn: psycopg.Connection, index: OpenIndex) -> None:
    """While nobody can read the documents, nobody can say what they are: a TRUNCATE or ALTER TABLE that was never ended."""
    table = index.source.identifier.as_string(conn)
    until = time.monotonic() + LOCKED_SECONDS
    while held := holders.of_tables(conn, [table], holders.OF_READERS):
        # How old another role's transaction is, not every role may see.
        if time.monotonic() > until or any(each.seconds is not None and each.seconds > LOCKED_SECONDS for each in held):
            raise CutoverRefused(
                f"Nobody can read {index.source}, so it cannot be compared with the vectors: it is locked by {holders.named(held)}.",
                next_step="End that, then run the same command again.",
                reason="documents_locked",
            )
        time.sleep(0.05)


def refuse_doubts(conn: psycopg.Connection, index: OpenIndex) -> None:
    doubts = shape.look(conn, index.source, index.name)
    if doubts:
        raise CutoverRefused(
            f"Changes of {index.source} may have been missed: {'; '.join(doubt.reason for doubt in doubts)}.",
            next_step=f"Run: embed-pipeline sync {index.name} --full; then the same command again.",
            reason="doubts",
            doubts=[doubt.reason for doubt in doubts],
        )


def require_coverage(conn: psycopg.Connection, index: OpenIndex, version: Version) -> int:
    coverage = verify.compare_all(conn, index, version, whole=False)
    if coverage.differences:
        raise CutoverRefused(
            f"Coverage of {index.name}.{version.name} is {coverage.share:.4%}: {coverage.missing} missing, {coverage.stale} stale, "
            f"{coverage.orphaned} orphaned, {coverage.wrong_chunks} with wrong chunks ({'; '.join(coverage.samples)}).",
            next_step=f"Run: embed-pipeline backfill {index.name} {version.name}; and: embed-pipeline sync {index.name} --full",
            reason="coverage",
            missing=coverage.missing,
            stale=coverage.stale,
            orphaned=coverage.orphaned,
            wrong_chunks=coverage.wrong_chunks,
        )
    if coverage.dead_letters > index.spec.gate.max_dead_letters:
        named = ", ".join(f"{each.shown_id} ({each.reason})" for each in dead_letters.first(conn, index.name, version.name))
        raise CutoverRefused(
            f"{coverage.dead_letters} documents have no vector in {version.name}, more than max_dead_letters "
            f"{index.spec.gate.max_dead_letters} allows: {named}.",
            next_step="Mend these documents, or raise gate.max_dead_letters if they may be missing from search.",
            reason="dead_letters",
            dead_letters=coverage.dead_letters,
        )
    with conn.transaction():
        return verify.record_coverage(conn, index, version.name, coverage)


def require_ann_index(conn: psycopg.Connection, index: OpenIndex, version: Version) -> None:
    store = index.store(version)
    ann = store.ann_index(conn)
    if ann is None:
        # Without its table it has none either.
        with unless_dropped(index, version):
            store.labels(conn)
    if ann is None or not ann.valid:
        raise CutoverRefused(
            f"The ANN index of {index.name}.{version.name} is {'missing' if ann is None else 'invalid'}.",
            next_step=f"Run: embed-pipeline backfill {index.name} {version.name}",
            reason="ann_index",
        )
