-- name: create_table
-- One row for each vector; that of chunk 0 is the document's row, which an insert competes for. The CHECKs pin the version: no other
-- version's rows can ever stand here. `partition` and `epoch` name the backfill that wrote the row; NULL: a dual-write did.
-- `adopted_at`: the vector was there before and was copied then; which model made it, nobody has seen.
-- A passage is characters start to end of the document's text; NULL: the vector is of the whole document.
CREATE TABLE {table} (
    chunk         integer NOT NULL CHECK ({chunks_allowed}),
    chunks        integer NOT NULL CHECK (chunk < chunks),
    embedded_at   timestamptz NOT NULL DEFAULT now(),
    adopted_at    timestamptz,
    epoch         integer,
    partition     smallint,
    passage_start integer,
    passage_end   integer,
    doc_id        text COLLATE "C" NOT NULL,
    source_hash   bytea NOT NULL CHECK (length(source_hash) = 32),
    model_name    text NOT NULL DEFAULT {model_name} CHECK (model_name = {model_name}),
    model_version text NOT NULL DEFAULT {model_version} CHECK (model_version = {model_version}),
    fingerprint   text NOT NULL DEFAULT {fingerprint} CHECK (fingerprint = {fingerprint}),
    embedding     {vector_type} NOT NULL,
    CONSTRAINT {primary_key} PRIMARY KEY (doc_id, chunk)
)

-- name: create_partition_index
CREATE INDEX {name} ON {table} (partition)

-- name: is_there
SELECT to_regclass(%(table)s) IS NOT NULL

-- name: drop_table
DROP TABLE IF EXISTS {table}

-- name: without_stored
AND NOT EXISTS (SELECT FROM {table} AS v WHERE v.doc_id = {doc_id})

-- name: without_dual_written
-- Of a partition that no backfill has begun a dual-write may have stored some; mostly it has none, and then nothing is looked up.
AND (NOT (SELECT EXISTS (SELECT FROM {table} AS w WHERE w.partition IS NULL))
     OR NOT EXISTS (SELECT FROM {table} AS v WHERE v.doc_id = {doc_id}))

-- name: commit_lazily
-- Lost with the server, such a commit takes its claim or its partition's mark along, and comes again.
SET LOCAL synchronous_commit = off

-- name: wait_briefly
-- Who is waited for is another worker, never the application.
SELECT set_config('lock_timeout', %(milliseconds)s, true)

-- name: copy
COPY {table} (doc_id, chunk, chunks, source_hash, partition, epoch, embedding) FROM STDIN (FORMAT BINARY)

-- name: copy_passages
COPY {table} (doc_id, chunk, chunks, source_hash, partition, epoch, embedding, passage_start, passage_end) FROM STDIN (FORMAT BINARY)

-- name: insert
-- Of a backfill that another worker was ahead of: whoever has the row of chunk 0 has the document. Vectors come with their type's number:
-- no name of pgvector's has to be found.
INSERT INTO {table} (doc_id, chunk, chunks, source_hash, embedding, passage_start, passage_end, partition, epoch)
SELECT w.*, %(partition)s::smallint, %(epoch)s::integer
FROM unnest(%(doc_ids)b::text[], %(chunk)b::integer[], %(chunks)b::integer[], %(hashes)b::bytea[], %(embeddings)b,
            %(starts)b::integer[], %(ends)b::integer[]) AS w(doc_id, chunk, chunks, source_hash, embedding, passage_start, passage_end)
ORDER BY w.doc_id COLLATE "C", w.chunk
{first_wins}

-- name: first_wins
ON CONFLICT (doc_id, chunk) DO NOTHING
RETURNING doc_id

-- name: upsert
INSERT INTO {table} AS v (doc_id, chunk, chunks, source_hash, embedding, passage_start, passage_end)
SELECT * FROM unnest(%(doc_ids)b::text[], %(chunk)b::integer[], %(chunks)b::integer[], %(hashes)b::bytea[], %(embeddings)b,
                     %(starts)b::integer[], %(ends)b::integer[]) AS w(doc_id, chunk, chunks, source_hash, embedding, passage_start, passage_end)
