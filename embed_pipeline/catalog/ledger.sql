-- name: read
SELECT l.id::text, l.addresses, l.database = current_database() AND l.system = s.system_identifier::text,
       l.started = pg_postmaster_start_time(), current_database(), s.system_identifier::text,
       -- Not every role is shown it.
       (SELECT p.setting FROM pg_catalog.pg_settings p WHERE p.name = 'data_directory')
FROM embed_pipeline.ledger l CROSS JOIN pg_control_system() s

-- name: learn
-- Of the server that the row was written in. An address is learned by who reaches, by it, the very run of the server that a known one reached.
UPDATE embed_pipeline.ledger
SET addresses = CASE WHEN %(address)s = ANY (addresses) THEN addresses ELSE addresses || %(address)s::text END,
    started = pg_postmaster_start_time()
WHERE database = current_database() AND system = (SELECT s.system_identifier::text FROM pg_control_system() s)
  AND (%(address)s = ANY (addresses) OR addresses = '{{}}' OR started = pg_postmaster_start_time())

-- name: become
-- A copy becomes a ledger of its own: what names the one it was copied from is no longer its.
UPDATE embed_pipeline.ledger
SET id = gen_random_uuid(), database = current_database(), system = (SELECT s.system_identifier::text FROM pg_control_system() s),
    addresses = ARRAY[%(address)s::text], started = pg_postmaster_start_time()
WHERE NOT (database = current_database() AND system = (SELECT s.system_identifier::text FROM pg_control_system() s)
           AND %(address)s = ANY (addresses))

-- name: raise_doubt
INSERT INTO embed_pipeline.doubts (index_name, kind, reason) VALUES (%(index)s, 'take-over', %(reason)s)
