-- name: missing
-- Usually there are no dead letters, and then none is looked up.
SELECT {doc_id} AS doc_id, {text} AS text FROM {documents} AS d
WHERE {in_range} {without_stored}
  AND (NOT (SELECT EXISTS (SELECT FROM embed_pipeline.dead_letters AS l WHERE l.index_name = %(index)s AND l.version = %(version)s))
       OR NOT EXISTS (SELECT FROM embed_pipeline.dead_letters AS l
                      WHERE l.index_name = %(index)s AND l.version = %(version)s AND l.doc_id = {doc_id}
                        AND l.source_hash = {source_hash}))
ORDER BY {key_columns}
