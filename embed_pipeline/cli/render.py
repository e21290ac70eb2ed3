"""Results as text for people: aligned columns without borders, sizes and times in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from embed_pipeline.report.ages import duration

if TYPE_CHECKING:
    from embed_pipeline.accounts.cost import Cost
    from embed_pipeline.accounts.terms import AccountState
    from embed_pipeline.adapt.curve import Curve
    from embed_pipeline.catalog.control import ThrottleState
    from embed_pipeline.migrate.examination import Check
    from embed_pipeline.migrate.sample import Sampled
    from embed_pipeline.report.plan import Plan
    from embed_pipeline.report.version_status import VersionStatus
    from embed_pipeline.stores.protocol import Coverage

# What an open doubt means.
DOUBTED = "Every search checks its hits until a full comparison has passed"
# Where the second column of a plan begins.
PLAN_HANG = 14
# And what a check says, after whether it passed and its name.
CHECK_HANG = 25
# A backfill that waits speaks every two seconds.
SILENT_SECONDS = 30.0


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with columns as wide as their widest cell. Numbers (and what begins with a digit) are aligned to the right."""
    cells = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(header))]
    right = [bool(rows) and all(_is_number(row[column]) for row in rows) for column in range(len(header))]

    def line(values: Sequence[str]) -> str:
        padded = (
            value.rjust(width) if to_right else value.ljust(width)
            for value, width, to_right in zip(values, widths, right, strict=True)
        )
        return "  ".join(padded).rstrip()

    return [line(each) for each in cells]


def _is_number(cell: str) -> bool:
    """A number with or without a unit, or nothing; not a date."""
    return cell in ("", "-") or (cell[:1].isdigit() and ":" not in cell)


def size(count: float) -> str:
    """Bytes as people read them: 12 B, 3.4 MB, 1.2 GB (powers of 1024)."""
    for name in ("B", "kB", "MB", "GB"):
        if count < 1024:
            return f"{count:.0f} B" if name == "B" else f"{count:.1f} {name}"
        count /= 1024
    return f"{count:.1f} TB"


def number(count: int) -> str:
    """1234567 as 1,234,567."""
    return f"{count:,}"


def count(amount: int, one: str, many: str | None = None) -> str:
    """`1 document`, `2,000 documents`."""
    return f"{number(amount)} {one if amount == 1 else many or one + 's'}"


def share(part: float | None) -> str:
    """`99.9 %`: cut and never rounded up, since 100 % is a promise."""
    return "?" if part is None else "100 %" if part >= 1 else f"{int(part * 1000) / 10:g} %"


def beside_line(version: str, route: str, measures: Mapping[str, Any]) -> str:
    """What a version does on a route beside what serves, and costs, with what the gate does not go by."""
    agreement = (
        f"agreement with its own nearest {measures['agreement_candidate']:.3f}, without it {measures['agreement_baseline']:.3f}, "
        "which decides nothing"
    )
    if route == "bridge":
        unseen = f"; {count(measures['not found'], 'document')} that it leads to none of" if measures["not found"] else ""
        return f"adapter {measures['adapter']} ({measures['kind']}) from {count(measures['pairs'], 'pair')}; {agreement}{unseen}"
    return (
        f"{measures['filled']:.1%} of {version} is filled: {measures['placed']:.1f} of the hits placed by it; "
        f"{measures['embedding_ms']:.1f} ms to embed a query once more, {measures['distances_ms']:.1f} ms to compare {measures['depth']} documents; "
        f"{agreement}"
    )


def sample_lines(index: str, found: Sampled) -> list[str]:
    """What a sampled verification of one version found, with every document that differs."""
    name = f"{index}.{found.version}"
    if found.median is None or found.lowest is None:
        return [
            f"{name}: nothing of the sample could be compared ({count(found.skipped, 'document')} changed meanwhile or rejected)"
        ]
    cost = "" if found.usd is None else f", {usd(found.usd)}"
    lines = [
        f"{name}: {number(found.compared)} of {count(found.asked, 'sampled document')} embedded again{cost}: median cosine {found.median:.4f}, "
        f"lowest {found.lowest:.4f}, at least {found.least:g} wanted"
    ]
    return lines + [f"  {doc_id}: cosine {cosine:.4f}" for doc_id, cosine in found.differing.items()]


def usd(amount: float | None) -> str:
    """`12.34 USD`; small amounts with the digits that tell them from nothing."""
    if amount is None:
        return "price unknown"
    return f"{amount:,.2f} USD" if amount >= 1 or amount == 0 else f"{amount:.2g} USD"


def account_line(account: AccountState) -> str:
    """What an account was asked in the last minute, of what it may be, and why somebody waits for it."""
    requests = "" if account.max_requests is None else f" of {number(account.max_requests)}"
    tokens = "" if account.max_tokens is None else f" of {number(account.max_tokens)}"
    line = f"account {account.account}: {number(account.requests)}{requests} requests, {number(account.tokens)}{tokens} tokens in the last minute"
    if account.blocked_seconds > 0:
        line += f"; asked by the provider to wait for {duration(account.blocked_seconds)}"
    if account.waiting:
        line += f"; {account.waiting_for} waits for {duration(account.waiting_seconds)}: {account.waiting}"
    return line


def spent_line(version: VersionStatus) -> str:
    """What a version has cost, in all and by kind of work."""
    from embed_pipeline.accounts.terms import total

    everything = total(version.spent)
    parts = ", ".join(f"{kind} {number(each.tokens)}" for kind, each in version.spent.items())
    return (
        f"cost of {version.name}: {usd(everything.usd)}, {count(everything.tokens, 'token')} in {count(everything.requests, 'request')} "
        f"({parts})"
    )


