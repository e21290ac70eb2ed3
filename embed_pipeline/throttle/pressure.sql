-- name: standbys
-- Every row, also those of other roles, whose columns are null without pg_monitor. Bytes are believed; replay_lag is stale-high after
-- catching up and null when idle.
SELECT application_name, state,
       pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::double precision,
       extract(epoch FROM replay_lag)::double precision,
       extract(epoch FROM clock_timestamp() - reply_time)::double precision
FROM pg_catalog.pg_stat_replication WHERE application_name IS NULL OR application_name = ANY (%(names)s::text[])

-- name: undeclared_standbys
SELECT DISTINCT application_name FROM pg_catalog.pg_stat_replication
WHERE state IN ('streaming', 'catchup') AND application_name <> ALL (%(names)s::text[]) ORDER BY application_name

-- name: slots
SELECT slot_name::text, active, wal_status, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::double precision
FROM pg_catalog.pg_replication_slots WHERE slot_name = ANY (%(names)s::name[])

-- name: wal_position
SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::double precision, extract(epoch FROM clock_timestamp())::double precision

-- name: vacuums
-- Of the tables, their partitions and the TOAST tables of both, where long vectors live.
WITH watched AS (
    SELECT to_regclass(named.name)::oid AS relid FROM unnest(%(tables)s::text[]) AS named(name)
    UNION SELECT t.relid FROM unnest(%(tables)s::text[]) AS named(name), pg_partition_tree(to_regclass(named.name)) AS t
)
SELECT coalesce(owner.oid, p.relid)::regclass::text, coalesce(a.backend_type = 'autovacuum worker', false)
FROM pg_catalog.pg_stat_progress_vacuum p
LEFT JOIN pg_catalog.pg_stat_activity a USING (pid)
LEFT JOIN pg_catalog.pg_class owner ON owner.reltoastrelid = p.relid
WHERE p.datname = current_database() AND (p.relid IS NULL OR coalesce(owner.oid, p.relid) IN (SELECT relid FROM watched))

-- name: active_backends
-- Sessions that wait for a transaction's end count as idle: they burden nobody. Our own do not count. Without pg_monitor the state
-- of other roles' sessions is null, and so is the answer.
SELECT CASE WHEN bool_or(state IS NULL) THEN NULL ELSE count(*) FILTER (WHERE state IN ('active', 'fastpath function call')) END
FROM pg_catalog.pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name <> 'embed-pipeline'
  AND coalesce(backend_type, 'client backend') = 'client backend'

-- name: behind
-- The oldest change of the version that serves, by where it stands in the queue; and of what no version was told of yet. One statement:
-- what is distributed meanwhile is in one of the two.
SELECT w.version, greatest(extract(epoch FROM clock_timestamp() - w.since), 0)::double precision
FROM (SELECT v.version, least(
          (SELECT p.since FROM embed_pipeline.pending p
           WHERE p.index_name = v.index_name AND p.version = v.version ORDER BY p.since_seq LIMIT 1),
          (SELECT i.at FROM embed_pipeline.inbox i WHERE i.index_name = v.index_name ORDER BY i.id LIMIT 1)) AS since
      FROM embed_pipeline.index_versions v
      WHERE v.index_name = %(index)s AND v.state = 'active' AND v.version <> %(version)s) AS w
WHERE w.since IS NOT NULL

-- name: monitor
SELECT current_user::text, pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')
