-- name: without_queued
AND NOT EXISTS (SELECT FROM embed_pipeline.change_queue AS q
                WHERE q.index_name = %(index)s AND q.version = %(version)s AND q.doc_id = {doc_id})

-- name: without_dead_letters
AND NOT EXISTS (SELECT FROM embed_pipeline.dead_letters AS l
                WHERE l.index_name = %(index)s AND l.version = %(version)s AND l.doc_id = {doc_id} AND l.source_hash = {source_hash})

-- name: by_key
-- A batch is looked up through the key's index. Left alone, the planner would rather hash the whole of a middle-sized table.
SELECT set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)
