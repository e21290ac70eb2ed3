-- name: events
SELECT a.id, a.at, a.event, a.version, a.from_state, a.to_state, a.actor, a.reason, a.detail, e.id, e.outcome, e.sentence
FROM embed_pipeline.audit_events a LEFT JOIN embed_pipeline.gate_evidence e ON e.id = a.evidence_id
WHERE a.index_name = %(index)s AND a.event <> ALL (%(without)s::text[]) ORDER BY a.id
