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
-- Runs pgvector's vectorised code: on a processor it was not built for, the backend dies here instead of in a migration. A build of an index
-- runs other code than a distance: there are binaries that can do the one and not the other.
CREATE TEMPORARY TABLE probed AS SELECT ARRAY[n, 1, 2]::real[]::vector(3) AS v FROM generate_series(1, 20) n;
CREATE INDEX ON probed USING hnsw (v vector_cosine_ops);
SELECT min(v <-> '[1,2,3]') FROM probed;
DROP TABLE probed
