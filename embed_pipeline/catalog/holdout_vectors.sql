-- name: keep_vectors
INSERT INTO embed_pipeline.holdout_vectors (index_name, version, query_sha256, holdout_sha256, vector)
SELECT %(index)s, %(version)s, w.query_sha256, %(holdout_sha256)s, w.vector
FROM unnest(%(texts)s::bytea[], %(vectors)s::bytea[]) AS w(query_sha256, vector) ORDER BY w.query_sha256
ON CONFLICT (index_name, version, query_sha256)
DO UPDATE SET holdout_sha256 = excluded.holdout_sha256, vector = excluded.vector, kept_at = clock_timestamp()

-- name: forget_others
DELETE FROM embed_pipeline.holdout_vectors
WHERE index_name = %(index)s AND version = %(version)s AND query_sha256 <> ALL (%(texts)s::bytea[])

-- name: kept_vectors
-- Of the future is what was kept before the clock was set back.
SELECT query_sha256, vector, greatest(extract(epoch FROM clock_timestamp() - kept_at), 0)::double precision
FROM embed_pipeline.holdout_vectors
WHERE index_name = %(index)s AND version = %(version)s AND query_sha256 = ANY (%(texts)s::bytea[])

-- name: forget_all
DELETE FROM embed_pipeline.holdout_vectors WHERE index_name = %(index)s AND version = %(version)s
