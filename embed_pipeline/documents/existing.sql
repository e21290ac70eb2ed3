-- name: first_unfit_id
-- An id must be the very text that the key makes of it: else the row would be another document.
SELECT w.doc_id FROM unnest(%(doc_ids)s::text[]) AS w(doc_id)
WHERE (w.doc_id::{key_type})::text IS DISTINCT FROM w.doc_id
LIMIT 1

-- name: insert_existing
-- In key order: two writers of the same rows wait for each other instead of deadlocking. What the application wrote before stays.
INSERT INTO {documents} ({columns}) OVERRIDING SYSTEM VALUE
SELECT {values}
FROM unnest(%(doc_ids)s::text[], %(texts)s::text[], %(fields)s::jsonb[], %(objects)s::jsonb[]) AS w(doc_id, text, fields, object),
     jsonb_populate_record(NULL::{documents}, w.fields) AS r
WHERE %(again)s OR NOT EXISTS (SELECT FROM embed_pipeline.change_queue q
                               WHERE q.index_name = %(index)s AND q.version = %(version)s AND q.doc_id = w.doc_id)
ORDER BY w.doc_id::{key_type}
ON CONFLICT ({key}) DO NOTHING
RETURNING ({key}::text COLLATE "C")

-- name: note_inserted
-- In the transaction of the insert. Whoever inserts after a crash sees by it that a row which is gone was deleted.
INSERT INTO embed_pipeline.change_queue (index_name, version, doc_id)
SELECT %(index)s, %(version)s, w.doc_id FROM unnest(%(doc_ids)s::text[]) AS w(doc_id)
RETURNING doc_id, seq

-- name: forget_inserted
DELETE FROM embed_pipeline.change_queue
WHERE seq IN (SELECT seq FROM embed_pipeline.change_queue WHERE seq = ANY (%(seqs)s) ORDER BY seq FOR UPDATE SKIP LOCKED)

-- name: take_back
-- Rows that hold the very text that was inserted, and that nobody has written since.
DELETE FROM {documents} AS d USING unnest(%(doc_ids)s::text[], %(hashes)s::bytea[]) AS w(doc_id, source_hash)
WHERE {key_is_wanted} AND {source_hash} = w.source_hash
RETURNING w.doc_id
