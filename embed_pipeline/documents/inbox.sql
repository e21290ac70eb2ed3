-- name: distribute
-- One statement, so one snapshot: who reads the versions before the rows forgets one that is registered in between. A version row is
-- locked so that none is retired meanwhile. What is announced as removed stays so until a worker has looked: two distributors may
-- commit in another order than the application did. What is locked another distributor skips: no more rows than are about to be taken, if
-- all are as large as the first.
WITH offered AS MATERIALIZED (
    SELECT i.id, cardinality(i.doc_ids) AS size FROM embed_pipeline.inbox i
    WHERE i.index_name = %(index)s AND i.doc_ids IS NOT NULL AND i.id > %(after)s
    ORDER BY i.id LIMIT (
        SELECT least(%(rows)s, 1 + (%(ids)s - 1) / greatest(cardinality(f.doc_ids), 1)) FROM embed_pipeline.inbox f
        WHERE f.index_name = %(index)s AND f.doc_ids IS NOT NULL AND f.id > %(after)s ORDER BY f.id LIMIT 1
    ) FOR UPDATE SKIP LOCKED
), chosen AS MATERIALIZED (
    SELECT o.id FROM (SELECT id, size, sum(size) OVER (ORDER BY id) AS so_far FROM offered) AS o
    WHERE o.so_far - o.size < %(ids)s
), taken AS (
    DELETE FROM embed_pipeline.inbox i USING chosen WHERE i.id = chosen.id RETURNING i.doc_ids, i.removed, i.at
), changed AS MATERIALIZED (
    SELECT u.doc_id COLLATE "C" AS doc_id, bool_or(t.removed) AS removed, min(t.at) AS since
    FROM taken t CROSS JOIN unnest(t.doc_ids) AS u(doc_id) GROUP BY 1
), live AS MATERIALIZED (
    SELECT v.version FROM embed_pipeline.index_versions v
    WHERE v.index_name = %(index)s AND v.state <> 'retired' ORDER BY v.version FOR KEY SHARE
), announced AS (
    INSERT INTO embed_pipeline.pending AS p (index_name, version, doc_id, seq, since_seq, since, removed)
    SELECT %(index)s, n.version, n.doc_id, n.seq, n.seq, n.since, n.removed
    FROM (SELECT l.version, c.doc_id, c.since, c.removed, nextval('embed_pipeline.change_seq') AS seq
          FROM changed c CROSS JOIN live l) AS n
    ORDER BY n.version, n.doc_id
    ON CONFLICT (index_name, version, doc_id) DO UPDATE SET seq = excluded.seq, removed = p.removed OR excluded.removed
)
SELECT (SELECT count(*) FROM chosen), (SELECT count(*) FROM changed), (SELECT max(id) FROM chosen)

-- name: gone
-- Of these ids those that are no document (any more): the worker has to remove whatever is there of them.
SELECT w.doc_id FROM unnest(%(doc_ids)s::text[]) AS w(doc_id)
WHERE NOT EXISTS (SELECT FROM {documents} AS d WHERE {key_is_wanted})

-- name: pending_ids
SELECT doc_id FROM embed_pipeline.pending WHERE index_name = %(index)s AND version = %(version)s ORDER BY doc_id

-- name: announce_again
-- Whoever has read one of these before now cannot acknowledge it any more.
WITH locked AS MATERIALIZED (
    SELECT q.doc_id FROM embed_pipeline.pending q
    WHERE q.index_name || '' = %(index)s AND q.version || '' = %(version)s AND q.doc_id = ANY (%(doc_ids)s::text[]) ORDER BY q.doc_id FOR UPDATE
)
UPDATE embed_pipeline.pending AS p
SET seq = nextval('embed_pipeline.change_seq'), removed = p.removed OR p.doc_id = ANY (%(gone)s::text[])
WHERE p.index_name || '' = %(index)s AND p.version || '' = %(version)s AND p.doc_id = ANY (ARRAY(SELECT doc_id FROM locked))