ORDER BY w.doc_id COLLATE "C", w.chunk
ON CONFLICT (doc_id, chunk) DO UPDATE
SET chunks = excluded.chunks, source_hash = excluded.source_hash, embedding = excluded.embedding, embedded_at = now(), adopted_at = NULL,
    passage_start = excluded.passage_start, passage_end = excluded.passage_end, partition = NULL, epoch = NULL

-- name: delete_further
-- In a statement of its own, after the row of chunk 0 is taken: it sees what a backfill had committed by then.
DELETE FROM {table} WHERE doc_id = ANY (%(doc_ids)s::text[]) AND chunk > 0

-- name: delete
DELETE FROM {table} WHERE doc_id = ANY (%(doc_ids)s::text[])

-- name: stored_hashes
SELECT doc_id, source_hash FROM {table} WHERE doc_id = ANY (%(doc_ids)s::text[]) AND chunk = 0

-- name: stored_vectors
SELECT doc_id, source_hash, array_agg(embedding::real[] ORDER BY chunk), array_agg(passage_start ORDER BY chunk),
       array_agg(passage_end ORDER BY chunk)
FROM {table} WHERE doc_id = ANY (%(doc_ids)s::text[]) GROUP BY doc_id, source_hash

-- name: written_since
SELECT v.doc_id FROM {table} AS v WHERE v.chunk = 0 AND v.embedded_at > %(moment)s ORDER BY v.embedded_at DESC, v.doc_id LIMIT %(limit)s

-- name: whole_hashes
-- With passages: of documents of which every passage is there.
SELECT v.doc_id, v.source_hash FROM {table} AS v WHERE v.doc_id = ANY (%(doc_ids)s::text[]) AND v.chunk = 0 AND {is_whole}

-- name: stored_ids
-- NULL: from the first one; an id may be empty.
SELECT DISTINCT v.doc_id FROM {table} AS v
WHERE (%(after)s::text IS NULL OR v.doc_id > %(after)s::text) AND {among} ORDER BY v.doc_id LIMIT %(limit)s

-- name: differs
v.source_hash <> {source_hash}

-- name: document_unchanged
age(d.xmin) > age(%(horizon)s::text::xid8::xid)

-- name: row_unchanged
age(v.xmin) > age(%(horizon)s::text::xid8::xid)

-- name: row_of_this_fill
v.epoch = %(epoch)s AND v.partition = %(partition)s

-- name: is_settled
age(v.xmin) > age(%(settled)s::text::xid8::xid)

-- name: is_of_partition
v.partition = %(partition)s

-- name: count_settled
SELECT count(*) FILTER (WHERE {is_settled}), count(*) FILTER (WHERE NOT ({is_settled})) FROM {table} AS v WHERE v.chunk = 0 AND {among}

-- name: is_whole
(SELECT count(*) FROM {table} AS c WHERE c.doc_id = v.doc_id) = v.chunks
AND NOT EXISTS (SELECT FROM {table} AS c WHERE c.doc_id = v.doc_id AND (c.source_hash, c.chunks) IS DISTINCT FROM (v.source_hash, v.chunks))

-- name: gone
SELECT embed_pipeline.gone(%(index)s, %(version)s, %(doc_ids)s::text[])

-- name: present
SELECT {function}(%(most)s)

-- name: nearest
SELECT v.doc_id, v.chunk, (v.embedding OPERATOR({schema}.{operator}) %(query)b)::double precision AS distance,
       v.passage_start, v.passage_end, {suspect} AS suspect
FROM {table} AS v
WHERE {among} {settings}
ORDER BY {nearness} LIMIT {rows}

-- name: distances
-- Of these documents alone, and so without an ANN index. One statement: vectors, and what waits for them, as of one moment. A value, not
-- EXISTS: see suspect_pending.
SELECT v.doc_id, min((v.embedding OPERATOR({schema}.{operator}) %(query)b)::double precision)
FROM {table} AS v
WHERE v.doc_id = ANY (%(doc_ids)s::text[])
  AND (SELECT true FROM embed_pipeline.pending AS p
       WHERE p.index_name || '' = {index} AND p.version || '' = {version} AND p.doc_id = v.doc_id) IS NULL
