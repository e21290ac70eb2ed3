-- name: find_index
SELECT documents_table, key_columns, text_columns, store, payload_columns, payload_object, payload_indexes
FROM embed_pipeline.indexes WHERE index_name = %(index)s

-- name: insert_index
INSERT INTO embed_pipeline.indexes
    (index_name, documents_table, key_columns, text_columns, store, payload_columns, payload_object, payload_indexes)
VALUES (%(index)s, %(documents_table)s, %(key_columns)s, %(text_columns)s, %(store)s, %(payload_columns)s, %(payload_object)s,
        %(payload_indexes)s)
ON CONFLICT DO NOTHING

-- name: update_index
UPDATE embed_pipeline.indexes
SET store = %(store)s, payload_columns = %(payload_columns)s, payload_object = %(payload_object)s,
    payload_indexes = %(payload_indexes)s
WHERE index_name = %(index)s

-- name: rename_index
UPDATE embed_pipeline.indexes
SET documents_table = %(documents_table)s, key_columns = %(key_columns)s, text_columns = %(text_columns)s
WHERE index_name = %(index)s

-- name: keep_judges_by
-- What this declaration does not say, a set that is not on its machine, stays as another one has said it.
UPDATE embed_pipeline.indexes SET judges_by = judges_by || %(judges_by)s
WHERE index_name = %(index)s AND judges_by IS DISTINCT FROM judges_by || %(judges_by)s

-- name: insert_pointer
INSERT INTO embed_pipeline.serving_pointer (index_name) VALUES (%(index)s) ON CONFLICT DO NOTHING

-- name: insert_control
INSERT INTO embed_pipeline.control (index_name) VALUES (%(index)s) ON CONFLICT DO NOTHING

-- name: list_indexes
SELECT index_name, store ->> 'kind' FROM embed_pipeline.indexes ORDER BY index_name

-- name: list_versions
SELECT index_name, version, state, state_since, fingerprint, model_name, model_version, dimensions, precision, distance, partitions,
       spec, settings, dropped_at
FROM embed_pipeline.index_versions
WHERE index_name = %(index)s AND (%(version)s::text IS NULL OR version = %(version)s)
ORDER BY created_at, version

-- name: insert_version
INSERT INTO embed_pipeline.index_versions
    (index_name, version, fingerprint, model_name, model_version, dimensions, precision, distance, partitions, spec,
     settings)
VALUES (%(index)s, %(version)s, %(fingerprint)s, %(model_name)s, %(model_version)s, %(dimensions)s, %(precision)s, %(distance)s,
        %(partitions)s, %(spec)s, %(settings)s)

-- name: set_settings
UPDATE embed_pipeline.index_versions SET settings = %(settings)s
WHERE index_name = %(index)s AND version = %(version)s AND settings <> %(settings)s

-- name: lock_version
SELECT state FROM embed_pipeline.index_versions WHERE index_name = %(index)s AND version = %(version)s FOR NO KEY UPDATE

-- name: lock_version_and_key
SELECT state FROM embed_pipeline.index_versions WHERE index_name = %(index)s AND version = %(version)s FOR UPDATE

-- name: set_state
UPDATE embed_pipeline.index_versions SET state = %(state)s WHERE index_name = %(index)s AND version = %(version)s

-- name: say_why
-- For the audit row that the next change of a state writes by itself.
SELECT set_config('embed_pipeline.why', %(why)s::text, true)

-- name: say_that_texts_were_read
-- The move's own look at the judged texts, which the database cannot repeat: of what waits it would not know what has changed.
SELECT set_config('embed_pipeline.texts_read_for', %(evidence_id)s::text, true)

-- name: set_dropped
UPDATE embed_pipeline.index_versions SET dropped_at = clock_timestamp()
WHERE index_name = %(index)s AND version = %(version)s AND dropped_at IS NULL

-- name: insert_event
INSERT INTO embed_pipeline.audit_events (index_name, version, event, from_state, to_state, actor, reason, evidence_id, detail)
VALUES (%(index)s, %(version)s, %(event)s, %(from_state)s, %(to_state)s, %(actor)s, %(reason)s, %(evidence_id)s, %(detail)s)

