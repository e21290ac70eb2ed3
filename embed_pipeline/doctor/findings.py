"""What a look has found, by severity, each with one sentence and the next command. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""The worst first."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing. `code` does not change with the words."""

    severity: Severity
    code: str
    sentence: str
    next: str


@dataclass(frozen=True)
class Diagnosis:
    """What was looked at, in words, and what was found there, the worst first."""

    subject: str
    looked_at: str
    findings: tuple[Finding, ...]

    @classmethod
    def of(cls, subject: str, looked_at: str, findings: Iterable[Finding]) -> Diagnosis:
        return cls(subject, looked_at, tuple(sorted(findings, key=lambda each: SEVERITIES.index(each.severity))))

    @property
    def needs_a_person(self) -> bool:
        """Whether something is worse than a note."""
        return any(each.severity != "note" for each in self.findings)


def of_pgvector(warning: str) -> Finding:
    """What `postgres.connection.warning_of` says of an old pgvector."""
    severity: Severity = "error" if "CVE" in warning else "warning"
    return Finding(severity, "pgvector", f"{warning[:1].upper()}{warning[1:]}.", "ALTER EXTENSION vector UPDATE;")
