-- name: forget_older
-- What the pointer was last moved by stays: somebody may want to see what it was.
DELETE FROM embed_pipeline.judged_queries j USING embed_pipeline.gate_evidence e
WHERE e.id = j.evidence_id AND e.index_name = %(index)s AND e.version = %(version)s AND e.route = %(route)s AND e.id < %(evidence_id)s
  AND NOT EXISTS (SELECT FROM embed_pipeline.serving_pointer p WHERE p.index_name = %(index)s AND p.evidence_id = e.id)

-- name: keep_query
INSERT INTO embed_pipeline.judged_queries
    (evidence_id, position, query_id, query, cluster, judgements, slices, baseline, candidate, baseline_hits, candidate_hits)
VALUES (%(evidence_id)s, %(position)s, %(query_id)s, %(query)s, %(cluster)s, %(judgements)s, %(slices)s, %(baseline)s,
        %(candidate)s, %(baseline_hits)s, %(candidate_hits)s)

-- name: queries_of
SELECT query_id, query, cluster, judgements, candidate, candidate_hits, baseline, baseline_hits, slices
FROM embed_pipeline.judged_queries WHERE evidence_id = %(evidence_id)s ORDER BY position
