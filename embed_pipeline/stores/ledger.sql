-- name: without_queued
AND NOT EXISTS (SELECT FROM embed_pipeline.change_queue AS q
                WHERE q.index_name = %(index)s AND q.version = %(version)s AND q.doc_id = {doc_id})

-- name: without_dead_letters
AND NOT EXISTS (SELECT FROM embed_pipeline.dead_letters AS l
                WHERE l.index_name = %(index)s AND l.version = %(version)s AND l.doc_id = {doc_id} AND l.source_hash = {source_hash})
