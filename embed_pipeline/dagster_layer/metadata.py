"""Reports of the library as Dagster metadata: numbers get a plot over time, tables and pictures stand inline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from embed_pipeline.adapt.age import Freshness
from embed_pipeline.adapt.curve import Curve
from embed_pipeline.catalog.judged_queries import QueryRow
from embed_pipeline.dagster_layer.names import Names
from embed_pipeline.dagster_layer.work import PARAGRAPH
from embed_pipeline.doctor.findings import Diagnosis
from embed_pipeline.evaluate.per_query import as_cells
from embed_pipeline.evaluate.report import inline_image
from embed_pipeline.evaluate.words import MEASURES
from embed_pipeline.migrate.adopt import Adopted
from embed_pipeline.migrate.after_cutover import Looked
from embed_pipeline.migrate.backfill import PartitionReport, Progress
from embed_pipeline.migrate.cutover import Moved
from embed_pipeline.migrate.dual_write import VersionSync
from embed_pipeline.migrate.examination import Examination
from embed_pipeline.migrate.fit import Fitted
from embed_pipeline.migrate.model_check import ModelCheck
from embed_pipeline.migrate.retire import Retired
from embed_pipeline.migrate.verdicts import GateResult
from embed_pipeline.migrate.verify import Compared
from embed_pipeline.report import on_call
from embed_pipeline.report.now import Now
from embed_pipeline.spec import IndexSpec, VersionSpec
from embed_pipeline.stores.protocol import AnnIndex, Coverage

Metadata = dict[str, Any]

# Of a gate, so many queries at most: an event in Dagster's storage is no place for all of a long set.
MOST_QUERIES = 500


def declared(version: VersionSpec) -> Metadata:
    """What a version is, for its asset's page."""
    return {
        "provider": version.provider,
        "model": version.model_name,
        "dimensions": version.dimensions,
        "distance": version.distance,
        "precision": version.precision,
        "chunker": "none" if version.chunker is None else str(version.chunker),
    }


def kinds(spec: IndexSpec, version: str) -> set[str]:
    """The store and the provider of a version, as the tags of its assets."""
    provider = spec.versions[version].provider
    return {spec.store.kind, "python" if ":" in provider else provider}


def adopted(done: Adopted) -> Metadata:
    """What an adoption found and did."""
    shown: Metadata = {
        "version": done.version,
        "documents": done.documents,
        "adopted": done.adopted,
        "to copy": done.to_copy,
        "differing": done.differing,
        "without text": done.without_text,
        "without vector": done.without_vector,
        "queued": done.queued,
    }
    if done.sample_median is not None and done.sample_lowest is not None:
        shown |= {"sample": done.sampled, "median cosine": done.sample_median, "lowest cosine": done.sample_lowest}
    return shown


def paid(tokens: int, usd: float | None) -> Metadata:
    """What a run asked a provider for; nothing where nobody is paid."""
    shown: Metadata = {"tokens": tokens} if tokens else {}
    return shown if usd is None else shown | {"usd": round(usd, 6)}


def partition(report: PartitionReport, unfilled: int, seconds_each: float) -> Metadata:
    """One filled partition; `unfilled` are left in the version, at `seconds_each` by this run's pace."""
    shown: Metadata = {
        "dagster/partition_row_count": report.documents,
        "documents": report.documents,
        "written": report.written,
        "rejected": report.rejected,
        "truncated": report.truncated,
        "seconds": round(report.seconds, 3),
        "documents per second": round(report.written / report.seconds, 1) if report.seconds > 0 else 0.0,
        "partitions left": unfilled,
        "seconds left": round(unfilled * seconds_each, 1),
    } | paid(report.tokens, report.usd)
    return shown | {"learned of the server": "\n".join(report.learned)} if report.learned else shown


def progress_line(progress: Progress) -> str:
    """Where a partition stands, in one line."""
    waiting = f"; waiting: {progress.waiting}" if progress.waiting else ""
    return (
        f"partition {progress.partition}: {progress.written} written of {progress.total} documents, "
        f"{progress.rate:.0f}/s, {progress.rejected} rejected{waiting}"
    )


def diagnosed(found: Diagnosis) -> Metadata:
    """What the doctor has found, the worst first, each with its next command."""
    lines = [f"{each.severity} `{each.code}`: {each.sentence} Next: `{each.next}`" for each in found.findings]
    shown: Metadata = {"looked at": found.looked_at, "findings": len(lines)}
    return shown | ({"found": dg.MetadataValue.md("\n\n".join(lines))} if lines else {})


def ann_index(built: AnnIndex, seconds: float) -> Metadata:
    """What was built. A store that does not tell how large it is shows no size."""
    shown: Metadata = {"seconds": round(seconds, 3), "valid": built.valid}
    if built.bytes is not None:
        shown["bytes"] = built.bytes
    if built.note:
        shown["note"] = built.note
    return shown


