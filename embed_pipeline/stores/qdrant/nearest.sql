-- name: gone_hits
SELECT embed_pipeline.gone(%(index)s, %(version)s, %(doc_ids)s::text[])

-- name: waiting
SELECT p.doc_id FROM embed_pipeline.pending p
WHERE p.index_name || '' = %(index)s AND p.version || '' = %(version)s AND p.doc_id = ANY (%(doc_ids)s::text[])

-- name: present
SELECT {function}(%(most)s)