-- name: pointer
SELECT version, refine_version, refine_depth, query_version, adapter_id, previous_version, previous_refine_version, previous_refine_depth,
       previous_query_version, previous_adapter_id, generation
FROM embed_pipeline.serving_pointer WHERE index_name = %(index)s

-- name: last_move
SELECT move FROM embed_pipeline.serving_pointer WHERE index_name = %(index)s

-- name: lock_pointer
SELECT version, refine_version, refine_depth, query_version, adapter_id, previous_version, previous_refine_version, previous_refine_depth,
       previous_query_version, previous_adapter_id, generation
FROM embed_pipeline.serving_pointer WHERE index_name = %(index)s FOR UPDATE

-- name: begin_flip
SELECT set_config('lock_timeout', %(milliseconds)s, true), set_config('embed_pipeline.actor', %(actor)s, true)

-- name: move_pointer
-- Where the version stays, so does what it was taken into service with.
UPDATE embed_pipeline.serving_pointer
SET version = %(version)s, refine_version = %(refine)s, refine_depth = %(depth)s, query_version = %(queries)s, adapter_id = %(adapter)s,
    previous_version = version, previous_refine_version = refine_version, previous_refine_depth = refine_depth,
    previous_query_version = query_version, previous_adapter_id = adapter_id, generation = generation + 1, move = %(move)s,
    evidence_id = %(evidence_id)s, coverage_id = coalesce(%(coverage_id)s, coverage_id), mark = coalesce(%(mark)s, mark),
    stale_accepted = coalesce(%(stale)s, stale_accepted), changed_at = clock_timestamp()
WHERE index_name = %(index)s AND generation = %(generation)s

-- name: forget_previous
UPDATE embed_pipeline.serving_pointer SET previous_version = NULL, previous_refine_version = NULL, previous_refine_depth = NULL,
    previous_query_version = NULL, previous_adapter_id = NULL
WHERE index_name = %(index)s AND %(version)s IN (previous_version, previous_refine_version, previous_query_version)

-- name: rolled_back
-- How the version was last left on that kind of route, if it was by a rollback, and whether it was judged for it since. By the order of the
-- audit, not by times: a clock may be set back.
SELECT r.at, r.actor, r.reason, EXISTS (
    SELECT FROM embed_pipeline.audit_events g JOIN embed_pipeline.gate_evidence e ON e.id = g.evidence_id
    WHERE g.index_name = %(index)s AND g.version = %(version)s AND g.id > r.id AND g.event LIKE 'gate %%' AND e.route = %(route)s)
FROM (
    SELECT id, at, actor, reason, event = 'rollback' AS back FROM embed_pipeline.audit_events
    WHERE %(route)s = 'direct' AND index_name = %(index)s AND version = %(version)s AND from_state = 'active'
    UNION ALL
    SELECT id, at, actor, reason, detail ->> 'move' = 'rollback' FROM embed_pipeline.audit_events
    WHERE index_name = %(index)s AND event = 'route'
      AND detail #>> ARRAY['before', CASE %(route)s WHEN 'refine' THEN 'refine' WHEN 'bridge' THEN 'queries' END] = %(version)s
    ORDER BY id DESC LIMIT 1) r
WHERE r.back

-- name: notify_serving
SELECT pg_notify('embed_pipeline_serving', %(index)s)

-- name: insert_evidence
INSERT INTO embed_pipeline.gate_evidence
    (index_name, version, fingerprint, baseline_version, baseline_fingerprint, outcome, sentence, holdout_sha256, documents, vectors,
     ann_index, ef_search, judged, measures, kind, route, refine_depth, adapter_id, valid_until)
VALUES (%(index)s, %(version)s, %(fingerprint)s, %(baseline_version)s, %(baseline_fingerprint)s, %(outcome)s, %(sentence)s,
        %(holdout_sha256)s, %(documents)s, %(vectors)s, %(ann_index)s, %(ef_search)s, %(judged)s, %(measures)s, %(kind)s, %(route)s, %(depth)s,
        %(adapter)s, clock_timestamp() + make_interval(secs => %(max_age_seconds)s))
