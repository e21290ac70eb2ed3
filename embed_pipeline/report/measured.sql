-- name: versions
-- No table of vectors is looked at, and no documents are counted: what a scrape asks for every few seconds has to stay cheap.
SELECT v.version, v.state, v.fingerprint, v.model_name, v.dimensions, v.dropped_at IS NOT NULL, v.partitions,
       (SELECT count(*) FROM embed_pipeline.partitions p
        WHERE p.index_name = v.index_name AND p.version = v.version AND p.completed_at IS NOT NULL),
       (SELECT count(*) FROM embed_pipeline.dead_letters d WHERE d.index_name = v.index_name AND d.version = v.version),
       m.checked_at, m.changed_at, c.share, c.checked_at, r.can, r.cannot
FROM embed_pipeline.index_versions v
LEFT JOIN embed_pipeline.model_samples m USING (index_name, version)
LEFT JOIN LATERAL (
    -- What differed at the newest comparison with every document, a cutover's or a full one, of so many documents as were counted last.
    SELECT greatest(1 - f.differences::double precision / nullif(coalesce(
               (SELECT k.documents FROM embed_pipeline.coverage_checks k
                WHERE k.index_name = v.index_name AND k.version = v.version ORDER BY k.id DESC LIMIT 1),
               (SELECT sum(p.documents)::bigint FROM embed_pipeline.partitions p
                WHERE p.index_name = v.index_name AND p.version = v.version)), 0), 0) AS share, f.at AS checked_at
    FROM (
        (SELECT k.differences, k.checked_at AS at FROM embed_pipeline.coverage_checks k
         WHERE k.index_name = v.index_name AND k.version = v.version ORDER BY k.id DESC LIMIT 1)
        UNION ALL
        (SELECT (a.detail #>> ARRAY['queued', v.version])::bigint, a.at FROM embed_pipeline.audit_events a
         WHERE a.index_name = v.index_name AND a.event = 'reconcile' ORDER BY a.id DESC LIMIT 1)) f
    WHERE f.differences IS NOT NULL ORDER BY f.at DESC LIMIT 1) c ON true
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE v.fingerprint = ANY (s.can)) AS can,
           count(*) FILTER (WHERE s.cannot ->> v.fingerprint IS NOT NULL) AS cannot
    FROM embed_pipeline.searchers s
    WHERE s.index_name = v.index_name AND abs(extract(epoch FROM clock_timestamp() - s.seen_at)) < %(gone)s) r
WHERE v.index_name = %(index)s ORDER BY v.version
