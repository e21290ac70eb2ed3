"""Verbs by what they are for, and one that can be typed as an example of each: what `--help` shows."""

from __future__ import annotations

GROUPS: dict[str, tuple[str, ...]] = {
    "Migrate": ("load", "adopt", "plan", "preview", "backfill", "fit", "gate", "cutover", "rollback", "retire"),
    "Look": ("status", "health", "metrics", "doctor", "history", "search", "shadow", "verify"),
    "Every day": ("sync", "watch", "dead-letters", "check-model", "take-over"),
    "Hold a backfill": ("pause", "resume", "abort"),
    "Judge": ("holdout",),
    "Leave": ("remove",),
    "This machine": ("db", "demo"),
}

# Of a group of verbs, each under its whole name.
EXAMPLES: dict[str, str] = {
    "load": "embed-pipeline load docs articles.jsonl",
    "adopt": "embed-pipeline adopt docs",
    "plan": "embed-pipeline plan docs v2",
    "preview": "embed-pipeline preview docs v2 --yes",
    "backfill": "embed-pipeline backfill docs v2",
    "fit": "embed-pipeline fit docs v2",
    "gate": "embed-pipeline gate docs v2 --worst 5",
    "cutover": 'embed-pipeline cutover docs v2 --reason "better on long questions"',
    "rollback": 'embed-pipeline rollback docs --reason "complaints about order numbers"',
    "retire": "embed-pipeline retire docs v1",
    "status": "embed-pipeline status docs --watch",
    "health": "embed-pipeline health docs --json",
    "metrics": "embed-pipeline metrics --listen 127.0.0.1:9464",
    "doctor": "embed-pipeline doctor --table public.items --column embedding --text body",
    "history": "embed-pipeline history docs --limit 20",
    "search": 'embed-pipeline search docs "read a file line by line" -k 5',
    "shadow": "embed-pipeline shadow docs v2 --hours 6",
    "verify": "embed-pipeline verify docs v2",
    "sync": "embed-pipeline sync docs --watch",
    "watch": "embed-pipeline watch docs --once",
    "dead-letters": "embed-pipeline dead-letters docs v2 --retry",
    "check-model": "embed-pipeline check-model docs v2",
    "take-over": "embed-pipeline take-over docs --confirm docs",
    "pause": 'embed-pipeline pause docs --reason "deploy window"',
    "resume": "embed-pipeline resume docs",
    "abort": 'embed-pipeline abort docs --reason "wrong model"',
    "holdout check": "embed-pipeline holdout check docs",
    "holdout synthetic": "embed-pipeline holdout synthetic docs --out holdout.jsonl",
    "holdout from-log": "embed-pipeline holdout from-log searches.jsonl --out holdout.jsonl",
    "remove": "embed-pipeline remove docs --confirm docs",
    "db start": "embed-pipeline db start",
    "db stop": "embed-pipeline db stop",
    "db url": 'psql "$(embed-pipeline db url)"',
    "db status": "embed-pipeline db status",
    "demo": "embed-pipeline demo --store qdrant",
}
