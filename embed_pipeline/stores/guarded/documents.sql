-- name: now
-- The documents as they are at this moment, with what their points must say.
SELECT w.doc_id, {source_hash}, {payload}, encode(sha256(convert_to({payload}::text, 'UTF8')), 'hex')
FROM unnest(%(doc_ids)s::text[]) AS w(doc_id) JOIN {documents} AS d ON {key_is_wanted}

-- name: gone
SELECT w.doc_id FROM unnest(%(doc_ids)s::text[]) AS w(doc_id) WHERE NOT EXISTS (SELECT FROM {documents} AS d WHERE {key_is_wanted})
