-- name: versions
-- What the catalog itself knows of each version. No table of vectors and no documents are looked at.
SELECT v.version, greatest(extract(epoch FROM clock_timestamp() - v.state_since), 0)::double precision,
       ARRAY(SELECT p.partition_key FROM embed_pipeline.partitions p
             WHERE p.index_name = v.index_name AND p.version = v.version AND p.completed_at IS NOT NULL ORDER BY p.partition_key),
       (SELECT count(*) FROM embed_pipeline.dead_letters d WHERE d.index_name = v.index_name AND d.version = v.version)
FROM embed_pipeline.index_versions v WHERE v.index_name = %(index)s

-- name: last_move
SELECT p.changed_at, p.move, e.actor, e.reason
FROM embed_pipeline.serving_pointer p CROSS JOIN LATERAL (
    SELECT a.actor, a.reason FROM embed_pipeline.audit_events a
    WHERE a.index_name = p.index_name AND a.event IN ('cutover', 'rollback', 'route') ORDER BY a.id DESC LIMIT 1) AS e
WHERE p.index_name = %(index)s AND p.version IS NOT NULL

-- name: last_coverage
SELECT documents, dead_letters, differences, checked_at FROM embed_pipeline.coverage_checks
WHERE index_name = %(index)s AND version = %(version)s ORDER BY id DESC LIMIT 1