-- name: truncates
SELECT id FROM embed_pipeline.inbox WHERE index_name = %(index)s AND doc_ids IS NULL ORDER BY id

-- name: known_ids
-- What the ledger itself remembers of a version's documents, besides its store: work under way, and dead letters.
SELECT doc_id FROM embed_pipeline.pending WHERE index_name = %(index)s AND version = %(version)s
UNION SELECT doc_id FROM embed_pipeline.dead_letters WHERE index_name = %(index)s AND version = %(version)s

-- name: forget
DELETE FROM embed_pipeline.inbox WHERE id = ANY (%(ids)s)

-- name: visible
-- The last row that is there for this snapshot. Whoever commits later is later.
SELECT max(id) FROM embed_pipeline.inbox WHERE index_name = %(index)s

-- name: any_up_to
SELECT EXISTS (SELECT FROM embed_pipeline.inbox WHERE index_name = %(index)s AND id <= %(last)s)

-- name: has_rows
SELECT EXISTS (SELECT FROM embed_pipeline.inbox WHERE index_name = %(index)s)

-- name: waiting
-- Ids that no version has been told of yet, how old the oldest is, and whether a TRUNCATE is among them.
SELECT coalesce(sum(cardinality(doc_ids)), 0)::bigint, greatest(extract(epoch FROM clock_timestamp() - min(at)), 0)::double precision,
       coalesce(bool_or(doc_ids IS NULL), false)
FROM embed_pipeline.inbox WHERE index_name = %(index)s

-- name: lock_row
SELECT doc_ids, removed FROM embed_pipeline.inbox WHERE id = %(id)s FOR UPDATE SKIP LOCKED

-- name: row_ids
SELECT id FROM embed_pipeline.inbox WHERE index_name = %(index)s AND doc_ids IS NOT NULL ORDER BY id LIMIT %(rows)s

-- name: announce
-- Ids out of one inbox row, for every live version.
WITH live AS MATERIALIZED (
    SELECT v.version FROM embed_pipeline.index_versions v
    WHERE v.index_name = %(index)s AND v.state <> 'retired' ORDER BY v.version FOR KEY SHARE
)
INSERT INTO embed_pipeline.pending AS p (index_name, version, doc_id, seq, since_seq, since, removed)
SELECT %(index)s, n.version, n.doc_id, n.seq, n.seq, clock_timestamp(), %(removed)s
FROM (SELECT l.version, u.doc_id COLLATE "C" AS doc_id, nextval('embed_pipeline.change_seq') AS seq
      FROM (SELECT DISTINCT doc_id FROM unnest(%(doc_ids)s::text[]) AS u(doc_id)) AS u CROSS JOIN live l) AS n
ORDER BY n.version, n.doc_id
ON CONFLICT (index_name, version, doc_id) DO UPDATE SET seq = excluded.seq, removed = p.removed OR excluded.removed

-- name: numbers
-- Where ids and seqs are now. Whoever has drawn one had its transaction id by then.
SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence('embed_pipeline.inbox', 'id')), 0),
       coalesce(pg_sequence_last_value('embed_pipeline.change_seq'), 0)

-- name: next_transaction
-- Later than every transaction that has an id.
SELECT pg_current_xact_id()::text::bigint

-- name: oldest_running
SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint

-- name: advance_floors
UPDATE embed_pipeline.indexes x
SET inbox_floor = coalesce((SELECT min(i.id) - 1 FROM embed_pipeline.inbox i
                            WHERE i.index_name = x.index_name AND i.removed AND i.id > x.inbox_floor AND i.id <= %(inbox)s), %(inbox)s),
    removal_floor = coalesce((SELECT min(p.seq) - 1 FROM embed_pipeline.pending p JOIN embed_pipeline.index_versions v USING (index_name, version)
                              WHERE p.index_name = x.index_name AND p.removed AND p.seq > x.removal_floor AND p.seq <= %(seq)s), %(seq)s)
WHERE x.index_name = %(index)s AND (x.inbox_floor < %(inbox)s OR x.removal_floor < %(seq)s)
RETURNING x.inbox_floor, x.removal_floor
