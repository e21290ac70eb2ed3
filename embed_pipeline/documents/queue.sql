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
SELECT nextval(pg_get_serial_sequence('embed_pipeline.change_queue', 'seq'))

-- name: writers
-- Whoever has changed a document holds such a lock on its table until the end of the transaction, also one that is prepared.
SELECT l.virtualtransaction, l.pid, coalesce(a.application_name, ''),
       coalesce(extract(epoch FROM clock_timestamp() - a.xact_start), 0)::double precision
FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a USING (pid)
WHERE l.locktype = 'relation' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
  AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
  AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
  AND l.relation IN (SELECT %(documents)s::regclass::oid UNION SELECT t.relid FROM pg_catalog.pg_partition_tree(%(documents)s::regclass) t)
ORDER BY a.xact_start

-- name: enqueue
INSERT INTO embed_pipeline.change_queue (index_name, version, doc_id)
SELECT %(index)s, %(version)s, wanted.doc_id FROM unnest(%(doc_ids)s::text[]) AS wanted(doc_id)

-- name: forget_version
DELETE FROM embed_pipeline.change_queue WHERE index_name = %(index)s AND version = %(version)s
