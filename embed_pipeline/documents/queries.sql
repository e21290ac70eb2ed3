-- name: find_table
SELECT c.oid::bigint, c.relkind::text
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname = %(table)s

-- name: columns
SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull
FROM pg_catalog.pg_attribute a
WHERE a.attrelid = %(oid)s::oid AND a.attnum > 0 AND NOT a.attisdropped

-- name: compared_as
-- What text is cast to when it is compared with a column, and the schema of the operators that an index goes by. Of a domain the type beneath it: to cast to
-- the domain would run the application's CHECK with the rights of whoever asks. Operators of a type's default btree class only a superuser
-- can have made; a type without one (varchar, an enum) is compared by pg_catalog's.
WITH RECURSIVE base AS (
    SELECT a.attname, a.atttypid AS type, a.atttypmod AS modifier FROM pg_catalog.pg_attribute a
    WHERE a.attrelid = %(oid)s::oid AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT b.attname, t.typbasetype, t.typtypmod FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.type WHERE t.typtype = 'd'
)
SELECT b.attname, pg_catalog.format_type(b.type, b.modifier), coalesce(n.nspname, 'pg_catalog')
FROM base b
JOIN pg_catalog.pg_type t ON t.oid = b.type AND t.typtype <> 'd'
LEFT JOIN pg_catalog.pg_opclass c ON c.opcintype = b.type AND c.opcdefault
    AND c.opcmethod = (SELECT m.oid FROM pg_catalog.pg_am m WHERE m.amname = 'btree')
LEFT JOIN pg_catalog.pg_amop o ON o.amopfamily = c.opcfamily AND o.amopstrategy = 3 AND o.amoplefttype = b.type AND o.amoprighttype = b.type
LEFT JOIN pg_catalog.pg_operator p ON p.oid = o.amopopr
LEFT JOIN pg_catalog.pg_namespace n ON n.oid = p.oprnamespace

-- name: unique_keys
-- Where different texts are equal by a column's own collation, an index that is unique by another one keeps them apart, and no range of keys would.
SELECT array_agg(a.attname::text ORDER BY a.attnum)
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1])
WHERE i.indrelid = %(oid)s::oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute k JOIN pg_catalog.pg_collation c ON c.oid = k.attcollation
                  WHERE k.attrelid = i.indrelid AND k.attnum = ANY (i.indkey[0:i.indnkeyatts - 1])
                    AND NOT c.collisdeterministic AND c.oid <> ALL (i.indcollation::oid[]))
GROUP BY i.indexrelid

-- name: is_there
SELECT to_regclass('embed_pipeline.indexes') IS NOT NULL, to_regclass(format('%%I.%%I', %(schema)s::text, %(table)s::text)) IS NOT NULL

-- name: registered_with
SELECT index_name FROM embed_pipeline.indexes WHERE documents_table = %(documents_table)s LIMIT 1
-- name: applications_names
SELECT set_config('search_path', format('pg_catalog, %%I, public, pg_temp', %(schema)s::text), true)

-- name: own_names
SELECT set_config('search_path', 'pg_catalog, pg_temp', true)

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
-- Compared as text: an id that could be no key at all is not there, and no error.
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

-- name: current_hashes
SELECT w.doc_id, {source_hash} FROM unnest(%(doc_ids)s::text[]) AS w(doc_id) JOIN {documents} AS d ON {key_is_wanted}

-- name: plain_columns
-- Whose text is PostgreSQL's own: no cast of the application is run.
SELECT a.attname::text FROM pg_catalog.pg_attribute a
WHERE a.attrelid = to_regclass(%(table)s) AND a.attnum > 0 AND NOT a.attisdropped
  AND a.atttypid = ANY (ARRAY['pg_catalog.int2', 'pg_catalog.int4', 'pg_catalog.int8', 'pg_catalog.numeric', 'pg_catalog.text',
                              'pg_catalog.varchar', 'pg_catalog.bpchar', 'pg_catalog.uuid']::regtype[])
ORDER BY a.attnum

-- name: found_in_column
SELECT DISTINCT {column}::text FROM {documents} AS d WHERE {in_range} AND ({column}::text COLLATE "C") = ANY (%(doc_ids)s::text[])

-- name: read_current
-- The text that a claimed document has now. A snapshot taken after the claim sees every change that was claimed.
SELECT w.doc_id, {text} AS text
FROM unnest(%(doc_ids)s::text[]) AS w(doc_id)
JOIN {documents} AS d ON {key_is_wanted}

