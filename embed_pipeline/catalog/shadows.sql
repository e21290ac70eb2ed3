-- name: may_note_shadow
SELECT has_function_privilege('embed_pipeline.note_shadow(text, text, text, jsonb, jsonb, jsonb)', 'EXECUTE')
   AND NOT pg_is_in_recovery() AND NOT current_setting('transaction_read_only')::boolean

-- name: note_shadow
SELECT embed_pipeline.note_shadow(%(index)s, %(answered)s, %(shadow)s, %(numbers)s, %(sketches)s, %(queries)s)

-- name: shadow_hours
SELECT h.answered, h.hour, h.last_failure, h.sketches, h.searches, h.compared, h.failed, h.dropped, h.overlap, h.agreement,
       h.answered_empty, h.shadow_empty
FROM embed_pipeline.shadow_hours h
WHERE h.index_name = %(index)s AND h.shadow = %(shadow)s
  AND h.hour > clock_timestamp() - make_interval(hours => %(hours)s)
ORDER BY h.hour DESC, h.answered, h.role

-- name: shadow_queries
SELECT q.agreement, q.overlap, encode(q.query_sha256, 'hex'), max(q.query)
FROM embed_pipeline.shadow_queries q
WHERE q.index_name = %(index)s AND q.answered = %(answered)s AND q.shadow = %(shadow)s
GROUP BY q.agreement, q.overlap, q.query_sha256
ORDER BY q.agreement, q.query_sha256 LIMIT %(most)s
