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

-- name: index_seen
CREATE INDEX ON pg_temp.embed_pipeline_seen (doc_id)

-- name: seen_ids
SELECT doc_id FROM pg_temp.embed_pipeline_seen WHERE (%(after)s::text IS NULL OR doc_id > %(after)s::text) ORDER BY doc_id LIMIT %(limit)s

-- name: count_seen
SELECT count(*), coalesce(sum(vectors), 0)::bigint FROM pg_temp.embed_pipeline_seen

-- name: differs
v.source_hash IS DISTINCT FROM encode({source_hash}, 'hex') OR v.fingerprint IS DISTINCT FROM %(fingerprint)s
OR v.payload_hash IS DISTINCT FROM encode(sha256(convert_to({payload}::text, 'UTF8')), 'hex')

-- name: expected
-- What a second look compares with: one document as it is, whether something that is announced is about it, and the text of its dead letter.
WITH announced AS MATERIALIZED (
    SELECT u.doc_id COLLATE "C" AS doc_id FROM embed_pipeline.inbox i CROSS JOIN unnest(i.doc_ids) AS u(doc_id)
    WHERE i.index_name = %(index)s
)
SELECT w.doc_id,
       EXISTS (SELECT FROM embed_pipeline.pending p
               WHERE p.index_name || '' = %(index)s AND p.version || '' = %(version)s AND p.doc_id = w.doc_id)
       OR w.doc_id COLLATE "C" IN (SELECT a.doc_id FROM announced a),
       d.is_there IS NOT NULL, encode({source_hash}, 'hex'), encode(sha256(convert_to({payload}::text, 'UTF8')), 'hex'),
       (SELECT encode(l.source_hash, 'hex') FROM embed_pipeline.dead_letters l
        WHERE l.index_name = %(index)s AND l.version = %(version)s AND l.doc_id = w.doc_id)
FROM unnest(%(doc_ids)s::text[]) AS w(doc_id)
LEFT JOIN (SELECT *, true AS is_there FROM {documents}) AS d ON {key_is_wanted}
