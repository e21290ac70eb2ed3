-- name: insert
INSERT INTO {table} (id, text) VALUES (%(id)s, %(text)s)

-- name: edit
UPDATE {table} SET text = regexp_replace(text, ' \(revision \d+\)$', '') || %(revision)s WHERE id = %(id)s

-- name: delete
DELETE FROM {table} WHERE id = %(id)s

-- name: fingerprint
SELECT fingerprint FROM embed_pipeline.versions WHERE index_name = %(index)s AND version = %(version)s AND state <> 'retired'

-- name: stored
SELECT v.doc_id, v.embedding, d.fingerprint, d.embedded_at > now() - interval '2 seconds'
FROM {vectors} AS v JOIN {documents} AS d USING (doc_id) WHERE v.doc_id = ANY (%(doc_ids)s)

-- name: other_indexes
SELECT count(*) FROM embed_pipeline.indexes WHERE index_name <> %(index)s

-- name: catalog_exists
SELECT to_regclass('embed_pipeline.indexes') IS NOT NULL

-- name: drop_catalog
DROP SCHEMA IF EXISTS embed_pipeline CASCADE

-- name: drop_documents
DROP TABLE IF EXISTS {table}
