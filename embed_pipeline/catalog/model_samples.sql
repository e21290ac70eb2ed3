-- name: sample
SELECT texts, vectors, late, taken_at, agreed_at, checked_at, lowest_cosine, changed_at
FROM embed_pipeline.model_samples WHERE index_name = %(index)s AND version = %(version)s

-- name: mark
-- Read before every batch, so without what is large.
SELECT changed_at FROM embed_pipeline.model_samples WHERE index_name = %(index)s AND version = %(version)s

-- name: keep_sample
INSERT INTO embed_pipeline.model_samples (index_name, version, texts, vectors, late)
VALUES (%(index)s, %(version)s, %(texts)s, %(vectors)s, %(late)s)
ON CONFLICT DO NOTHING

-- name: replace_sample
UPDATE embed_pipeline.model_samples
SET texts = %(texts)s, vectors = %(vectors)s, late = true, taken_at = clock_timestamp(), agreed_at = clock_timestamp(),
    checked_at = clock_timestamp(), lowest_cosine = NULL, changed_at = NULL
WHERE index_name = %(index)s AND version = %(version)s

-- name: note_check
-- Only about the sample that was compared: a person may have accepted another one meanwhile.
UPDATE embed_pipeline.model_samples s
SET checked_at = clock_timestamp(), lowest_cosine = %(lowest)s,
    agreed_at = CASE WHEN %(same)s THEN clock_timestamp() ELSE s.agreed_at END,
    changed_at = CASE WHEN %(same)s THEN NULL ELSE coalesce(s.changed_at, clock_timestamp()) END
FROM (SELECT changed_at IS NOT NULL AS changed FROM embed_pipeline.model_samples
      WHERE index_name = %(index)s AND version = %(version)s AND taken_at = %(taken_at)s FOR UPDATE) before
WHERE s.index_name = %(index)s AND s.version = %(version)s
RETURNING before.changed
