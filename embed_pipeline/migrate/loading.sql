-- name: make_staging
-- Dropped with the transaction. Spills to the server's disk, so that neither side holds a file in memory.
CREATE TEMPORARY TABLE staged_documents (
    position bigint NOT NULL,
    id       text COLLATE "C" NOT NULL,
    title    text,
    text     text,
    metadata jsonb NOT NULL
) ON COMMIT DROP

-- name: copy_staged
COPY pg_temp.staged_documents (position, id, title, text, metadata) FROM STDIN

-- name: analyze_staged
ANALYZE pg_temp.staged_documents

-- name: first_repeated
SELECT id, min(position), max(position)
FROM pg_temp.staged_documents GROUP BY id HAVING count(*) > 1 ORDER BY 3 LIMIT 1

-- name: has_documents
SELECT EXISTS (SELECT FROM {table})

-- name: upsert_documents
-- In key order: two writers of the same rows wait for each other instead of deadlocking. Equal rows are not touched.
WITH changed AS (
    INSERT INTO {table} AS d (id, title, text, metadata)
    SELECT id, title, text, metadata FROM pg_temp.staged_documents ORDER BY id
    ON CONFLICT (id) DO UPDATE SET title = excluded.title, text = excluded.text, metadata = excluded.metadata
    WHERE (d.title, d.text, d.metadata) IS DISTINCT FROM (excluded.title, excluded.text, excluded.metadata)
    RETURNING d.xmax = 0 AS is_new
)
SELECT pg_catalog.count(*) FILTER (WHERE is_new), pg_catalog.count(*) FILTER (WHERE NOT is_new) FROM changed

-- name: count_unseen
SELECT count(*) FILTER (WHERE NOT EXISTS (SELECT FROM pg_temp.staged_documents s WHERE s.id = d.id)), count(*) FROM {table} AS d

-- name: delete_unseen
DELETE FROM {table} AS d WHERE NOT EXISTS (SELECT FROM pg_temp.staged_documents s WHERE s.id = d.id)
