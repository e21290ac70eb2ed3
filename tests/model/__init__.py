"""Models of the rules that keep vectors and documents in agreement, searched state by state."""

from tests.model import doubts, ledger_steps, passages, points, retirement, two_versions

MODELS = (ledger_steps.MODEL, two_versions.MODEL, passages.MODEL, points.MODEL, doubts.MODEL, retirement.MODEL)
