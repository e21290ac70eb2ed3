-- name: of_session
SELECT pg_try_advisory_lock(hashtextextended(%(name)s, 0))

-- name: of_session_shared
SELECT pg_try_advisory_lock_shared(hashtextextended(%(name)s, 0))

-- name: of_transaction
SELECT pg_try_advisory_xact_lock(hashtextextended(%(name)s, 0))

-- name: wait_in_transaction
SELECT pg_advisory_xact_lock(hashtextextended(%(name)s, 0))

-- name: end_of_session
SELECT pg_advisory_unlock(hashtextextended(%(name)s, 0))

-- name: end_of_session_shared
SELECT pg_advisory_unlock_shared(hashtextextended(%(name)s, 0))
