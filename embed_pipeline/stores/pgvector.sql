-- name: create_documents
-- One row per document: the unit of every guard. The CHECKs pin the version: no other version's rows can ever stand here.
CREATE TABLE {version_documents} (
    doc_id        text COLLATE "C" PRIMARY KEY,
    source_hash   bytea NOT NULL CHECK (length(source_hash) = 32),
    chunks        integer NOT NULL CHECK (chunks > 0),
    embedded_at   timestamptz NOT NULL DEFAULT now(),
    model_name    text NOT NULL DEFAULT {model_name} CHECK (model_name = {model_name}),
    model_version text NOT NULL DEFAULT {model_version} CHECK (model_version = {model_version}),
    fingerprint   text NOT NULL DEFAULT {fingerprint} CHECK (fingerprint = {fingerprint})
)

-- name: create_vectors
-- No foreign key: checking it costs more than writing the vector. Every writer goes through the document's row, and verify looks.
-- A passage is characters start to end of the document's text; NULL: the vector is of the whole document.
CREATE TABLE {version_vectors} (
    doc_id        text COLLATE "C" NOT NULL,
    chunk         integer NOT NULL CHECK (chunk >= 0),
    embedding     {vector_type} NOT NULL,
    passage_start integer,
    passage_end   integer,
    PRIMARY KEY (doc_id, chunk)
)

-- name: vector_schema
SELECT n.nspname FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector'

-- name: drop_tables
DROP TABLE IF EXISTS {version_vectors}, {version_documents}

-- name: missing
SELECT {doc_id}, {text}, {source_hash}
FROM {documents} AS d
WHERE {in_range}
  AND NOT EXISTS (SELECT FROM {version_documents} AS v WHERE v.doc_id = {doc_id})
  {without_dead_letters}
  {without_queued}
ORDER BY {key_columns} LIMIT %(limit)s
{without_locked}

-- name: without_locked
FOR KEY SHARE OF d SKIP LOCKED

-- name: insert_new
-- Lock what is wanted, skip what the application holds, check the text, claim the document's row; whoever was first keeps it.
WITH wanted AS (
    SELECT * FROM unnest(%(doc_ids)b::text[], %(hashes)b::bytea[], %(chunks)b::integer[]) AS w(doc_id, source_hash, chunks)
), locked AS MATERIALIZED (
    SELECT w.doc_id, w.source_hash, w.chunks
    FROM wanted w JOIN {documents} AS d ON {key_is_wanted}
    WHERE {source_hash} = w.source_hash
    FOR KEY SHARE OF d SKIP LOCKED
)
INSERT INTO {version_documents} (doc_id, source_hash, chunks)
SELECT doc_id, source_hash, chunks FROM locked ORDER BY doc_id
{first_wins}

-- name: first_wins
ON CONFLICT (doc_id) DO NOTHING
RETURNING doc_id

-- name: take_rows
-- For documents whose source rows are locked and compared already. Waits for another worker's uncommitted row of the same document.
INSERT INTO {version_documents} (doc_id, source_hash, chunks)
SELECT w.doc_id, w.source_hash, w.chunks
FROM unnest(%(doc_ids)b::text[], %(hashes)b::bytea[], %(chunks)b::integer[]) AS w(doc_id, source_hash, chunks) ORDER BY w.doc_id
ON CONFLICT (doc_id) DO NOTHING
RETURNING doc_id

-- name: wait_briefly
-- From here on locks are held. Who is waited for is another worker, never the application.
SELECT set_config('lock_timeout', %(milliseconds)s, true)

-- name: copy_vectors
COPY {version_vectors} (doc_id, chunk, embedding) FROM STDIN (FORMAT BINARY)

-- name: copy_passages
COPY {version_vectors} (doc_id, chunk, embedding, passage_start, passage_end) FROM STDIN (FORMAT BINARY)

-- name: insert_vectors
INSERT INTO {version_vectors} (doc_id, chunk, embedding, passage_start, passage_end)
SELECT * FROM unnest(%(doc_ids)b::text[], %(chunks)b::integer[], %(embeddings)b::{vector_type}[], %(starts)b::integer[], %(ends)b::integer[])

-- name: lock_current
SELECT w.doc_id
FROM unnest(%(doc_ids)s::text[], %(hashes)s::bytea[]) AS w(doc_id, source_hash)
JOIN {documents} AS d ON {key_is_wanted}
WHERE {source_hash} = w.source_hash
ORDER BY w.doc_id
FOR KEY SHARE OF d SKIP LOCKED

