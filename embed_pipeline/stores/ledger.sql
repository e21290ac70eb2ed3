-- name: missing
-- In columns, not row by row: a text costs its client half as much.
SELECT coalesce(array_agg(m.doc_id), ARRAY[]::text[]), coalesce(array_agg(m.text), ARRAY[]::text[])
FROM (SELECT {doc_id} AS doc_id, {text} AS text FROM {documents} AS d
      WHERE {in_range} {without_stored} {without_dead_letters} ORDER BY {key_columns}) AS m

-- name: without_dead_letters
AND NOT EXISTS (SELECT FROM embed_pipeline.dead_letters AS l
                WHERE l.index_name = %(index)s AND l.version = %(version)s AND l.doc_id = {doc_id} AND l.source_hash = {source_hash})
