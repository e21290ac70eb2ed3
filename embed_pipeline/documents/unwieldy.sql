-- name: set_aside
INSERT INTO embed_pipeline.unwieldy_ids (index_name, digest, doc_id, reason)
SELECT %(index)s, sha256(convert_to(u.doc_id, 'UTF8')), u.doc_id, %(reason)s FROM unnest(%(doc_ids)s::text[]) AS u(doc_id)
ON CONFLICT (index_name, digest) DO UPDATE SET at = clock_timestamp()

-- name: listed
SELECT doc_id FROM embed_pipeline.unwieldy_ids WHERE index_name = %(index)s ORDER BY digest

-- name: gone
SELECT w.doc_id FROM unnest(%(doc_ids)s::text[]) AS w(doc_id)
WHERE NOT EXISTS (SELECT FROM {documents} AS d WHERE {key_is_wanted})

-- name: forget
DELETE FROM embed_pipeline.unwieldy_ids WHERE index_name = %(index)s AND doc_id = ANY (%(doc_ids)s::text[])
