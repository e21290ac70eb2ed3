-- name: shape
-- Everything about the documents table that decides what capture sees and what a stored hash means. The xmin of catalog rows shows what
-- happened between two looks: a trigger switched off and on again, columns swapped by renaming, a type changed with USING.
-- It is planned in more time than it runs. Without parameters PostgreSQL keeps the plan of the first look of a session.
WITH RECURSIVE t AS (
    SELECT c.oid, c.relkind, c.relpersistence, c.relrowsecurity, c.relforcerowsecurity FROM pg_catalog.pg_class c WHERE c.oid = to_regclass({documents})
), below AS (
    SELECT i.inhrelid, i.xmin::text AS since FROM pg_catalog.pg_inherits i JOIN t ON i.inhparent = t.oid
    UNION ALL
    SELECT i.inhrelid, i.xmin::text FROM pg_catalog.pg_inherits i JOIN below b ON i.inhparent = b.inhrelid
), above AS (
    SELECT i.inhparent, i.xmin::text AS since FROM pg_catalog.pg_inherits i JOIN t ON i.inhrelid = t.oid
    UNION ALL
    SELECT i.inhparent, i.xmin::text FROM pg_catalog.pg_inherits i JOIN above a ON i.inhrelid = a.inhparent
), kinds AS (
    SELECT a.atttypid AS oid FROM pg_catalog.pg_attribute a JOIN t ON a.attrelid = t.oid
    WHERE a.attname = ANY ({columns}::text[]) AND NOT a.attisdropped AND a.atttypid >= 16384  -- Below are the server's own, which stay.
    UNION
    SELECT p.part FROM kinds k JOIN pg_catalog.pg_type y ON y.oid = k.oid
    CROSS JOIN LATERAL (
        VALUES (y.typbasetype), (y.typelem)
        UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute a WHERE a.attrelid = y.typrelid AND a.attnum > 0 AND NOT a.attisdropped
        UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE r.rngtypid = y.oid
    ) AS p(part) WHERE p.part <> 0
)
SELECT jsonb_build_object(
           'table', coalesce((SELECT format('%s %s %s', t.oid, t.relkind, t.relpersistence) FROM t), 'gone'),
           -- Written through a parent, it fires none of its own statement triggers; written to a child, none at all.
           'parent', (SELECT string_agg(format('%s %s', a.inhparent, a.since), ', ' ORDER BY a.inhparent) FROM above a),
           'children', (SELECT string_agg(b.inhrelid::text, ', ' ORDER BY b.inhrelid) FROM below b JOIN t ON t.relkind <> 'p'),
           'row security', (SELECT format('%s %s %s', t.relrowsecurity, t.relforcerowsecurity,
                                   (SELECT string_agg(format('%s %s', p.polname, p.xmin), ', ' ORDER BY p.polname)
                                    FROM pg_catalog.pg_policy p WHERE p.polrelid = t.oid)) FROM t),
           'columns', (SELECT string_agg(format('%s %s %s %s %s %s %s', a.attnum, a.attname, a.atttypid, a.atttypmod, a.attcollation,
                                                a.attgenerated, a.xmin), ', ' ORDER BY a.attnum)
                       FROM pg_catalog.pg_attribute a JOIN t ON a.attrelid = t.oid
                       WHERE a.attname = ANY ({columns}::text[]) AND NOT a.attisdropped),
           -- Names that are part of a value's text: of an enum's label, and of the attributes that a composite has.
           'types', (SELECT string_agg(n.named, ', ' ORDER BY n.named) FROM (
               SELECT format('%s %s', e.oid, e.enumlabel) AS named FROM pg_catalog.pg_enum e JOIN kinds k ON e.enumtypid = k.oid
               UNION ALL
               SELECT format('%s %s %s', y.oid, a.attnum, a.atttypid) FROM pg_catalog.pg_type y JOIN kinds k ON y.oid = k.oid
               JOIN pg_catalog.pg_attribute a ON a.attrelid = y.typrelid AND a.attnum > 0 AND NOT a.attisdropped) AS n),
           'triggers', (SELECT string_agg(format('%s %s %s %s', g.tgname, g.tgenabled, g.tgfoid, g.xmin), ', ' ORDER BY g.tgname)
                        FROM pg_catalog.pg_trigger g JOIN t ON g.tgrelid = t.oid WHERE g.tgname = ANY ({triggers}::text[])),
           'capture functions', (SELECT string_agg(format('%s %s', f.proname, f.xmin), ', ' ORDER BY f.proname)
                                 FROM pg_catalog.pg_proc f JOIN pg_catalog.pg_namespace n ON n.oid = f.pronamespace
                                 WHERE n.nspname = 'embed_pipeline' AND f.proname = ANY ({functions}::text[]))),
       coalesce((SELECT jsonb_object_agg(b.inhrelid::text, format('%s %s %s', b.since, (
                            SELECT c.relpersistence FROM pg_catalog.pg_class c WHERE c.oid = b.inhrelid), (
                            SELECT string_agg(format('%s %s %s', g.tgname, g.tgenabled, g.xmin), ', ' ORDER BY g.tgname)
                            FROM pg_catalog.pg_trigger g
                            WHERE g.tgrelid = b.inhrelid AND g.tgname = ANY ({triggers}::text[]) AND g.tgname NOT LIKE '%truncate')))
                 FROM below b), '{{}}'),
       (SELECT system_identifier::text FROM pg_catalog.pg_control_system()),
       CASE WHEN pg_is_in_recovery() THEN 0
            ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint END

