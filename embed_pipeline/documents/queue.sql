-- name: claim
-- What has waited longest, skipping what others hold. `seq` is what the acknowledgement compares.
WITH due AS MATERIALIZED (
    SELECT p.doc_id FROM embed_pipeline.pending p
    WHERE p.index_name = %(index)s AND p.version = %(version)s AND p.claim IS NULL AND p.since_seq <= %(mark)s
      AND (p.removed OR NOT %(only_removed)s)
    ORDER BY p.since_seq LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), begun AS (
    INSERT INTO embed_pipeline.claims (claim, index_name, version, who)
    SELECT %(claim)s, %(index)s, %(version)s, %(who)s WHERE EXISTS (SELECT FROM due)
)
UPDATE embed_pipeline.pending p SET claim = %(claim)s, attempts = p.attempts + 1
WHERE p.index_name || '' = %(index)s AND p.version || '' = %(version)s AND p.doc_id = ANY (ARRAY(SELECT doc_id FROM due))
RETURNING p.doc_id, p.seq

-- name: commit_now
-- A number that a crash could draw again would let an old batch acknowledge a new change.
SELECT set_config('synchronous_commit', 'on', true)

-- name: beat
UPDATE embed_pipeline.claims SET beat = beat + 1 WHERE claim = %(claim)s

-- name: claims
SELECT claim, beat, who FROM embed_pipeline.claims WHERE index_name = %(index)s AND version = %(version)s

-- name: free
-- A claim whose worker has stopped counting. From here on it finds nothing of its own, and writes nothing.
-- Whoever locks several documents does so in their order, here too: two that wait for each other are one failure.
WITH ended AS (
    DELETE FROM embed_pipeline.claims WHERE claim = %(claim)s AND beat = %(beat)s RETURNING claim
), held AS MATERIALIZED (
    SELECT p.doc_id FROM embed_pipeline.pending p JOIN ended USING (claim)
    WHERE p.index_name = %(index)s AND p.version = %(version)s ORDER BY p.doc_id FOR UPDATE OF p
)
UPDATE embed_pipeline.pending p SET claim = NULL
WHERE p.index_name || '' = %(index)s AND p.version || '' = %(version)s AND p.doc_id = ANY (ARRAY(SELECT doc_id FROM held))

-- name: lock_claimed
-- A worker whose claim was taken over finds nothing here, and so writes nothing.
SELECT doc_id FROM embed_pipeline.pending
WHERE index_name || '' = %(index)s AND version || '' = %(version)s AND doc_id = ANY (%(doc_ids)s::text[]) AND claim = %(claim)s
ORDER BY doc_id FOR UPDATE

-- name: still_claimed
SELECT doc_id FROM embed_pipeline.pending
WHERE index_name || '' = %(index)s AND version || '' = %(version)s AND doc_id = ANY (%(doc_ids)s::text[]) AND claim = %(claim)s

-- name: acknowledge
-- Only what has not changed since the claim. What has is still to do, from the change after the claimed one on; a removal that was
-- announced stays announced. No number is drawn twice, so each is its document's. Arrays, not joins: of those the planner makes a loop in a loop.
WITH done AS (
    DELETE FROM embed_pipeline.pending p
    WHERE p.index_name || '' = %(index)s AND p.version || '' = %(version)s AND p.doc_id = ANY (%(doc_ids)s::text[]) AND p.claim = %(claim)s
      AND p.seq = ANY (%(seqs)s::bigint[])
    RETURNING p.doc_id
), overtaken AS (
    UPDATE embed_pipeline.pending p
    SET claim = NULL, attempts = 0, last_error = NULL,
        since_seq = 1 + (SELECT m.seq FROM unnest(%(doc_ids)s::text[], %(seqs)s::bigint[]) AS m(doc_id, seq) WHERE m.doc_id = p.doc_id),
        since = greatest(p.since, clock_timestamp() - make_interval(secs => %(seconds)s))
    WHERE p.index_name || '' = %(index)s AND p.version || '' = %(version)s AND p.doc_id = ANY (%(doc_ids)s::text[]) AND p.claim = %(claim)s
      AND p.seq <> ALL (%(seqs)s::bigint[])
)
SELECT doc_id FROM done

