-- name: end_session
SELECT pg_terminate_backend(%(pid)s)
