-- name: first_documents
SELECT {doc_id} FROM {documents} AS d WHERE {in_range} ORDER BY {key_columns} LIMIT %(limit)s

-- name: unexplained
-- Documents of which nothing is announced and nothing waits, and that were not set aside.
WITH announced AS MATERIALIZED (
    SELECT u.doc_id COLLATE "C" AS doc_id FROM embed_pipeline.inbox i CROSS JOIN unnest(i.doc_ids) AS u(doc_id)
    WHERE i.index_name = %(index)s
)
SELECT w.doc_id FROM unnest(%(doc_ids)s::text[]) AS w(doc_id) JOIN {documents} AS d ON {key_is_wanted}
WHERE w.doc_id COLLATE "C" NOT IN (SELECT a.doc_id FROM announced a)
  AND NOT EXISTS (SELECT FROM embed_pipeline.inbox i WHERE i.index_name = %(index)s AND i.doc_ids IS NULL)
  AND NOT EXISTS (SELECT FROM embed_pipeline.pending p
                  WHERE p.index_name || '' = %(index)s AND p.version || '' = %(version)s AND p.doc_id = w.doc_id)
  AND NOT EXISTS (SELECT FROM embed_pipeline.dead_letters l
                  WHERE l.index_name = %(index)s AND l.version = %(version)s AND l.doc_id = w.doc_id)

-- name: reopen
-- Under a new epoch: whoever was filling what is gone comes too late with what it has in its hands.
UPDATE embed_pipeline.partitions SET epoch = epoch + 1, closed = true, completed_at = NULL, documents = NULL
WHERE index_name = %(index)s AND version = %(version)s

-- name: forget_comparison
DELETE FROM embed_pipeline.comparisons WHERE index_name = %(index)s AND version = %(version)s
