-- name: first_unfit_id
-- An id must be the very text that the key makes of it: else the row would be another document.
SELECT w.doc_id FROM unnest(%(doc_ids)s::text[]) AS w(doc_id)
WHERE (w.doc_id::{key_type})::text IS DISTINCT FROM w.doc_id
LIMIT 1

-- name: insert_existing
-- In key order: two writers of the same rows wait for each other instead of deadlocking. What the application wrote before stays.
INSERT INTO {documents} ({columns}) OVERRIDING SYSTEM VALUE
SELECT {values}
FROM ROWS FROM (pg_catalog.unnest(%(doc_ids)s::text[]), pg_catalog.unnest(%(texts)s::text[]), pg_catalog.unnest(%(fields)s::jsonb[]),
                pg_catalog.unnest(%(objects)s::jsonb[])) AS w(doc_id, text, fields, object),
     pg_catalog.jsonb_populate_record(NULL::{documents}, w.fields) AS r
WHERE %(again)s OR NOT EXISTS (SELECT FROM embed_pipeline.pending p
                               WHERE p.index_name = %(index)s AND p.version = %(version)s AND p.doc_id = w.doc_id)
ORDER BY w.doc_id::{key_type}
ON CONFLICT ({key}) DO NOTHING
RETURNING ({key}::text COLLATE "C")

-- name: note_inserted
-- In the transaction of the insert. Whoever inserts after a crash sees by it that a row which is gone was deleted.
INSERT INTO embed_pipeline.pending AS p (index_name, version, doc_id, seq, since_seq, since, removed)
SELECT %(index)s, %(version)s, n.doc_id, n.seq, n.seq, clock_timestamp(), false
FROM (SELECT w.doc_id COLLATE "C" AS doc_id, nextval('embed_pipeline.change_seq') AS seq FROM unnest(%(doc_ids)s::text[]) AS w(doc_id)) AS n
ORDER BY n.doc_id
ON CONFLICT (index_name, version, doc_id) DO UPDATE SET seq = excluded.seq
RETURNING p.doc_id, p.seq

-- name: forget_inserted
-- Only what nobody has announced since: that has another seq.
DELETE FROM embed_pipeline.pending p USING (
    SELECT q.doc_id FROM embed_pipeline.pending q
    JOIN unnest(%(doc_ids)s::text[], %(seqs)s::bigint[]) AS w(doc_id, seq) ON q.doc_id = w.doc_id COLLATE "C" AND q.seq = w.seq
    WHERE q.index_name = %(index)s AND q.version = %(version)s ORDER BY q.doc_id FOR UPDATE OF q SKIP LOCKED
) AS w
WHERE p.index_name = %(index)s AND p.version = %(version)s AND p.doc_id = w.doc_id

-- name: take_back
-- Rows that hold the very text that was inserted, and that nobody has written since.
DELETE FROM {documents} AS d
USING ROWS FROM (pg_catalog.unnest(%(doc_ids)s::text[]), pg_catalog.unnest(%(hashes)s::bytea[])) AS w(doc_id, source_hash)
WHERE {key_is_wanted} AND {source_hash} = w.source_hash
RETURNING w.doc_id
