-- name: now
-- The documents as they are at this moment, with what their points must say.
SELECT w.doc_id, {source_hash}, {payload}, encode(sha256(convert_to({payload}::text, 'UTF8')), 'hex')
FROM unnest(%(doc_ids)s::text[]) AS w(doc_id) JOIN {documents} AS d ON {key_is_wanted}

-- name: page
SELECT {doc_id}
FROM {documents} AS d
WHERE {in_range}
  {without_dead_letters}
  {without_queued}
ORDER BY {key_columns} LIMIT %(limit)s

-- name: begin_writing
-- Whoever writes points holds this. Tombstones are swept only while nobody does: a write in flight may be of a deleted document.
SELECT pg_advisory_lock_shared(hashtextextended(%(name)s, 0))

-- name: end_writing
SELECT pg_advisory_unlock_shared(hashtextextended(%(name)s, 0))

-- name: try_sweep
SELECT pg_try_advisory_lock(hashtextextended(%(name)s, 0))

-- name: end_sweep
SELECT pg_advisory_unlock(hashtextextended(%(name)s, 0))

-- name: lock_unchanged
-- For a letter about a text: the text cannot change before the letter is there. Held for the length of one insert.
SELECT w.doc_id
FROM unnest(%(doc_ids)s::text[], %(hashes)s::bytea[]) AS w(doc_id, source_hash)
JOIN {documents} AS d ON {key_is_wanted}
WHERE {source_hash} = w.source_hash
ORDER BY w.doc_id
FOR SHARE OF d SKIP LOCKED

-- name: create_seen
CREATE TEMPORARY TABLE embed_pipeline_seen (
    doc_id       text COLLATE "C" NOT NULL,
    source_hash  text,
    fingerprint  text,
    payload_hash text,
    vectors      integer NOT NULL,
    chunks       integer NOT NULL
)

-- name: drop_seen
DROP TABLE IF EXISTS pg_temp.embed_pipeline_seen

-- name: copy_seen
COPY pg_temp.embed_pipeline_seen (doc_id, source_hash, fingerprint, payload_hash, vectors, chunks) FROM STDIN

-- name: analyze_seen
ANALYZE pg_temp.embed_pipeline_seen

-- name: compare
-- Every document against everything that was seen in Qdrant. A point without a vector was not seen.
SELECT coalesce(x.doc_id, s.doc_id) AS doc_id, x.doc_id IS NOT NULL AS is_document, coalesce(s.vectors, 0) AS vectors,
       CASE
           WHEN x.doc_id IS NULL THEN 'orphaned'
           WHEN s.doc_id IS NULL AND l.doc_id IS NOT NULL THEN 'dead'
           WHEN s.doc_id IS NULL THEN 'missing'
           WHEN s.source_hash IS DISTINCT FROM encode(x.source_hash, 'hex') OR s.fingerprint IS DISTINCT FROM %(fingerprint)s
                OR s.payload_hash IS DISTINCT FROM x.payload_hash THEN 'stale'
           WHEN s.vectors <> s.chunks THEN 'wrong_chunks'
           ELSE 'current'
       END AS verdict,
       coalesce(x.is_unfilled, false) AS is_unfilled
FROM (SELECT {doc_id} AS doc_id, {source_hash} AS source_hash, encode(sha256(convert_to({payload}::text, 'UTF8')), 'hex') AS payload_hash,
             {is_unfilled} AS is_unfilled
      FROM {documents} AS d) AS x
FULL JOIN pg_temp.embed_pipeline_seen AS s ON s.doc_id = x.doc_id
LEFT JOIN embed_pipeline.dead_letters AS l
    ON l.index_name = %(index)s AND l.version = %(version)s AND l.doc_id = x.doc_id AND l.source_hash = x.source_hash

-- name: counts
SELECT count(*) FILTER (WHERE c.is_document), coalesce(sum(c.vectors), 0)::bigint, count(*) FILTER (WHERE c.verdict = 'current'),
       count(*) FILTER (WHERE c.verdict NOT IN ('current', 'dead') AND {is_queued}), count(*) FILTER (WHERE c.verdict = 'dead')
FROM ({compare}) AS c

-- name: differences
SELECT c.doc_id, c.verdict FROM ({compare}) AS c
WHERE c.verdict NOT IN ('current', 'dead') AND NOT (c.verdict = 'missing' AND c.is_unfilled) AND NOT {is_queued}
ORDER BY c.doc_id

-- name: is_queued
EXISTS (SELECT FROM embed_pipeline.change_queue q
        WHERE q.index_name = %(index)s AND q.version = %(version)s AND q.doc_id = c.doc_id)

-- name: expected
-- What a second look compares with: one document as it is, whether a queued change is about it, and whether a dead letter is.
SELECT w.doc_id, encode({source_hash}, 'hex'), encode(sha256(convert_to({payload}::text, 'UTF8')), 'hex'), d.is_there,
       EXISTS (SELECT FROM embed_pipeline.change_queue q
               WHERE q.index_name = %(index)s AND q.version = %(version)s AND q.doc_id = w.doc_id),
       EXISTS (SELECT FROM embed_pipeline.dead_letters l
               WHERE l.index_name = %(index)s AND l.version = %(version)s AND l.doc_id = w.doc_id AND l.source_hash = {source_hash})
FROM unnest(%(doc_ids)s::text[]) AS w(doc_id)
LEFT JOIN (SELECT *, true AS is_there FROM {documents}) AS d ON {key_is_wanted}

-- name: letters_of_nothing
-- Dead letters of documents that are gone.
SELECT w.doc_id FROM embed_pipeline.dead_letters AS w
WHERE w.index_name = %(index)s AND w.version = %(version)s
  AND NOT EXISTS (SELECT FROM {documents} AS d WHERE {key_is_wanted})
  AND NOT EXISTS (SELECT FROM embed_pipeline.change_queue q
                  WHERE q.index_name = %(index)s AND q.version = %(version)s AND q.doc_id = w.doc_id)