-- name: delete_rows
DELETE FROM {version_documents}
WHERE doc_id IN (SELECT doc_id FROM {version_documents} WHERE doc_id = ANY (%(doc_ids)s) ORDER BY doc_id FOR UPDATE SKIP LOCKED)
RETURNING doc_id

-- name: delete_vectors
DELETE FROM {version_vectors} WHERE doc_id = ANY (%(doc_ids)s)

-- name: delete_gone
-- Only rows that this statement's snapshot sees: a document that came back has a new row, which is not visible here.
DELETE FROM {version_documents}
WHERE doc_id IN (SELECT w.doc_id FROM {version_documents} AS w
                 WHERE w.doc_id = ANY (%(doc_ids)s) AND NOT EXISTS (SELECT FROM {documents} AS d WHERE {key_is_wanted})
                 ORDER BY w.doc_id FOR UPDATE SKIP LOCKED)
RETURNING doc_id

-- name: stored_hashes
SELECT doc_id, source_hash FROM {version_documents} WHERE doc_id = ANY (%(doc_ids)s)

-- name: coverage
WITH compared AS (
    SELECT coalesce(x.doc_id, v.doc_id) AS doc_id,
           x.doc_id IS NULL AS orphaned,
           v.doc_id IS NULL AS missing,
           v.source_hash = x.source_hash AS matches,
           l.doc_id IS NOT NULL AND l.source_hash = x.source_hash AND v.doc_id IS NULL AS dead,
           coalesce(v.chunks, 0) AS chunks
    FROM (SELECT {doc_id} AS doc_id, {source_hash} AS source_hash FROM {documents} AS d) AS x
    FULL JOIN {version_documents} AS v ON v.doc_id = x.doc_id
    LEFT JOIN embed_pipeline.dead_letters AS l
        ON l.index_name = %(index)s AND l.version = %(version)s AND l.doc_id = x.doc_id
), counted AS (
    SELECT doc_id, count(*) AS vectors, min(chunk) AS first_chunk, max(chunk) AS last_chunk FROM {version_vectors} GROUP BY doc_id
), judged AS (
    SELECT coalesce(c.doc_id, n.doc_id) AS doc_id,
           c.doc_id IS NOT NULL AND NOT c.orphaned AS is_document,
           coalesce(n.vectors, 0) AS vectors,
           CASE
               WHEN c.doc_id IS NULL OR (c.orphaned AND NOT c.missing) THEN 'orphaned'
               WHEN c.dead AND n.doc_id IS NULL THEN 'dead'
               WHEN c.missing AND n.doc_id IS NULL THEN 'missing'
               WHEN NOT coalesce(c.matches, false) THEN 'stale'
               WHEN coalesce(n.vectors, 0) <> c.chunks OR n.first_chunk <> 0 OR n.last_chunk <> c.chunks - 1 THEN 'wrong_chunks'
               ELSE 'current'
           END AS verdict
    FROM compared c FULL JOIN counted n ON n.doc_id = c.doc_id
), explained AS (
    SELECT j.*, j.verdict NOT IN ('current', 'dead') AND EXISTS (
        SELECT FROM embed_pipeline.change_queue q
        WHERE q.index_name = %(index)s AND q.version = %(version)s AND q.doc_id = j.doc_id) AS pending
    FROM judged j
)
SELECT count(*) FILTER (WHERE is_document), coalesce(sum(vectors), 0)::bigint, count(*) FILTER (WHERE verdict = 'current'),
       count(*) FILTER (WHERE pending), count(*) FILTER (WHERE verdict = 'dead'),
       count(*) FILTER (WHERE verdict = 'missing' AND NOT pending), count(*) FILTER (WHERE verdict = 'stale' AND NOT pending),
       count(*) FILTER (WHERE verdict = 'orphaned' AND NOT pending), count(*) FILTER (WHERE verdict = 'wrong_chunks' AND NOT pending),
       (array_agg(doc_id || ' is ' || verdict ORDER BY doc_id) FILTER (WHERE verdict NOT IN ('current', 'dead') AND NOT pending))[1:5]
FROM explained

