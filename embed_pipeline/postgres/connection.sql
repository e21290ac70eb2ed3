-- name: vector_types
-- Found through the extension, so that they are found in whatever schema it was put.
SELECT t.typname, t.oid, t.typarray, t.oid::regtype::text
FROM pg_catalog.pg_type t
JOIN pg_catalog.pg_extension e ON e.extnamespace = t.typnamespace
WHERE e.extname = 'vector' AND t.typname IN ('vector', 'halfvec', 'sparsevec')

-- name: vector_versions
SELECT (SELECT default_version FROM pg_catalog.pg_available_extensions WHERE name = 'vector'),
       (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'vector')
