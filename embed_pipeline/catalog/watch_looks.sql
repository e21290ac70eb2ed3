-- name: take_look
-- The key is what makes a look one watcher's, and all looks together no more than their number.
INSERT INTO embed_pipeline.watch_looks AS l (index_name, generation, look, version)
SELECT p.index_name, p.generation, floor(extract(epoch FROM clock_timestamp() - p.changed_at) / %(every)s::double precision), p.version
FROM embed_pipeline.serving_pointer p
WHERE p.index_name = %(index)s AND p.move = 'cutover' AND p.version IS NOT NULL
  AND extract(epoch FROM clock_timestamp() - p.changed_at) >= 0
  AND extract(epoch FROM clock_timestamp() - p.changed_at) < %(for)s::double precision
ON CONFLICT DO NOTHING
RETURNING l.generation, l.look, l.version,
    (SELECT p.previous_version FROM embed_pipeline.serving_pointer p WHERE p.index_name = l.index_name AND p.generation = l.generation),
    (SELECT p.evidence_id FROM embed_pipeline.serving_pointer p WHERE p.index_name = l.index_name AND p.generation = l.generation)

-- name: end_look
UPDATE embed_pipeline.watch_looks l
SET outcome = CASE WHEN l.generation = p.generation THEN %(outcome)s ELSE 'overtaken' END, sentence = %(sentence)s, measures = %(measures)s
FROM embed_pipeline.serving_pointer p
WHERE l.index_name = %(index)s AND l.generation = %(generation)s AND l.look = %(look)s AND p.index_name = l.index_name
RETURNING l.outcome

-- name: last_look
SELECT l.generation, l.look, l.at, l.version, l.outcome, l.sentence, l.measures
FROM embed_pipeline.watch_looks l JOIN embed_pipeline.serving_pointer p USING (index_name, generation)
WHERE l.index_name = %(index)s AND l.outcome IS NOT NULL ORDER BY l.look DESC LIMIT 1

-- name: is_watched
SELECT 1 FROM embed_pipeline.serving_pointer p
WHERE p.index_name = %(index)s AND p.move = 'cutover' AND p.version IS NOT NULL
  AND extract(epoch FROM clock_timestamp() - p.changed_at) < %(for)s::double precision

-- name: is_due
-- What `take_look` would take.
SELECT 1 FROM embed_pipeline.serving_pointer p
WHERE p.index_name = %(index)s AND p.move = 'cutover' AND p.version IS NOT NULL
  AND extract(epoch FROM clock_timestamp() - p.changed_at) >= 0
  AND extract(epoch FROM clock_timestamp() - p.changed_at) < %(for)s::double precision
  AND NOT EXISTS (SELECT FROM embed_pipeline.watch_looks l WHERE l.index_name = p.index_name AND l.generation = p.generation
                  AND l.look = floor(extract(epoch FROM clock_timestamp() - p.changed_at) / %(every)s::double precision))