def throttle_line(last: ThrottleState) -> str:
    """Why a backfill does not move. One that says nothing any more has ended, or was killed while it waited."""
    seen = f"seen {duration(last.seen_seconds)} ago"
    if last.answer == "stop":
        return f"backfill of {last.version} was stopped: {last.reason} ({seen})"
    if last.seen_seconds > SILENT_SECONDS:
        return f"backfill of {last.version} waited when it was last heard of: {last.reason} ({seen})"
    return f"backfill of {last.version} waits for {duration(last.seconds)}: {last.reason} ({seen})"


def plan_lines(found: Plan) -> list[str]:
    """A plan: what there is, what it takes, what it locks, whether the gate can decide."""
    sample, speed = found.sample, found.sample.speed
    begun = f", registered and {found.state}" if found.state else ""
    lines = [
        f"{found.index}.{found.version}: fingerprint {found.fingerprint[:12]}{begun}; "
        + (f"{found.serving} serves now" if found.serving else "nothing serves yet"),
        f"  documents   {count(found.documents, 'document')} in {found.documents_table}, {size(found.text_bytes)} of text",
        f"  partitions  {found.partitions}, about {count(-(-found.documents // found.partitions), 'document')} each",
    ]
    if speed is not None:
        mean, fastest, slowest = speed.seconds(found.documents)
        lines.append(
            f"  embedding   about {duration(mean)} ({duration(fastest)} to {duration(slowest)}) at {speed.mean:,.1f} documents/s "
            f"({speed.slowest:,.1f} to {speed.fastest:,.1f}), measured on {count(speed.documents, 'document')} in "
            f"{count(speed.batches, 'batch', 'batches')}, one call at a time, writing not counted"
        )
        lines.append(
            f"  sample      {sample.rejected} of {sample.documents} rejected, {sample.truncated} truncated"
            + (f" ({'; '.join(sample.reasons[:3])})" if sample.reasons else "")
        )
    if found.cost is not None:
        lines += _cost_lines(found.cost)
    if found.chunker:
        shown = f"; {sample.chunks_per_document:.1f} for a document of the sample" if sample.documents else ""
        lines.append(f"  chunks      {found.chunker}{shown}")
    lines.append(
        f"  disk        about {size(found.disk.total)}: vectors {size(found.disk.vectors)}, provenance {size(found.disk.documents)}, "
        f"ANN index {size(found.disk.ann_index)}"
        + (f", quantized {size(found.disk.quantized)}" if found.disk.quantized else "")
        + f" (estimated from {found.disk.basis})"
    )
    lines += [f"  {'store' if n == 0 else '':<12}{each}" for n, each in enumerate(found.place)]
    lines.append(f"  gate        {found.gate.metric}: {found.gate.sentence}")
    if found.curve is not None:
        lines += [f"  {'curve' if n == 0 else '':<12}{line.strip()}" for n, line in enumerate(curve_lines(found.curve))]
    lines += [f"  {'locks' if n == 0 else '':<12}{lock}" for n, lock in enumerate(found.locks)]
    lines += [f"  warning     {warning}" for warning in found.warnings]
    lines.append(f"  next: {found.next_command}")
    return lines


def _cost_lines(cost: Cost) -> list[str]:
    error = "error unknown" if cost.tokens_error is None else f"+- {number(cost.tokens_error)}"
    money = usd(cost.usd) + ("" if not cost.usd_error else f" +- {usd(cost.usd_error)}")
    batch = "" if cost.batch_usd is None or cost.batch_usd == cost.usd else f", {usd(cost.batch_usd)} in batch mode"
    budget = "" if cost.budget is None else f"; the budget is {usd(cost.budget)}"
    lines = [f"  cost        about {count(cost.tokens, 'token')} ({error}, 95 %): {money}{batch}{budget}"]
    if cost.seconds is not None:
        lines.append(f"  limits      at least {duration(cost.seconds)} under the declared limits of account {cost.account}")
    return lines


def curve_lines(curve: Curve) -> list[str]:
    """The cost curve as a table, and its sentence of advice."""
    return [*(f"  {line}" for line in table(curve.header, curve.rows())), f"advice: {curve.advice}"]


def point_line(curve: Curve) -> str:
    """The newest point in one line."""
    point = curve.points[-1]
    arms = ", ".join(f"{arm.replace('_', ' ')} {each.mean:.3f}" for arm, each in point.arms.items())
    return f"cost curve at {point.partitions} of {point.of_partitions} partitions: {curve.metric}: {arms}"


def check_lines(checks: Sequence[Check], *, markdown: bool) -> list[str]:
    """One line for each check; the sentence of the verdict stands above them already."""
    if not checks:
        return []
    said = {each.name: "as said above" if each.name == "held_out_recall" else each.sentence for each in checks}
    words = [("passed" if each.passed else "FAILED", each.name, said[each.name]) for each in checks]
    if markdown:
        from embed_pipeline.evaluate import per_query

        return ["", *(f"- {word} `{name}`: {per_query.escaped(sentence)}" for word, name, sentence in words)]
    return ["", *(f"{word}  {name:<16} {sentence}" for word, name, sentence in words)]


def coverage_lines(found: dict[str, Coverage]) -> list[str]:
    """One line for each version, and examples of what differs."""
    header = ["version", "documents", "vectors", "current", "pending", "dead", "missing", "stale", "orphaned", "wrong chunks"]
    rows = [
        [name]
        + [
            number(value)
            for value in (
                each.documents, each.vectors, each.current, each.pending, each.dead_letters,
                each.missing, each.stale, each.orphaned, each.wrong_chunks,
            )
        ]
        for name, each in found.items()
    ]  # fmt: skip
    lines = table(header, rows)
    for name, each in found.items():
        if each.samples:
            lines.append(f"{name}: {'; '.join(each.samples)}")
    return lines
