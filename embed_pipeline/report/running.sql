-- name: backfills
-- A run holds each partition that it fills by an advisory lock of this name (`migrate/backfill.py`), whoever has started it. A partition that is
-- filled is compared again under the same lock.
SELECT p.version, count(*), coalesce(max(a.application_name), ''), coalesce(max(a.usename::text), ''), coalesce(host(max(a.client_addr)), '')
FROM embed_pipeline.partitions p
JOIN pg_catalog.pg_locks l ON l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
    AND (l.classid::bigint << 32 | l.objid::bigint)
        = hashtextextended('embed_pipeline.backfill.' || p.index_name || '.' || p.version || '.' || p.partition_key, 0)
    AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())
LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
WHERE p.index_name = %(index)s
GROUP BY p.version, a.application_name, a.usename, a.client_addr ORDER BY p.version, 2 DESC

-- name: claims
SELECT c.version, c.who, (SELECT count(*) FROM embed_pipeline.pending p
                          WHERE p.index_name = c.index_name AND p.version = c.version AND p.claim = c.claim)
FROM embed_pipeline.claims c WHERE c.index_name = %(index)s ORDER BY c.version, c.who
