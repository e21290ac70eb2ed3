-- name: registered
SELECT i.index_name, i.documents_table, i.key_columns, i.text_columns, i.store, p.version
FROM embed_pipeline.indexes i LEFT JOIN embed_pipeline.serving_pointer p USING (index_name)
WHERE %(index)s::text IS NULL OR i.index_name = %(index)s ORDER BY i.index_name

-- name: read_lately
-- Who has read it within so many seconds, and who says that it searches it. A clock that was set back makes nobody a reader of the future.
SELECT (SELECT max(r.read_at) FROM embed_pipeline.version_reads r
        WHERE r.index_name = %(index)s AND abs(extract(epoch FROM clock_timestamp() - r.read_at)) < %(seconds)s),
       (SELECT string_agg(s.who, ', ' ORDER BY s.who) FROM embed_pipeline.searchers s
        WHERE s.index_name = %(index)s AND abs(extract(epoch FROM clock_timestamp() - s.seen_at)) < %(gone)s)

-- name: triggers
-- Ours on any table, by the function that they call. A clone on a partition goes with the trigger that it was made of.
SELECT n.nspname, c.relname, t.tgname
FROM pg_catalog.pg_trigger t
JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_proc f ON f.oid = t.tgfoid JOIN pg_catalog.pg_namespace m ON m.oid = f.pronamespace
WHERE m.nspname = 'embed_pipeline' AND n.nspname <> 'embed_pipeline' AND t.tgparentid = 0
  AND f.proname = ANY (%(functions)s::text[]) ORDER BY 1, 2, 3

-- name: drop_trigger
DROP TRIGGER IF EXISTS {trigger} ON {table}

-- name: functions
SELECT f.oid::regprocedure::text
FROM pg_catalog.pg_proc f WHERE f.pronamespace = 'embed_pipeline'::regnamespace AND f.proname = ANY (%(functions)s::text[])

-- name: drop_function
DROP FUNCTION IF EXISTS {function}

-- name: drop_table
DROP TABLE IF EXISTS {table}

-- name: hold_versions
-- A worker that hands changes over shares these rows until it has committed: after this none does.
SELECT FROM embed_pipeline.index_versions WHERE index_name = %(index)s FOR UPDATE

-- name: tables_with_rows
-- Every table of the catalog that has rows by index, those that others refer to last.
SELECT c.relname, EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = 'embed_pipeline'::regnamespace AND c.relkind = 'r' AND a.attname = 'index_name' AND NOT a.attisdropped
ORDER BY array_position(ARRAY['coverage_checks', 'gate_evidence', 'adapters', 'index_versions', 'indexes'], c.relname::text) NULLS FIRST, c.relname

-- name: without_rules
-- The audit and the evidence are append-only, for everybody but the owner of the catalog who removes an index.
ALTER TABLE {table} DISABLE TRIGGER USER

-- name: with_rules
ALTER TABLE {table} ENABLE TRIGGER USER

-- name: delete_rows
DELETE FROM {table} WHERE index_name = %(index)s

-- name: delete_judged
DELETE FROM {table} WHERE evidence_id IN (SELECT e.id FROM embed_pipeline.gate_evidence e WHERE e.index_name = %(index)s)

-- name: foreign_dependents
-- Views and functions of others that stand on ours: they would go with the schema.
SELECT DISTINCT pg_catalog.pg_describe_object('pg_catalog.pg_class'::regclass, v.oid, 0)
FROM pg_catalog.pg_depend d
JOIN pg_catalog.pg_rewrite r ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND r.oid = d.objid
JOIN pg_catalog.pg_class v ON v.oid = r.ev_class
LEFT JOIN pg_catalog.pg_class c ON d.refclassid = 'pg_catalog.pg_class'::regclass AND c.oid = d.refobjid
LEFT JOIN pg_catalog.pg_proc f ON d.refclassid = 'pg_catalog.pg_proc'::regclass AND f.oid = d.refobjid
WHERE 'embed_pipeline'::regnamespace IN (c.relnamespace, f.pronamespace) AND v.relnamespace <> 'embed_pipeline'::regnamespace ORDER BY 1

-- name: drop_schema
DROP SCHEMA embed_pipeline CASCADE

-- name: database
SELECT pg_catalog.current_database()
