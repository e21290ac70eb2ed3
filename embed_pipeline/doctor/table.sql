-- name: read_only
-- One snapshot for everything that is said together.
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY

-- name: briefly
-- An administrator's ALTER TABLE that waits must not have the application wait behind us.
SELECT set_config('lock_timeout', '2s', true)

-- name: relation
SELECT c.oid::bigint, c.relkind::text, greatest(c.reltuples, 0)::bigint, pg_catalog.row_security_active(c.oid),
       pg_catalog.has_table_privilege(c.oid, 'SELECT')
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname = %(table)s AND c.relkind IN ('r', 'p', 'm', 'v', 'f')

-- name: columns
SELECT a.attname, t.typname, a.atttypmod, pg_catalog.format_type(a.atttypid, a.atttypmod)
FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = %(relation)s::oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum

-- name: key
-- The shortest unique key that holds for every row.
SELECT ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(number, n)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number ORDER BY k.n)
FROM pg_catalog.pg_index i
WHERE i.indrelid = %(relation)s::oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
ORDER BY i.indisprimary DESC, i.indnatts LIMIT 1

-- name: counted
-- A table that nobody has analysed: counted as far as it matters.
SELECT count(*) FROM (SELECT FROM {table} LIMIT %(limit)s) AS s

-- name: sample
SELECT {key}, {embedding}::real[], {text} FROM {table} AS d {sampled} LIMIT %(limit)s

-- name: blocks
-- Whole pages, so that no more is read than is looked at.
TABLESAMPLE SYSTEM ({percent}) REPEATABLE (1)

-- name: indexes
SELECT c.relname, am.amname, i.indisvalid AND i.indisready, o.opcname, pg_catalog.pg_relation_size(c.oid), c.reloptions,
       pg_catalog.pg_get_indexdef(c.oid), i.indpred IS NOT NULL
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_am am ON am.oid = c.relam
JOIN pg_catalog.pg_opclass o ON o.oid = i.indclass[0]
WHERE i.indrelid = %(relation)s::oid AND am.amname IN ('hnsw', 'ivfflat')
  AND (%(column)s = ANY (SELECT a.attname FROM pg_catalog.pg_attribute a WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey::int2[]))
       OR i.indexprs IS NOT NULL AND EXISTS (
           SELECT FROM pg_catalog.pg_depend p JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = p.refobjsubid
           WHERE p.objid = c.oid AND p.refobjid = i.indrelid AND a.attname = %(column)s))
ORDER BY c.relname

-- name: dead
SELECT coalesce(s.n_live_tup, 0), coalesce(s.n_dead_tup, 0) FROM pg_catalog.pg_stat_all_tables s WHERE s.relid = %(relation)s::oid

-- name: vector_version
SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'vector'

-- name: stored_ids
SELECT DISTINCT d.doc_id FROM {table} AS d {sampled} LIMIT %(limit)s

-- name: estimate
SELECT greatest(c.reltuples, 0)::bigint FROM pg_catalog.pg_class c WHERE c.oid = %(table)s::regclass
