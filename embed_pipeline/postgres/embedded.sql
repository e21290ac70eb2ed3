-- The statements that make a fresh server ready for use. Placeholders in braces are identifiers.

-- name: databases
SELECT datname FROM pg_catalog.pg_database

-- name: create_database
CREATE DATABASE {database}

-- name: create_vector
CREATE EXTENSION IF NOT EXISTS vector

-- name: vector_is_behind
-- True when the binaries bring a newer pgvector than the one this database was made with.
SELECT e.extversion <> a.default_version
FROM pg_catalog.pg_extension e
JOIN pg_catalog.pg_available_extensions a ON a.name = e.extname
WHERE e.extname = 'vector'

-- name: update_vector
ALTER EXTENSION vector UPDATE

-- name: probe
-- Runs pgvector's vectorised code: on a processor it was not built for, the backend dies here instead of in a migration.
SELECT '[1,2]'::vector <-> '[3,4]'
