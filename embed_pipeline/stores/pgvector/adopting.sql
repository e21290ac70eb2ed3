-- name: find_relation
SELECT c.oid::bigint FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname = %(table)s AND c.relkind IN ('r', 'p')

-- name: columns
-- Each column with its type, of pgvector's types by their bare names, and the declared dimensions; -1: none are.
SELECT a.attname::text, CASE WHEN n.nspname = %(vector_schema)s THEN t.typname::text ELSE format_type(t.oid, NULL) END, a.atttypmod
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
WHERE a.attrelid = %(oid)s::oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum

-- name: has_index
-- Whether a column is the first of an index: the vectors of each document are looked up by it.
SELECT EXISTS (SELECT FROM pg_catalog.pg_index i
               JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
               WHERE i.indrelid = %(oid)s::oid AND i.indisvalid AND i.indpred IS NULL AND a.attname = %(column)s)

-- name: is_vector
-- Of the version's dimensions, and with a direction. CASE: to cast a vector of another length is an error.
CASE WHEN {schema}.vector_dims({column}) = {dimensions} THEN {schema}.{norm}({column}) > 0 ELSE false END

-- name: of_document
-- The vector of the document `d`.
SELECT 0 AS chunk, 1 AS chunks, {column} AS vector, coalesce({is_vector}, false) AS usable, NULL::text AS passage

-- name: of_table
-- The vectors of the document `d`, all of them usable or none: one that lacks a passage is embedded anew.
SELECT (row_number() OVER (ORDER BY {order}) - 1)::integer AS chunk, (count(*) OVER ())::integer AS chunks, {column} AS vector,
       bool_and(coalesce({is_vector} AND {fits}, false)) OVER () {alone} AS usable, {passage} AS passage
FROM {relation} AS t WHERE {is_of_document}

-- name: alone
AND count(*) OVER () = 1

-- name: says_the_same
-- What the vector was made of is what the document says.
({passage} COLLATE "C") = {text}

-- name: is_in_it
length({passage}) > 0 AND strpos({text}, {passage} COLLATE "C") > 0

-- name: look
SELECT count(*), coalesce(array_agg(s.doc_id) FILTER (WHERE s.usable), ARRAY[]::text[])
FROM (SELECT {doc_id} AS doc_id, {text} <> '' AND coalesce((SELECT bool_and(e.usable) FROM ({vectors}) AS e), false) AS usable
      FROM {documents} AS d WHERE {in_range}) AS s

-- name: sample
SELECT w.doc_id, coalesce(e.passage, {text}), {vector}::real[]
FROM unnest(%(doc_ids)s::text[]) AS w(doc_id) JOIN {documents} AS d ON {key_is_wanted} CROSS JOIN LATERAL ({vectors}) AS e
WHERE e.usable ORDER BY w.doc_id, e.chunk

-- name: announced
SELECT u.doc_id COLLATE "C" AS doc_id FROM embed_pipeline.inbox i CROSS JOIN unnest(i.doc_ids) AS u(doc_id)
WHERE i.index_name = %(index)s

-- name: found
-- Texts, vectors, and what is announced, in one snapshot. A document whose text was changed since the version was registered is announced, or
-- that was worked off: then the version has a row of it, or a dead letter. None of these gets the vector that was there before.
SELECT {doc_id} AS doc_id, e.chunk, e.chunks, {source_hash} AS source_hash, {vector} AS embedding,
       {start} AS passage_start, {start} + length(e.passage) AS passage_end
FROM {documents} AS d CROSS JOIN LATERAL ({vectors}) AS e
WHERE {in_range} AND {text} <> '' AND octet_length({doc_id}) <= {longest_id} AND e.usable {without_stored}
  AND NOT EXISTS (SELECT FROM announced AS a WHERE a.doc_id = {doc_id})
  AND NOT EXISTS (SELECT FROM embed_pipeline.pending AS p
                  WHERE p.index_name || '' = %(index)s AND p.version || '' = %(version)s AND p.doc_id = {doc_id})
  AND NOT EXISTS (SELECT FROM embed_pipeline.dead_letters AS l
                  WHERE l.index_name = %(index)s AND l.version = %(version)s AND l.doc_id = {doc_id})

-- name: whole_text
NULL::integer

-- name: where_it_is
strpos({text}, e.passage COLLATE "C") - 1

-- name: copy
WITH announced AS MATERIALIZED ({announced}), taken AS (
    INSERT INTO {table} (doc_id, chunk, chunks, source_hash, embedding, adopted_at, partition, epoch)
    SELECT f.doc_id, 0, 1, f.source_hash, f.embedding, now(), %(partition)s::smallint, %(epoch)s::integer
    FROM ({found}) AS f ORDER BY f.doc_id
    ON CONFLICT (doc_id, chunk) DO NOTHING RETURNING doc_id
)
SELECT count(*) FROM taken

-- name: copy_passages
-- Whoever has the row of chunk 0 has the document, and only its winner inserts the others: in the same snapshot, so that all are of one text.
WITH announced AS MATERIALIZED ({announced}), found AS MATERIALIZED ({found}), taken AS (
    INSERT INTO {table} (doc_id, chunk, chunks, source_hash, embedding, passage_start, passage_end, adopted_at, partition, epoch)
    SELECT f.doc_id, f.chunk, f.chunks, f.source_hash, f.embedding, f.passage_start, f.passage_end, now(), %(partition)s::smallint, %(epoch)s::integer
    FROM found AS f WHERE f.chunk = 0 ORDER BY f.doc_id
    ON CONFLICT (doc_id, chunk) DO NOTHING RETURNING doc_id
), further AS (
    INSERT INTO {table} (doc_id, chunk, chunks, source_hash, embedding, passage_start, passage_end, adopted_at, partition, epoch)
    SELECT f.doc_id, f.chunk, f.chunks, f.source_hash, f.embedding, f.passage_start, f.passage_end, now(), %(partition)s::smallint, %(epoch)s::integer
    FROM found AS f JOIN taken AS t ON t.doc_id = f.doc_id WHERE f.chunk > 0 ORDER BY f.doc_id, f.chunk
)
SELECT count(*) FROM taken

-- name: was_made_again
-- Whether the version's vectors were lost and it was made again: of what it was told before, nothing is left to show it.
SELECT EXISTS (SELECT FROM embed_pipeline.audit_events e
               WHERE e.index_name = %(index)s AND e.version = %(version)s AND e.event = 'make again')

-- name: was_doubted
-- Whether a full comparison has taken away a doubt since the version was registered: of what was missed then, nothing is known any more.
SELECT EXISTS (
    SELECT FROM embed_pipeline.audit_events e
    WHERE e.index_name = %(index)s AND e.event = 'reconcile' AND (e.detail -> 'doubts' <> '[]' OR e.detail -> 'rearmed' <> '[]')
      AND e.id > (SELECT min(r.id) FROM embed_pipeline.audit_events r
                  WHERE r.index_name = %(index)s AND r.version = %(version)s AND r.event = 'register'))