-- name: known
SELECT parts, leaves, system, timeline FROM embed_pipeline.shapes WHERE index_name = %(index)s

-- name: lock_known
SELECT parts, leaves, system, timeline FROM embed_pipeline.shapes WHERE index_name = %(index)s FOR UPDATE

-- name: record
INSERT INTO embed_pipeline.shapes (index_name, parts, leaves, system, timeline)
VALUES (%(index)s, %(parts)s, %(leaves)s, %(system)s, %(timeline)s)
ON CONFLICT (index_name) DO UPDATE
SET parts = excluded.parts, leaves = excluded.leaves, system = excluded.system, timeline = excluded.timeline, seen_at = clock_timestamp()

-- name: raise_doubt
INSERT INTO embed_pipeline.doubts (index_name, kind, reason) VALUES (%(index)s, %(kind)s, %(reason)s)

-- name: forget_losses
DELETE FROM embed_pipeline.doubts WHERE index_name = %(index)s AND kind = 'loss'

-- name: open_doubts
SELECT id, kind, reason, at FROM embed_pipeline.doubts WHERE index_name = %(index)s ORDER BY id

-- name: clear
DELETE FROM embed_pipeline.doubts WHERE index_name = %(index)s AND id = ANY (%(ids)s)

-- name: leaf_name
SELECT n.nspname, c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = %(oid)s::bigint AND c.relkind IN ('r', 'p')

-- name: take_id
SELECT pg_current_xact_id()

-- name: write_ids
INSERT INTO embed_pipeline.inbox (index_name, doc_ids, removed)
SELECT %(index)s, array_agg({doc_id}), false FROM {documents} AS d WHERE {in_range} HAVING count(*) > 0

-- name: write_truncate
INSERT INTO embed_pipeline.inbox (index_name, doc_ids, removed) VALUES (%(index)s, NULL, true)

-- name: horizon
SELECT pg_snapshot_xmin(pg_current_snapshot())::text

-- name: last_comparison
SELECT horizon::text, shape FROM embed_pipeline.comparisons WHERE index_name = %(index)s AND version = %(version)s

-- name: keep_comparison
INSERT INTO embed_pipeline.comparisons (index_name, version, horizon, shape)
VALUES (%(index)s, %(version)s, %(horizon)s::text::xid8, %(shape)s)
ON CONFLICT (index_name, version) DO UPDATE
SET horizon = excluded.horizon, shape = excluded.shape, compared_at = clock_timestamp() WHERE comparisons.horizon < excluded.horizon
   OR comparisons.shape <> excluded.shape
