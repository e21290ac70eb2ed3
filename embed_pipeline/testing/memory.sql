-- name: now
SELECT clock_timestamp()

-- name: create_held
CREATE TEMPORARY TABLE embed_pipeline_held (doc_id text COLLATE "C" PRIMARY KEY, source_hash bytea NOT NULL)

-- name: drop_held
DROP TABLE IF EXISTS pg_temp.embed_pipeline_held

-- name: copy_held
COPY pg_temp.embed_pipeline_held (doc_id, source_hash) FROM STDIN

-- name: differs
v.source_hash <> {source_hash}

-- name: gone
SELECT embed_pipeline.gone(%(index)s, %(version)s, %(doc_ids)s::text[])

-- name: waiting
SELECT p.doc_id FROM embed_pipeline.pending p
WHERE p.index_name || '' = %(index)s AND p.version || '' = %(version)s AND p.doc_id = ANY (%(doc_ids)s::text[])
