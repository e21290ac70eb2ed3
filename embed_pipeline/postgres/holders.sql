-- name: of_relations
-- Who holds one of these locks on one of the tables or their partitions. A prepared transaction has no process: it is known by the lock on its
-- own number, beside the same virtual transaction.
WITH prepared AS MATERIALIZED (
    SELECT p.gid, p.owner, p.prepared, l.virtualtransaction
    FROM pg_catalog.pg_prepared_xacts p
    JOIN pg_catalog.pg_locks l ON l.locktype = 'transactionid' AND l.transactionid = p.transaction AND l.pid IS NULL
), wanted AS (
    SELECT t.oid FROM unnest(%(tables)s::text[]) AS n(name) CROSS JOIN LATERAL (SELECT to_regclass(n.name) AS oid) AS t
), every AS (
    SELECT w.oid FROM wanted w WHERE w.oid IS NOT NULL
    UNION SELECT p.relid FROM wanted w CROSS JOIN LATERAL pg_partition_tree(w.oid) AS p
)
SELECT DISTINCT l.pid, p.gid, coalesce(a.usename, p.owner), a.application_name, a.state, coalesce(a.xact_start, p.prepared),
       extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, p.prepared))::double precision
FROM pg_catalog.pg_locks l JOIN every e ON l.relation = e.oid
LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
LEFT JOIN prepared p ON l.pid IS NULL AND l.virtualtransaction = p.virtualtransaction
WHERE l.locktype = 'relation' AND l.granted AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())
  AND l.pid IS DISTINCT FROM pg_backend_pid() AND l.mode = ANY (%(modes)s::text[])
ORDER BY 6

-- name: of_advisory
-- Who holds an advisory lock, by its name.
WITH prepared AS MATERIALIZED (
    SELECT p.gid, p.owner, p.prepared, l.virtualtransaction
    FROM pg_catalog.pg_prepared_xacts p
    JOIN pg_catalog.pg_locks l ON l.locktype = 'transactionid' AND l.transactionid = p.transaction AND l.pid IS NULL
)
SELECT DISTINCT l.pid, p.gid, coalesce(a.usename, p.owner), a.application_name, a.state, coalesce(a.xact_start, a.backend_start, p.prepared),
       extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, a.backend_start, p.prepared))::double precision
FROM pg_catalog.pg_locks l
LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
LEFT JOIN prepared p ON l.pid IS NULL AND l.virtualtransaction = p.virtualtransaction
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.pid IS DISTINCT FROM pg_backend_pid()
  AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())
  AND (l.classid::bigint << 32 | l.objid::bigint) = hashtextextended(%(name)s, 0)

-- name: blocking
-- The sessions that a session waits for. A prepared transaction has none.
SELECT a.pid, NULL, a.usename, a.application_name, a.state, a.xact_start,
       extract(epoch FROM clock_timestamp() - a.xact_start)::double precision
FROM pg_catalog.pg_stat_activity a WHERE a.pid = ANY (pg_blocking_pids(%(pid)s)) ORDER BY a.xact_start

-- name: old
-- Transactions of this database that have been open for so long: nothing that was deleted since can be cleaned up, and the build of an index waits.
SELECT a.pid, NULL, a.usename, a.application_name, a.state, a.xact_start,
       extract(epoch FROM clock_timestamp() - a.xact_start)::double precision
FROM pg_catalog.pg_stat_activity a
WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.backend_type = 'client backend'
  AND a.xact_start < clock_timestamp() - make_interval(secs => %(seconds)s)
UNION ALL
SELECT NULL, p.gid, p.owner, NULL, NULL, p.prepared, extract(epoch FROM clock_timestamp() - p.prepared)::double precision
FROM pg_catalog.pg_prepared_xacts p
WHERE p.database = current_database() AND p.prepared < clock_timestamp() - make_interval(secs => %(seconds)s)
ORDER BY 6
