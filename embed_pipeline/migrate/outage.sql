-- name: try_lock
SELECT pg_try_advisory_lock(hashtextextended(%(name)s, 0))

-- name: unlock
SELECT pg_advisory_unlock(hashtextextended(%(name)s, 0))

-- name: lock_holders
SELECT l.pid
FROM pg_catalog.pg_locks l CROSS JOIN (SELECT hashtextextended(%(name)s, 0) AS key) AS wanted
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
  AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
  AND l.classid::bigint = ((wanted.key >> 32) & 4294967295) AND l.objid::bigint = (wanted.key & 4294967295)

-- name: end_session
SELECT pg_terminate_backend(%(pid)s)
