-- name: note_searcher
SELECT embed_pipeline.note_searcher(%(index)s, %(searcher)s, %(who)s, %(can)s::text[], %(cannot)s)

-- name: left_behind
-- One of the future was noted before the clock was set back: who is still there has said so again since.
SELECT s.who, s.role, s.cannot ->> %(fingerprint)s, extract(epoch FROM clock_timestamp() - s.seen_at)::double precision
FROM embed_pipeline.searchers s
WHERE s.index_name = %(index)s AND s.cannot ->> %(fingerprint)s IS NOT NULL
  AND abs(extract(epoch FROM clock_timestamp() - s.seen_at)) < %(gone)s
ORDER BY s.who, s.role, s.searcher