def coverage(found: Coverage) -> Metadata:
    shown: Metadata = {
        "share": found.share,
        "documents": found.documents,
        "vectors": found.vectors,
        "pending": found.pending,
        "dead letters": found.dead_letters,
        "missing": found.missing,
        "stale": found.stale,
        "orphaned": found.orphaned,
        "wrong chunks": found.wrong_chunks,
    }
    if found.samples:
        shown["samples"] = "; ".join(found.samples)
    return shown


def ann_recall(found: Examination) -> Metadata:
    measured = found.result.measures.get("ann_recall")
    shown: Metadata = {} if measured is None else {MEASURES["ann_recall"].name: round(float(measured), 3)}
    if measured is not None and found.ann_index is not None and found.ann_index.note:
        shown["note"] = found.ann_index.note
    return shown


def query_results(found: Sequence[QueryRow]) -> Metadata:
    """What each held-out query found under both versions, those that lost most first. Their texts stand in Dagster's own storage then."""
    rows = as_cells(found, MOST_QUERIES)
    shown = f" ({len(rows)} of {len(found)})" if len(rows) < len(found) else ""
    return {f"query results{shown}": dg.MetadataValue.table([dg.TableRecord(row) for row in rows])}


def at_once(result: GateResult) -> str:
    """The sentence, the metrics, the picture and the other tables, as the description of a check: Dagster draws that, and shows a mere link
    to what is metadata. It shows the first 250 pixels, and the rest after *Show more*."""
    metrics, _, others = result.table.strip().partition(PARAGRAPH)
    return PARAGRAPH.join(part for part in (result.sentence, metrics, _picture(result), others) if part)


def _picture(result: GateResult) -> str | None:
    alt = f"{result.version} of {result.index}: {result.outcome}"
    return None if result.draw is None else inline_image(result.draw(), alt)


def verdict(result: GateResult) -> Metadata:
    """The sentence, and all that is behind it, with the table and the picture."""
    shown = evidence(result)
    if result.table:
        shown["table"] = dg.MetadataValue.md(result.table)
    picture = _picture(result)
    return shown if picture is None else shown | {"plot": dg.MetadataValue.md(picture)}


def evidence(result: GateResult) -> Metadata:
    """The sentence, the numbers behind it, and what each query found."""
    shown: Metadata = {
        "outcome": result.outcome,
        "sentence": result.sentence,
        "evidence": dg.MetadataValue.text(str(result.evidence_id)),
        "baseline": result.baseline or "none",
    }
    shown |= numbers(result.measures)
    if result.queries:
        shown |= query_results(result.queries)
    if result.threshold:
        shown["threshold"] = result.threshold
    return shown


def fitted(found: Fitted) -> Metadata:
    """The adapter that is kept, and how every kind that was tried agreed on pairs held out."""
    best = found.agreements[found.kind]
    rows = [
        f"| {kind} | {each.neighbours:.3f} | {each.keep_old:.3f} | {each.cosine:.3f} | {each.itself:.3f} |"
        for kind, each in found.agreements.items()
    ]
    header = [
        "| kind | new model's neighbours found | by the old model itself | cosine | nearest is itself |",
        "|---|---:|---:|---:|---:|",
    ]
    return {
        "sentence": found.sentence,
        "adapter": found.adapter_id,
        "kind": found.kind,
        "into": found.into,
        "pairs": found.pairs,
        "held out": found.held_out,
        "agreement": best.neighbours,
        "cosine": best.cosine,
        "documents it cannot find": found.unseen,
        "table": dg.MetadataValue.md("\n".join([*header, *rows])),
    }


def freshness(found: Freshness) -> Metadata:
    """How well what was written since the fit agrees; the mean cosine gets a plot over time."""
    shown: Metadata = {"adapter": found.adapter_id, "outcome": found.outcome, "pairs": found.pairs, "cosine then": found.then}
    return shown if found.now is None else shown | {"cosine now": found.now}


def cost_curve(curve: Curve) -> Metadata:
    """The advice, the newest point's numbers, the table and the picture."""
    point = curve.points[-1]
    shown: Metadata = {
        "advice": curve.advice,
        "version": curve.version,
        "documents": point.documents,
        "of documents": point.of_documents,
        "partitions": point.partitions,
    }
    shown |= {arm.replace("_", " "): each.mean for arm, each in point.arms.items()}
    shown |= {} if point.usd is None else {"usd": round(point.usd, 6)}
    shown["table"] = dg.MetadataValue.md(curve.table())
    shown["plot"] = dg.MetadataValue.md(inline_image(curve.draw(), f"cost curve of {curve.version} of {curve.index}"))
    return shown


