-- name: session
-- Who serves the session, whether it has heard what was asked for at its beginning, and the vector types, in one round trip. They are
-- found through the extension, so that they are found in whatever schema it was put; without it there is one row without a type.
SELECT pg_backend_pid(), current_setting('embed_pipeline.session', true), t.*
FROM (SELECT) AS one LEFT JOIN (
    SELECT t.typname, t.oid, t.typarray, t.oid::regtype::text
    FROM pg_catalog.pg_type t
    JOIN pg_catalog.pg_extension e ON e.extnamespace = t.typnamespace
    WHERE e.extname = 'vector' AND t.typname IN ('vector', 'halfvec', 'sparsevec')) AS t ON true

-- name: set_session
SELECT set_config(%(name)s, %(value)s, false)

-- name: vector_schema
SELECT n.nspname FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector'

-- name: vector_versions
SELECT (SELECT default_version FROM pg_catalog.pg_available_extensions WHERE name = 'vector'),
       (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'vector')

-- name: carried_on_within
SELECT set_config('idle_in_transaction_session_timeout', %(milliseconds)s, true)

-- name: unhurried
SELECT set_config('statement_timeout', '0', true)

-- name: unhurried_17
-- A server before 17 does not know transaction_timeout.
SELECT set_config('statement_timeout', '0', true), set_config('transaction_timeout', '0', true)

-- name: session_unhurried
SELECT set_config('statement_timeout', '0', false), set_config('lock_timeout', '0', false)

-- name: session_unhurried_17
SELECT set_config('statement_timeout', '0', false), set_config('lock_timeout', '0', false), set_config('transaction_timeout', '0', false)
