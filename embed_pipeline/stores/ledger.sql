-- name: without_dead_letters
AND NOT EXISTS (SELECT FROM embed_pipeline.dead_letters AS l
                WHERE l.index_name = %(index)s AND l.version = %(version)s AND l.doc_id = {doc_id} AND l.source_hash = {source_hash})
