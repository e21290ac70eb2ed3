"""A diagnosis as lines for a terminal, and as one page that a person can send to others. Pure."""

from __future__ import annotations

import textwrap
from datetime import datetime

from embed_pipeline.doctor.findings import SEVERITIES, Diagnosis
from embed_pipeline.report.markup import document, tag, words

WIDTH = 100


def lines(found: Diagnosis) -> list[str]:
    """For a terminal."""
    shown = [f"{found.subject}: {found.looked_at}"]
    for each in found.findings:
        shown += textwrap.wrap(
            f"{each.severity} {each.code}: {each.sentence}", WIDTH, subsequent_indent="  ", break_on_hyphens=False
        )
        shown.append(f"  next: {each.next}")
    return [*shown, summary(found)]


def summary(found: Diagnosis) -> str:
    """How many of each severity."""
    counts = [(severity, sum(each.severity == severity for each in found.findings)) for severity in SEVERITIES]
    told = ", ".join(f"{count} {severity}{'s' if count > 1 else ''}" for severity, count in counts if count)
    return f"{told}." if told else "Nothing was found."


def page(found: Diagnosis, made_at: datetime) -> str:
    """The whole page."""
    title = f"Doctor: {found.subject}"
    body = [
        tag("h1", title),
        tag("p", summary(found)),
        tag("p", words(found.looked_at), f"; page of {made_at:%Y-%m-%d %H:%M} UTC.", class_="small"),
    ]
    for each in found.findings:
        heading = tag("h2", tag("span", each.severity, class_=f"outcome {each.severity}"), f" {each.code}")
        body.append(tag("section", heading, tag("p", words(each.sentence)), tag("p", "Next: ", words(each.next), class_="small")))
    return document(title, body)
