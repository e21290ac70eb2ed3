-- name: read_only
SET default_transaction_read_only = on

-- name: table_exists
SELECT to_regclass(format('%%I.%%I', %(schema)s::text, %(table)s::text)) IS NOT NULL

-- name: last_comparison
SELECT at, reason, detail FROM embed_pipeline.audit_events
WHERE index_name = %(index)s AND event = 'reconcile' ORDER BY id DESC LIMIT 1

-- name: last_events
-- Without the throttle's: they come and go, and would push out what people did.
SELECT at, version, event, from_state, to_state, actor, reason FROM embed_pipeline.audit_events
WHERE index_name = %(index)s AND event <> 'throttle' ORDER BY id DESC LIMIT %(limit)s

-- name: last_move
-- What serves came to serve by it: as a version, or by a route that changes none's state.
SELECT at, version, event, from_state, to_state, actor, reason FROM embed_pipeline.audit_events
WHERE index_name = %(index)s AND (to_state = 'active' OR event = 'route') ORDER BY id DESC LIMIT 1