RETURNING id

-- name: latest_evidence
SELECT id, version, fingerprint, baseline_version, outcome, sentence, holdout_sha256, documents, vectors, ann_index::bigint, ef_search, judged,
       measures, created_at, valid_until, valid_until < clock_timestamp() AS expired, route, refine_depth, adapter_id
FROM embed_pipeline.gate_evidence WHERE index_name = %(index)s AND version = %(version)s AND route = %(route)s ORDER BY id DESC LIMIT 1

-- name: ever_passed
SELECT EXISTS (SELECT FROM embed_pipeline.gate_evidence
               WHERE index_name = %(index)s AND version = %(version)s AND route = 'direct' AND outcome = 'pass')

-- name: keep_judged_documents
INSERT INTO embed_pipeline.judged_documents (evidence_id, doc_id, source_hash, judged, sampled)
SELECT %(evidence_id)s, w.* FROM unnest(%(doc_ids)s::text[], %(hashes)s::bytea[], %(judged)s::boolean[], %(sampled)s::boolean[])
    AS w(doc_id, source_hash, judged, sampled)

-- name: forget_judged_documents
-- Of evidence that newer one about the same version and kind of route stands before.
DELETE FROM embed_pipeline.judged_documents j USING embed_pipeline.gate_evidence e
WHERE e.id = j.evidence_id AND e.index_name = %(index)s AND e.version = %(version)s AND e.route = %(route)s AND e.id < %(evidence_id)s

-- name: judged_documents
SELECT doc_id, source_hash, judged, sampled FROM embed_pipeline.judged_documents WHERE evidence_id = %(evidence_id)s ORDER BY doc_id

-- name: insert_coverage
INSERT INTO embed_pipeline.coverage_checks (index_name, version, documents, vectors, pending, dead_letters, differences)
VALUES (%(index)s, %(version)s, %(documents)s, %(vectors)s, %(pending)s, %(dead_letters)s, %(differences)s) RETURNING id

-- name: control
SELECT state, reason, changed_by FROM embed_pipeline.control WHERE index_name = %(index)s

-- name: set_control
SELECT embed_pipeline.set_control(%(index)s, %(state)s, %(reason)s, %(actor)s)

-- name: commit_cheaply
SET LOCAL synchronous_commit = off

-- name: note_throttle
INSERT INTO embed_pipeline.throttle_states AS t (index_name, version, answer, signal, reason)
VALUES (%(index)s, %(version)s, %(answer)s, %(signal)s, %(reason)s)
ON CONFLICT (index_name, version) DO UPDATE
SET answer = excluded.answer, signal = excluded.signal, reason = excluded.reason, seen_at = excluded.seen_at,
    since = CASE WHEN (t.answer, t.signal) = (excluded.answer, excluded.signal) THEN t.since ELSE excluded.since END

-- name: throttle_states
SELECT version, answer, signal, reason, extract(epoch FROM clock_timestamp() - since)::double precision,
       extract(epoch FROM clock_timestamp() - seen_at)::double precision
FROM embed_pipeline.throttle_states JOIN embed_pipeline.index_versions v USING (index_name, version)
WHERE index_name = %(index)s AND v.state <> 'retired' ORDER BY version

-- name: last_read
SELECT max(read_at), extract(epoch FROM clock_timestamp() - max(read_at))::double precision
FROM embed_pipeline.version_reads WHERE index_name = %(index)s AND version = %(version)s

-- name: reads_of_the_future
-- Noted before the clock was set back, nobody knows how long ago: they count from now on.
UPDATE embed_pipeline.version_reads SET read_at = clock_timestamp()
WHERE index_name = %(index)s AND version = %(version)s AND read_at > clock_timestamp()

-- name: state_of_the_future
UPDATE embed_pipeline.index_versions SET state_since = clock_timestamp()
WHERE index_name = %(index)s AND version = %(version)s AND state_since > clock_timestamp()

-- name: seconds_in_state
SELECT greatest(extract(epoch FROM clock_timestamp() - state_since), 0)::double precision
FROM embed_pipeline.index_versions WHERE index_name = %(index)s AND version = %(version)s

