-- name: insert
INSERT INTO embed_pipeline.adapters
    (index_name, from_version, from_fingerprint, from_dimensions, to_version, to_fingerprint, to_dimensions, kind, weights, bias, pairs,
     pairs_sha256, measures, fitted_by)
VALUES (%(index)s, %(from_version)s, %(from_fingerprint)s, %(from_dimensions)s, %(to_version)s, %(to_fingerprint)s, %(to_dimensions)s,
        %(kind)s, %(weights)s, %(bias)s, %(pairs)s, %(pairs_sha256)s, %(measures)s, %(actor)s)
RETURNING id

-- name: read
SELECT id, from_version, from_fingerprint, from_dimensions, to_version, to_fingerprint, to_dimensions, kind, weights, bias, pairs,
       pairs_sha256, measures, fitted_at
FROM embed_pipeline.adapters WHERE index_name = %(index)s AND id = %(id)s

-- name: latest
SELECT id, from_version, from_fingerprint, from_dimensions, to_version, to_fingerprint, to_dimensions, kind, weights, bias, pairs,
       pairs_sha256, measures, fitted_at
FROM embed_pipeline.adapters
WHERE index_name = %(index)s AND from_version = %(from_version)s AND to_version = %(to_version)s
ORDER BY id DESC LIMIT 1
