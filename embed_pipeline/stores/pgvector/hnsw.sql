-- name: find
SELECT i.indexrelid::bigint, i.indisvalid AND i.indisready, pg_relation_size(i.indexrelid)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid
WHERE n.nspname = 'embed_pipeline' AND c.relname = %(name)s

-- name: drop
DROP INDEX CONCURRENTLY IF EXISTS embed_pipeline.{name}

-- name: create
CREATE INDEX CONCURRENTLY {name} ON {table} USING hnsw (embedding {operator_class})
WITH (m = {m}, ef_construction = {ef_construction})

-- name: progress
SELECT phase, CASE WHEN blocks_total > 0 THEN blocks_done::double precision / blocks_total ELSE 0 END
FROM pg_catalog.pg_stat_progress_create_index WHERE pid = %(pid)s

-- name: set_session
SELECT set_config('maintenance_work_mem', %(memory)s, false)

-- name: wait_briefly
SELECT set_config('lock_timeout', %(milliseconds)s, false)
