-- name: claim
-- Whole documents, oldest first: all of a document's rows, or none while a single one is leased or locked by another worker. Two
-- workers on one document could settle the text that came back by the vector that the other one is about to replace.
WITH due AS MATERIALIZED (
    SELECT q.doc_id FROM embed_pipeline.change_queue q
    WHERE q.index_name = %(index)s AND q.version = %(version)s AND (q.leased_until IS NULL OR q.leased_until < clock_timestamp())
      AND NOT EXISTS (SELECT FROM embed_pipeline.change_queue held
                      WHERE held.index_name = %(index)s AND held.version = %(version)s AND held.doc_id = q.doc_id
                        AND held.leased_until >= clock_timestamp())
    ORDER BY q.seq LIMIT %(limit)s
), locked AS MATERIALIZED (
    SELECT q.seq, q.doc_id FROM embed_pipeline.change_queue q
    WHERE q.index_name = %(index)s AND q.version = %(version)s AND q.doc_id IN (SELECT due.doc_id FROM due)
      AND (q.leased_until IS NULL OR q.leased_until < clock_timestamp())
    ORDER BY q.seq
    FOR UPDATE SKIP LOCKED
), whole AS (
    SELECT l.doc_id FROM locked l GROUP BY l.doc_id
    HAVING count(*) = (SELECT count(*) FROM embed_pipeline.change_queue q
                       WHERE q.index_name = %(index)s AND q.version = %(version)s AND q.doc_id = l.doc_id)
)
UPDATE embed_pipeline.change_queue q
SET lease_id = %(lease)s, leased_until = clock_timestamp() + make_interval(secs => %(seconds)s), attempts = q.attempts + 1
FROM locked JOIN whole USING (doc_id) WHERE q.seq = locked.seq
RETURNING q.seq, q.doc_id

-- name: renew
UPDATE embed_pipeline.change_queue
SET leased_until = clock_timestamp() + make_interval(secs => %(seconds)s)
WHERE seq IN (SELECT seq FROM embed_pipeline.change_queue
              WHERE seq = ANY (%(seqs)s) AND lease_id = %(lease)s ORDER BY seq FOR UPDATE SKIP LOCKED)

-- name: still_mine
-- A worker whose lease ran out and was taken over finds nothing here, and so writes nothing.
SELECT seq, doc_id FROM embed_pipeline.change_queue
WHERE seq = ANY (%(seqs)s) AND lease_id = %(lease)s
ORDER BY seq FOR UPDATE SKIP LOCKED

-- name: acknowledge
DELETE FROM embed_pipeline.change_queue
WHERE seq IN (SELECT seq FROM embed_pipeline.change_queue
              WHERE seq = ANY (%(seqs)s) AND lease_id = %(lease)s ORDER BY seq FOR UPDATE SKIP LOCKED)

-- name: release
UPDATE embed_pipeline.change_queue
SET lease_id = NULL, leased_until = clock_timestamp() + make_interval(secs => %(delay)s), last_error = %(error)s
WHERE seq IN (SELECT seq FROM embed_pipeline.change_queue
              WHERE seq = ANY (%(seqs)s) AND lease_id = %(lease)s ORDER BY seq FOR UPDATE SKIP LOCKED)

-- name: pending
SELECT count(*) FROM embed_pipeline.change_queue
WHERE index_name = %(index)s AND version = %(version)s AND seq <= %(mark)s

-- name: pending_by_version
SELECT version, count(*), coalesce(extract(epoch FROM clock_timestamp() - min(enqueued_at)), 0)::double precision
FROM embed_pipeline.change_queue WHERE index_name = %(index)s GROUP BY version

-- name: any_claimable
SELECT EXISTS (SELECT FROM embed_pipeline.change_queue
               WHERE index_name = %(index)s AND (leased_until IS NULL OR leased_until < clock_timestamp()))

-- name: take_mark
SELECT nextval(pg_get_serial_sequence('embed_pipeline.change_queue', 'seq')), pg_current_xact_id()::text

-- name: mark_is_settled
SELECT pg_snapshot_xmin(pg_current_snapshot()) > %(xid)s::xid8

-- name: blockers
-- Who holds back the oldest snapshot: transactions that may still commit a change numbered below the mark.
SELECT pid, coalesce(application_name, ''), extract(epoch FROM clock_timestamp() - xact_start)::double precision
FROM pg_catalog.pg_stat_activity
WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid() AND datname = current_database()
ORDER BY xact_start LIMIT 3

-- name: enqueue
INSERT INTO embed_pipeline.change_queue (index_name, version, doc_id)
SELECT %(index)s, %(version)s, wanted.doc_id FROM unnest(%(doc_ids)s::text[]) AS wanted(doc_id)

-- name: forget_version
DELETE FROM embed_pipeline.change_queue WHERE index_name = %(index)s AND version = %(version)s