def numbers(measures: Mapping[str, Any]) -> Metadata:
    """The measures that are one number, in words; rows of the table are shown as the table. Dagster plots what is a number: of a constant it would
    draw a line of dots."""
    shown: Metadata = {}
    for name, words in MEASURES.items():
        value = measures.get(name)
        if isinstance(value, (int, float)):
            said = round(value, 3) if isinstance(value, float) else value
            shown[words.name] = said if words.plotted else dg.MetadataValue.text(f"{said:g}")
    return shown


def moved(done: Moved) -> Metadata:
    """A move of the serving pointer. Evidence belongs to a cutover; a rollback has none."""
    shown: Metadata = {
        "version": done.version,
        "previous": done.previous or "none",
        "route": str(done.route),
        "generation": done.generation,
        "seconds": round(done.seconds, 3),
    } | doubts(done.doubts)
    if done.evidence_id is not None:
        shown["evidence"] = done.evidence_id
    if done.stale:
        shown["stale documents"] = len(done.stale)
    if done.left_behind:
        shown["left behind"] = "; ".join(done.left_behind)
    return shown


def synced(result: VersionSync) -> Metadata:
    """What a dual-write did for one version."""
    shown: Metadata = {
        "written": result.written,
        "unchanged": result.settled,
        "rejected": result.rejected,
        "retried": result.retried,
        "pending": result.pending,
    } | paid(result.tokens, result.usd)
    if result.error:
        shown["error"] = result.error
    return shown


def compared(done: Compared) -> Metadata:
    """What a full comparison found; the differences as one number get a plot over time."""
    shown: Metadata = {
        "sentence": done.sentence,
        "differences": sum(done.queued.values()),
        "rearmed": len(done.rearmed),
        "doubts": len(done.doubts),
    }
    return shown | {f"{version} queued": number for version, number in done.queued.items()}


def now(names: Names, found: Now) -> Metadata:
    """An index as it is. Numbers are what changes over time: Dagster plots them.

    The asset's first page shows these and not the event's description, so who moved it and why stands here as well: in one row.
    """
    answers = {answer.name: answer for answer in on_call.answers(found)}
    serves = found.serves
    shown: Metadata = {"serves": str(found.status.serving.route or "nothing")}
    if serves is not None and found.moved is not None:
        shown |= {
            "generation": dg.MetadataValue.text(str(found.status.serving.generation)),
            "since": dg.MetadataValue.timestamp(found.moved.at),
            "by": found.moved.actor + (f": {found.moved.reason}" if found.moved.reason else ""),
            "changes waiting": serves.pending,
            "oldest waits (seconds)": round(serves.oldest_pending_seconds),
            "documents without vector": serves.dead_letters,
            "coverage": on_call.coverage(found) or "not compared yet",
            "rollback": answers[on_call.ROLLBACK_POSSIBLE].sentence,
        }
    shown |= {
        "capture": answers[on_call.CAPTURE_ARMED].sentence,
        "backfills": found.status.control.state
        if found.status.control.state == "running"
        else f"{found.status.control.state} by {found.status.control.changed_by}",
        "versions": dg.MetadataValue.md(on_call.table(found)),
        "next": found.status.next.why,
    }
    return shown | launch(names, found.status.next.command)


def launch(names: Names, command: str | None) -> Metadata:
    """A link to the job that does what the command does; nothing where there is none."""
    job = names.job_of(command)
    return {} if job is None else {"launch": dg.MetadataValue.url(_address(job))}


def link(names: Names, command: str) -> str:
    """The same in Markdown; where there is no such job, the command itself."""
    job = names.job_of(command)
    return f"`{command}`" if job is None else f"[{job}]({_address(job)})"


def _address(job: str) -> str:
    """The UI's own, of a job of that name in whichever code location it is."""
    return f"/guess/{job}"


def doubts(reasons: Sequence[str]) -> Metadata:
    """Why changes may have been missed; nothing where nothing is doubted."""
    return {"doubts": len(reasons), "doubted because": "; ".join(reasons)} if reasons else {}


def models_checked(found: Sequence[ModelCheck]) -> Metadata:
    """How near the models of today are to what was kept; the lowest cosine gets a plot over time."""
    shown: Metadata = {f"{each.version} outcome": each.outcome for each in found}
    return shown | {f"{each.version} lowest cosine": each.lowest for each in found if each.lowest is not None}


def looked(names: Names, found: Looked) -> Metadata:
    """A look after a cutover; its times get a plot."""
    shown: Metadata = {"outcome": found.outcome, "version": found.version, "generation": found.generation, "look": found.number}
    shown |= {each: found.measures[each] for each in ("queries", "p50_ms", "p95_ms", "before") if each in found.measures}
    if found.rolled_back is not None:
        return shown | {f"rolled back, {name}": value for name, value in moved(found.rolled_back).items()}
    return shown | (launch(names, f"embed-pipeline rollback {names.index}") if found.outcome == "fail" else {})


def retired(done: Retired) -> Metadata:
    return {"version": done.version, "freed bytes": done.freed_bytes}