GROUP BY v.doc_id

-- name: graph_settings
-- For this transaction, and before the scan begins: a condition without a row of the table is asked once, ahead of it. In a statement of
-- their own they would cost a round trip, or as much of the client's time as the search itself.
AND (SELECT set_config('hnsw.ef_search', {ef_search}, true) || set_config('hnsw.iterative_scan', 'strict_order', true)) IS NOT NULL

-- name: by_the_graph
v.embedding OPERATOR({schema}.{operator}) %(query)b

-- name: by_all
-- No order that an index has: whatever a role or database has set for the planner, every vector is compared.
(v.embedding OPERATOR({schema}.{operator}) %(query)b) + 0

-- name: among_all
true

-- name: among_these
v.doc_id = ANY (%(among)s::text[])

-- name: among_filtered
EXISTS (SELECT FROM {documents} AS d WHERE {key_is_wanted} AND {condition})

-- name: suspect_none
0

-- name: suspect
-- How much is doubted is asked in the snapshot that the vectors are looked at in: what is worked off has taken its vectors along in it.
CASE (SELECT embed_pipeline.doubtful({index}, {version})) WHEN 0 THEN 0 WHEN 2 THEN 2 ELSE {pending} END

-- name: suspect_pending
-- A value, not EXISTS: to answer that for some hits the planner would rather hash all that waits.
coalesce((SELECT p.removed::integer FROM embed_pipeline.pending AS p
          WHERE p.index_name || '' = {index} AND p.version || '' = {version} AND p.doc_id = v.doc_id), 0)

-- name: filtered_rows
EXPLAIN (FORMAT JSON) SELECT FROM {documents} AS d WHERE {condition}

-- name: filtered_ids
SELECT {doc_id} FROM {documents} AS d WHERE {condition} LIMIT %(most)s

-- name: block
-- The next vectors in the order of their documents, as three columns.
SELECT array_agg(b.doc_id), array_agg(b.chunk), string_agg({send}(b.embedding), ''::bytea)
FROM (SELECT v.doc_id, v.chunk, v.embedding FROM {table} AS v WHERE %(after)s::text IS NULL OR v.doc_id > %(after)s::text ORDER BY v.doc_id, v.chunk LIMIT %(rows)s) AS b

-- name: count
SELECT count(*) FROM {table} WHERE chunk = 0

-- name: count_vectors
SELECT count(*) FROM {table}

-- name: size
SELECT coalesce(pg_total_relation_size(to_regclass(%(table)s)), 0)::bigint

-- name: provenance_branch
SELECT {index}::text AS index, {version}::text AS version, (v.doc_id COLLATE "default") AS doc_id, v.chunk, v.model_name, v.model_version,
       v.fingerprint, encode(v.source_hash, 'hex') AS source_hash,
       CASE WHEN v.adopted_at IS NULL THEN v.embedded_at END AS embedded_at, v.passage_start, v.passage_end, v.adopted_at
FROM {table} v

-- name: empty_provenance
SELECT NULL::text AS index, NULL::text AS version, NULL::text AS doc_id, NULL::integer AS chunk, NULL::text AS model_name,
       NULL::text AS model_version, NULL::text AS fingerprint, NULL::text AS source_hash, NULL::timestamptz AS embedded_at,
       NULL::integer AS passage_start, NULL::integer AS passage_end, NULL::timestamptz AS adopted_at
WHERE false

-- name: replace_provenance
CREATE OR REPLACE VIEW embed_pipeline.provenance AS {branches}

-- name: labels
SELECT count(*), count(*) FILTER (WHERE (model_name, model_version, fingerprint)
                                        IS DISTINCT FROM (%(model_name)s, %(model_version)s, %(fingerprint)s))
FROM {table}
