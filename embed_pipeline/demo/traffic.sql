-- name: insert
INSERT INTO {table} (id, text) VALUES (%(id)s, %(text)s)

-- name: edit
UPDATE {table} SET text = regexp_replace(text, ' \(revision \d+\)$', '') || %(revision)s WHERE id = %(id)s

-- name: delete
DELETE FROM {table} WHERE id = %(id)s

-- name: waiting
SELECT (SELECT count(*) FROM embed_pipeline.inbox WHERE index_name = %(index)s)
     + (SELECT count(*) FROM embed_pipeline.queue WHERE index_name = %(index)s)

-- name: other_indexes
SELECT count(*) FROM embed_pipeline.indexes WHERE index_name <> %(index)s

-- name: catalog_exists
SELECT to_regclass('embed_pipeline.indexes') IS NOT NULL

-- name: drop_catalog
DROP SCHEMA IF EXISTS embed_pipeline CASCADE

-- name: drop_documents
DROP TABLE IF EXISTS {table}