-- name: release
-- Waits for whoever has a row locked: what is skipped here nobody would give back.
WITH mine AS MATERIALIZED (
    SELECT doc_id FROM embed_pipeline.pending
    WHERE index_name || '' = %(index)s AND version || '' = %(version)s AND doc_id = ANY (%(doc_ids)s::text[]) AND claim = %(claim)s
    ORDER BY doc_id FOR UPDATE
)
UPDATE embed_pipeline.pending p SET claim = NULL, last_error = %(error)s
WHERE p.index_name || '' = %(index)s AND p.version || '' = %(version)s AND p.doc_id = ANY (ARRAY(SELECT doc_id FROM mine))

-- name: end_claim
DELETE FROM embed_pipeline.claims WHERE claim = %(claim)s

-- name: pending
SELECT count(*) FROM embed_pipeline.pending WHERE index_name = %(index)s AND version = %(version)s AND since_seq <= %(mark)s

-- name: ids_up_to
SELECT doc_id FROM embed_pipeline.pending
WHERE index_name = %(index)s AND version = %(version)s AND since_seq <= %(mark)s ORDER BY since_seq

-- name: held_up
-- What a drain that came to nothing waited for.
SELECT p.doc_id, p.attempts, coalesce(p.last_error, ''), coalesce(c.who, '')
FROM embed_pipeline.pending p LEFT JOIN embed_pipeline.claims c USING (claim)
WHERE p.index_name = %(index)s AND p.version = %(version)s AND p.since_seq <= %(mark)s
ORDER BY p.since_seq LIMIT %(limit)s

-- name: pending_by_version
SELECT version, count(*), greatest(extract(epoch FROM clock_timestamp() - min(since)), 0)::double precision
FROM embed_pipeline.pending WHERE index_name = %(index)s GROUP BY version

-- name: has_work
SELECT EXISTS (SELECT FROM embed_pipeline.inbox WHERE index_name = %(index)s)
    OR EXISTS (SELECT FROM embed_pipeline.pending WHERE index_name = %(index)s)

-- name: next_seq
SELECT nextval('embed_pipeline.change_seq')

-- name: enqueue
WITH live AS MATERIALIZED (
    SELECT v.version FROM embed_pipeline.index_versions v
    WHERE v.index_name = %(index)s AND v.version = %(version)s AND v.state <> 'retired' FOR KEY SHARE
)
INSERT INTO embed_pipeline.pending AS p (index_name, version, doc_id, seq, since_seq, since, removed)
SELECT %(index)s, n.version, n.doc_id, n.seq, n.seq, clock_timestamp(), n.removed
FROM (SELECT l.version, u.doc_id COLLATE "C" AS doc_id, u.removed, nextval('embed_pipeline.change_seq') AS seq
      FROM unnest(%(doc_ids)s::text[], %(removed)s::boolean[]) AS u(doc_id, removed) CROSS JOIN live l) AS n
ORDER BY n.doc_id
ON CONFLICT (index_name, version, doc_id) DO UPDATE SET seq = excluded.seq, removed = p.removed OR excluded.removed

-- name: forget_version
WITH ended AS (
    DELETE FROM embed_pipeline.claims WHERE index_name = %(index)s AND version = %(version)s
), held AS MATERIALIZED (
    SELECT doc_id FROM embed_pipeline.pending WHERE index_name = %(index)s AND version = %(version)s ORDER BY doc_id FOR UPDATE
)
DELETE FROM embed_pipeline.pending p
WHERE p.index_name || '' = %(index)s AND p.version || '' = %(version)s AND p.doc_id = ANY (ARRAY(SELECT doc_id FROM held))
