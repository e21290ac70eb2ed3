-- name: count_in_range
SELECT count(*) FROM {documents} AS d WHERE {in_range}

-- name: try_lock_partition
SELECT pg_try_advisory_lock(hashtextextended(%(name)s, 0))
