-- name: find_table
SELECT c.oid::bigint, c.relkind::text
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname = %(table)s

-- name: columns
SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull
FROM pg_catalog.pg_attribute a
WHERE a.attrelid = %(oid)s::oid AND a.attnum > 0 AND NOT a.attisdropped

-- name: unique_keys
SELECT array_agg(a.attname::text ORDER BY a.attnum)
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1])
WHERE i.indrelid = %(oid)s::oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
GROUP BY i.indexrelid

-- name: make_documents_table
CREATE TABLE IF NOT EXISTS {table} (
    id       text PRIMARY KEY,
    title    text,
    text     text,
    metadata jsonb NOT NULL DEFAULT '{{}}'
)

-- name: count_documents
SELECT count(*), coalesce(sum(octet_length({text})), 0)::bigint FROM {documents} AS d

-- name: sample_texts
SELECT {doc_id}, {text} FROM {documents} AS d ORDER BY md5({doc_id}) LIMIT %(size)s

-- name: missing_ids
-- Compared as text: an id that could be no key at all is missing, not an error.
SELECT w.doc_id FROM unnest(%(doc_ids)s::text[]) AS w(doc_id)
WHERE NOT EXISTS (SELECT FROM {documents} AS d WHERE {doc_id} = w.doc_id)

-- name: cut_keys
-- The first key of each of the partitions after the first, by rank: one ordered scan of the key.
SELECT DISTINCT ON (part) part, {key_array}
FROM (SELECT {key_columns}, ntile(%(partitions)s) OVER (ORDER BY {key_columns}) AS part FROM {documents} AS d) AS d
ORDER BY part, {key_columns}

-- name: read_current
-- The text that a claimed document has now. A snapshot taken after the claim sees every change that was claimed.
SELECT w.doc_id, {text} AS text, {source_hash} AS source_hash
FROM unnest(%(doc_ids)s::text[]) AS w(doc_id)
JOIN {documents} AS d ON {key_is_wanted}

