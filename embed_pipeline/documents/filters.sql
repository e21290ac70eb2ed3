-- name: columns
-- Each column by the type that a domain stands for, of the elements where it is an array; and its collation, where other texts are equal by it.
WITH RECURSIVE behind (name, position, type, modifier, compared_by, is_domain) AS (
    SELECT a.attname, a.attnum, a.atttypid, a.atttypmod, a.attcollation, false
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid
    WHERE n.nspname = %(schema)s AND c.relname = %(table)s AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT b.name, b.position, t.typbasetype, t.typtypmod, b.compared_by, true
    FROM behind b JOIN pg_catalog.pg_type t ON t.oid = b.type WHERE t.typtype = 'd'
)
SELECT b.name, pg_catalog.format_type(b.type, b.modifier), n.nspname, e.typname, e.typtype = 'e', t.typcategory = 'A', b.modifier,
       ARRAY(SELECT l.enumlabel::text FROM pg_catalog.pg_enum l WHERE l.enumtypid = e.oid ORDER BY l.enumsortorder),
       b.is_domain,
       (SELECT c.collname FROM pg_catalog.pg_collation c WHERE c.oid = b.compared_by AND NOT c.collisdeterministic)
FROM behind b
JOIN pg_catalog.pg_type t ON t.oid = b.type
JOIN pg_catalog.pg_type e ON e.oid = CASE WHEN t.typcategory = 'A' THEN t.typelem ELSE t.oid END
JOIN pg_catalog.pg_namespace n ON n.oid = e.typnamespace
WHERE t.typtype <> 'd'
ORDER BY b.position

-- name: as_the_reader
-- Row security of the documents is the reader's own. By the key and nothing else: the hits are few.
SELECT set_config('row_security', 'on', true)

-- name: is_one_of
{column} = ANY ({values}::{type}[])

-- name: overlaps
{column} && {values}::{type}[]

-- name: as_its_base
-- There is no operator of a domain over an enum. Nothing runs: of a domain a value is one of its base already.
{column}::{type}

-- name: is_null
{column} IS NULL

-- name: compared
{column} {operator} {value}::{type}

-- name: is_number
-- NaN and the infinities lie in no range: JSON has none of them, and a store that holds JSON could not agree.
{column} > '-Infinity'::{type} AND {column} < 'Infinity'::{type}

-- name: is_finite
isfinite({column})

-- name: shown
-- The documents as the reader may see them, with the same condition once more: what is shown meets it now.
SELECT w.doc_id, {text}, {columns}
FROM unnest(%(doc_ids)s::text[]) AS w(doc_id) JOIN {documents} AS d ON {key_is_wanted}
WHERE {condition}
