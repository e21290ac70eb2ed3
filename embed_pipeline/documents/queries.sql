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

-- name: is_there
SELECT to_regclass('embed_pipeline.indexes') IS NOT NULL, to_regclass(format('%%I.%%I', %(schema)s::text, %(table)s::text)) IS NOT NULL

-- name: registered_with
SELECT index_name FROM embed_pipeline.indexes WHERE documents_table = %(documents_table)s LIMIT 1

-- name: make_documents_table
CREATE TABLE IF NOT EXISTS {table} (
    id       text PRIMARY KEY,
    title    text,
    text     text,
    metadata jsonb NOT NULL DEFAULT '{{}}'
)

-- name: count_documents
SELECT count(*), coalesce(sum(octet_length({text})), 0)::bigint FROM {documents} AS d WHERE {in_range}

-- name: count_rows
SELECT count(*), 0::bigint FROM {documents} AS d WHERE {in_range}

-- name: ids
SELECT array_agg({doc_id}) FROM {documents} AS d WHERE {in_range} HAVING count(*) > 0

-- name: found_ids
-- Compared as text: an id that could be no key at all is missing, not an error.
SELECT {doc_id} FROM {documents} AS d WHERE {in_range} AND {doc_id} = ANY (%(doc_ids)s::text[])

-- name: walk_keys
-- The next keys in order, each with its number: every so-many-th, and the last one read.
SELECT w.key, w.number
FROM (SELECT n.key, n.number, count(*) OVER () AS read
      FROM (SELECT {key_array} AS key, %(seen)s + row_number() OVER (ORDER BY {key_columns}) AS number
            FROM {documents} AS d WHERE {in_range} ORDER BY {key_columns} LIMIT %(limit)s) AS n) AS w
WHERE (w.number - 1) %% %(every)s = 0 OR w.number = %(seen)s + w.read
ORDER BY w.number

-- name: are_keys
-- Fails where one of the ids is no value of the key's type.
SELECT count(*) FROM unnest(%(doc_ids)s::text[]) AS w(doc_id) JOIN {documents} AS d ON {key_is_wanted}

-- name: read_current
-- The text that a claimed document has now. A snapshot taken after the claim sees every change that was claimed.
SELECT w.doc_id, {text} AS text
FROM unnest(%(doc_ids)s::text[]) AS w(doc_id)
JOIN {documents} AS d ON {key_is_wanted}

