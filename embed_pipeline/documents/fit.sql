-- name: facts
-- What decides whether every change of a table can be seen. `row_security_active` goes by who asks.
SELECT c.relkind::text, c.relpersistence::text, row_security_active(c.oid), current_user,
       EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid),
       ARRAY(SELECT i.inhrelid::regclass::text FROM pg_catalog.pg_inherits i WHERE i.inhparent = c.oid AND c.relkind <> 'p' ORDER BY 1),
       ARRAY(SELECT l.oid::regclass::text FROM pg_catalog.pg_partition_tree(c.oid) t JOIN pg_catalog.pg_class l ON l.oid = t.relid
             WHERE t.level > 0 AND l.relkind = 'r' AND l.relpersistence = 'u' ORDER BY 1),
       ARRAY(SELECT l.oid::regclass::text FROM pg_catalog.pg_partition_tree(c.oid) t JOIN pg_catalog.pg_class l ON l.oid = t.relid
             WHERE t.level > 0 AND l.relkind = 'f' ORDER BY 1)
FROM pg_catalog.pg_class c WHERE c.oid = %(oid)s::oid

-- name: unfit_columns
-- A trigger is shown no value of a virtual column. The text of a reference to an object is that object's name, and goes with it.
SELECT a.attname, a.attgenerated::text, t.typname
FROM pg_catalog.pg_attribute a
LEFT JOIN pg_catalog.pg_type t ON t.oid = a.atttypid AND t.typnamespace = 'pg_catalog'::regnamespace AND t.typname LIKE 'reg%%'
WHERE a.attrelid = %(oid)s::oid AND a.attname = ANY (%(columns)s::text[]) AND NOT a.attisdropped
  AND (a.attgenerated = 'v' OR t.oid IS NOT NULL)
ORDER BY array_position(%(columns)s::text[], a.attname::text)