-- name: enqueue_differences
INSERT INTO embed_pipeline.change_queue (index_name, version, doc_id)
SELECT %(index)s, %(version)s, different.doc_id
FROM (
    SELECT x.doc_id
    FROM (SELECT {doc_id} AS doc_id, {source_hash} AS source_hash, {is_unfilled} AS is_unfilled FROM {documents} AS d) AS x
    LEFT JOIN {version_documents} AS v ON v.doc_id = x.doc_id
    WHERE v.source_hash IS DISTINCT FROM x.source_hash
      -- What history has not filled yet is the backfill's.
      AND NOT (v.doc_id IS NULL AND x.is_unfilled)
      AND NOT EXISTS (SELECT FROM embed_pipeline.dead_letters l
                      WHERE l.index_name = %(index)s AND l.version = %(version)s AND l.doc_id = x.doc_id
                        AND l.source_hash = x.source_hash)
    UNION
    SELECT w.doc_id FROM {version_documents} AS w WHERE NOT EXISTS (SELECT FROM {documents} AS d WHERE {key_is_wanted})
    UNION
    SELECT w.doc_id FROM embed_pipeline.dead_letters AS w
    WHERE w.index_name = %(index)s AND w.version = %(version)s
      AND NOT EXISTS (SELECT FROM {documents} AS d WHERE {key_is_wanted})
) AS different
WHERE NOT EXISTS (SELECT FROM embed_pipeline.change_queue q
                  WHERE q.index_name = %(index)s AND q.version = %(version)s AND q.doc_id = different.doc_id)

-- name: search_settings
SELECT set_config('hnsw.ef_search', %(ef_search)s, true), set_config('hnsw.iterative_scan', %(iterative)s, true),
       set_config('enable_indexscan', %(index_scan)s, true), set_config('enable_seqscan', %(seq_scan)s, true)

-- name: search
SELECT v.doc_id, v.chunk, (v.embedding {operator} %(query)b::{vector_type})::double precision AS distance
FROM {version_vectors} AS v
ORDER BY v.embedding {operator} %(query)b::{vector_type} LIMIT %(k)s

-- name: search_filtered
SELECT v.doc_id, v.chunk, (v.embedding {operator} %(query)b::{vector_type})::double precision AS distance
FROM {version_vectors} AS v
WHERE EXISTS (SELECT FROM {documents} AS d WHERE {key_is_wanted} AND {condition})
ORDER BY v.embedding {operator} %(query)b::{vector_type} LIMIT %(k)s

-- name: scan_without_limit
-- The ANN scan goes on as far as it is asked to; by itself it would stop after 20,000 vectors.
SELECT set_config('hnsw.max_scan_tuples', '2147483647', true)

-- name: nearest_passages
SELECT v.doc_id, v.chunk, (v.embedding {operator} %(query)b::{vector_type})::double precision AS distance, v.passage_start, v.passage_end
FROM {version_vectors} AS v
WHERE {among}
ORDER BY v.embedding {operator} %(query)b::{vector_type} LIMIT %(rows)s

-- name: nearest_documents
-- Compares with every vector: the nearest passage of each document, then the nearest documents.
SELECT n.doc_id, n.chunk, n.distance, n.passage_start, n.passage_end
FROM (SELECT DISTINCT ON (v.doc_id) v.doc_id, v.chunk, v.passage_start, v.passage_end,
             (v.embedding {operator} %(query)b::{vector_type})::double precision AS distance
      FROM {version_vectors} AS v
      WHERE {among}
      ORDER BY v.doc_id, distance, v.chunk) AS n
ORDER BY n.distance, n.doc_id LIMIT %(k)s

-- name: among_all
true

-- name: among_filtered
EXISTS (SELECT FROM {documents} AS d WHERE {key_is_wanted} AND {condition})

-- name: count
SELECT count(*) FROM {version_documents}

-- name: size
SELECT coalesce(sum(pg_total_relation_size(t)), 0)::bigint FROM unnest(ARRAY[to_regclass(%(documents)s), to_regclass(%(vectors)s)]) AS t

-- name: provenance_branch
SELECT {index}::text AS index, {version}::text AS version, (d.doc_id COLLATE "default") AS doc_id, v.chunk, d.model_name, d.model_version,
       d.fingerprint, encode(d.source_hash, 'hex') AS source_hash, d.embedded_at, v.passage_start, v.passage_end
FROM {version_documents} d JOIN {version_vectors} v USING (doc_id)

-- name: empty_provenance
SELECT NULL::text AS index, NULL::text AS version, NULL::text AS doc_id, NULL::integer AS chunk, NULL::text AS model_name,
       NULL::text AS model_version, NULL::text AS fingerprint, NULL::text AS source_hash, NULL::timestamptz AS embedded_at,
       NULL::integer AS passage_start, NULL::integer AS passage_end
WHERE false

-- name: replace_provenance
CREATE OR REPLACE VIEW embed_pipeline.provenance AS {branches}

-- name: labels
SELECT count(*), count(*) FILTER (WHERE (model_name, model_version, fingerprint)
                                        IS DISTINCT FROM (%(model_name)s, %(model_version)s, %(fingerprint)s))
FROM embed_pipeline.provenance WHERE index = %(index)s AND version = %(version)s
