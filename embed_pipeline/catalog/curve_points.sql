-- name: insert
-- Time is that since the version was registered: off-peak windows, pauses and throttles are part of what a migration takes.
INSERT INTO embed_pipeline.curve_points
    (index_name, version, fingerprint, baseline_version, baseline_fingerprint, occasion, documents, of_documents, partitions, of_partitions,
     usd, seconds, holdout_sha256, metric, queries, confidence, arms, forecast)
SELECT v.index_name, v.version, v.fingerprint, b.version, b.fingerprint, %(occasion)s, %(documents)s, %(of_documents)s, %(partitions)s,
       %(of_partitions)s, %(usd)s, greatest(extract(epoch FROM clock_timestamp() - v.created_at), 0)::double precision, %(holdout_sha256)s,
       %(metric)s, %(queries)s, %(confidence)s, %(arms)s, %(forecast)s
FROM embed_pipeline.index_versions v JOIN embed_pipeline.index_versions b USING (index_name)
WHERE v.index_name = %(index)s AND v.version = %(version)s AND b.version = %(baseline)s

-- name: listed
-- Of the two spaces as they are, and by one held-out set and metric: what else was measured does not belong into one picture.
SELECT p.occasion, p.documents, p.of_documents, p.partitions, p.of_partitions, p.usd, p.seconds, p.holdout_sha256, p.metric, p.queries,
       p.confidence, p.arms, p.forecast, p.measured_at
FROM embed_pipeline.curve_points p
JOIN embed_pipeline.index_versions v ON (v.index_name, v.version, v.fingerprint) = (p.index_name, p.version, p.fingerprint)
JOIN embed_pipeline.index_versions b
    ON (b.index_name, b.version, b.fingerprint) = (p.index_name, p.baseline_version, p.baseline_fingerprint)
WHERE p.index_name = %(index)s AND p.version = %(version)s AND p.baseline_version = %(baseline)s
ORDER BY p.id
