-- name: intend
INSERT INTO embed_pipeline.batch_jobs (token, index_name, version, partition, doc_ids, is_last, tokens)
VALUES (%(token)s, %(index)s, %(version)s, %(partition)s, %(doc_ids)s, %(is_last)s, %(tokens)s)
ON CONFLICT (token) DO NOTHING

-- name: submitted
UPDATE embed_pipeline.batch_jobs SET job_id = %(job_id)s, submitted_at = clock_timestamp() WHERE token = %(token)s

-- name: collected
UPDATE embed_pipeline.batch_jobs SET collected_at = clock_timestamp(), ended = %(ended)s
WHERE token = %(token)s AND collected_at IS NULL

-- name: of_partition
SELECT token, doc_ids, is_last, tokens, job_id, collected_at IS NOT NULL
FROM embed_pipeline.batch_jobs
WHERE index_name = %(index)s AND version = %(version)s AND partition = %(partition)s
ORDER BY intended_at, token