-- name: standbys
-- Whoever streams the server's WAL without decoding it. Without pg_monitor their names are hidden, and their number is not.
SELECT count(*), string_agg(r.application_name, ', ' ORDER BY r.application_name)
FROM pg_catalog.pg_stat_replication r
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots s WHERE s.active_pid = r.pid AND s.slot_type = 'logical')

-- name: forget_reads
DELETE FROM embed_pipeline.version_reads WHERE index_name = %(index)s AND version = %(version)s

-- name: note_read
SELECT embed_pipeline.note_read(%(index)s, %(version)s)

-- name: dead_letters
-- With the ids that are set aside for every version: of those no text was refused.
SELECT doc_id, reason, source_hash, created_at FROM embed_pipeline.dead_letters
WHERE index_name = %(index)s AND version = %(version)s
UNION ALL
SELECT u.doc_id, u.reason, ''::bytea, u.at FROM embed_pipeline.unwieldy_ids u WHERE u.index_name = %(index)s
ORDER BY doc_id LIMIT %(limit)s

-- name: count_dead_letters
SELECT (SELECT count(*) FROM embed_pipeline.dead_letters WHERE index_name = %(index)s AND version = %(version)s)
     + (SELECT count(*) FROM embed_pipeline.unwieldy_ids WHERE index_name = %(index)s)

-- name: upsert_dead_letter
INSERT INTO embed_pipeline.dead_letters (index_name, version, doc_id, source_hash, reason)
SELECT %(index)s, %(version)s, letter.doc_id, letter.source_hash, letter.reason
FROM unnest(%(doc_ids)s::text[], %(hashes)s::bytea[], %(reasons)s::text[]) AS letter(doc_id, source_hash, reason)
ORDER BY letter.doc_id
ON CONFLICT (index_name, version, doc_id)
DO UPDATE SET source_hash = excluded.source_hash, reason = excluded.reason, created_at = clock_timestamp()

-- name: forget_dead_letters
DELETE FROM embed_pipeline.dead_letters
WHERE index_name = %(index)s AND version = %(version)s AND (%(doc_ids)s::text[] IS NULL OR doc_id = ANY (%(doc_ids)s::text[]))

-- name: requeue_dead_letters
WITH taken AS MATERIALIZED (
    DELETE FROM embed_pipeline.dead_letters l WHERE l.index_name = %(index)s AND l.version = %(version)s RETURNING l.doc_id
)
INSERT INTO embed_pipeline.pending AS p (index_name, version, doc_id, seq, since_seq, since, removed)
SELECT %(index)s, %(version)s, n.doc_id, n.seq, n.seq, clock_timestamp(), false
FROM (SELECT t.doc_id, nextval('embed_pipeline.change_seq') AS seq FROM taken t) AS n ORDER BY n.doc_id
ON CONFLICT (index_name, version, doc_id) DO UPDATE SET seq = excluded.seq

-- name: table_is_there
SELECT to_regclass(%(table)s) IS NOT NULL

-- name: passed_versions
-- What the pointer's own check asks of the evidence for a cutover (`check_pointer_move`). A version that has served is not ready any more: who was
-- rolled back from is no canary.
SELECT v.version, v.fingerprint
FROM embed_pipeline.index_versions v
JOIN embed_pipeline.index_versions serves ON serves.index_name = v.index_name AND serves.state = 'active'
CROSS JOIN LATERAL (
    SELECT e.* FROM embed_pipeline.gate_evidence e
    WHERE e.index_name = v.index_name AND e.version = v.version AND e.route = 'direct' ORDER BY e.id DESC LIMIT 1) evidence
WHERE v.index_name = %(index)s AND v.state = 'ready' AND (%(version)s::text IS NULL OR v.version = %(version)s)
  AND evidence.outcome = 'pass' AND evidence.valid_until > clock_timestamp() AND evidence.fingerprint = v.fingerprint
  AND evidence.baseline_version = serves.version AND evidence.baseline_fingerprint = serves.fingerprint
ORDER BY v.version
