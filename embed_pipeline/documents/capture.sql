-- name: insert_function
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER {settings} AS $capture$
BEGIN
    INSERT INTO embed_pipeline.change_queue (index_name, version, doc_id)
    SELECT {index}, live.version, {new_id}
    FROM new_rows n CROSS JOIN unnest({versions}::text[]) AS live(version);
    RETURN NULL;
END $capture$

-- name: update_function
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER {settings} AS $capture$
DECLARE
    removed text[];
BEGIN
    -- A key that is gone is a delete. A key with another text, or a new one, is a change; other columns are none of our business.
    SELECT array_agg(gone.doc_id) INTO removed
    FROM (SELECT {old_id} AS doc_id FROM old_rows o EXCEPT SELECT {new_id} FROM new_rows n) AS gone;
    {queue_changed}
    IF removed IS NOT NULL AND current_setting('transaction_isolation') = 'read committed' THEN
        {delete_removed}
    END IF;
    RETURN NULL;
END $capture$

-- name: queue_changed
INSERT INTO embed_pipeline.change_queue (index_name, version, doc_id)
    SELECT {index}, live.version, changed.doc_id
    FROM (
        SELECT c.doc_id
        FROM (SELECT {new_id} AS doc_id, {new_state} FROM new_rows n EXCEPT SELECT {old_id}, {old_state} FROM old_rows o) AS c
        UNION
        SELECT unnest(removed)
    ) AS changed CROSS JOIN unnest({versions}::text[]) AS live(version);

-- name: delete_function
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER {settings} AS $capture$
DECLARE
    removed text[];
BEGIN
    SELECT array_agg({old_id}) INTO removed FROM old_rows o;
    INSERT INTO embed_pipeline.change_queue (index_name, version, doc_id)
    SELECT {index}, live.version, gone.doc_id
    FROM unnest(removed) AS gone(doc_id) CROSS JOIN unnest({versions}::text[]) AS live(version);
    -- Under an older snapshot the rows to delete may not be visible, and deleting one that a worker replaced would fail the
    -- application's transaction: there the queue alone carries the delete.
    IF removed IS NOT NULL AND current_setting('transaction_isolation') = 'read committed' THEN
        {delete_removed}
    END IF;
    RETURN NULL;
END $capture$

-- name: row_function
-- For partitioned tables (writes that name a partition) and for replicated changes, which fire row triggers only.
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER {settings} AS $capture$
DECLARE
    old_id      text;
    new_id      text;
    old_text    text;
    new_text    text;
    old_payload text;
    new_payload text;
    removed     text[];
    concerned   text[] := {versions};
BEGIN
    IF TG_OP <> 'INSERT' THEN
        SELECT {old_id}, {old_text}, {old_payload} INTO old_id, old_text, old_payload FROM (SELECT OLD.*) AS o;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        SELECT {new_id}, {new_text}, {new_payload} INTO new_id, new_text, new_payload FROM (SELECT NEW.*) AS n;
    END IF;
    IF old_id IS NOT DISTINCT FROM new_id AND old_text = new_text COLLATE "C" THEN
        IF old_payload = new_payload COLLATE "C" THEN
            RETURN NULL;
        END IF;
        concerned := {payload_versions};
    END IF;
    IF old_id IS NOT NULL AND old_id IS DISTINCT FROM new_id THEN
        removed := ARRAY[old_id];
    END IF;
    INSERT INTO embed_pipeline.change_queue (index_name, version, doc_id)
    SELECT {index}, live.version, changed.doc_id
    FROM (SELECT new_id AS doc_id WHERE new_id IS NOT NULL UNION SELECT unnest(removed)) AS changed
    CROSS JOIN unnest(concerned) AS live(version);
    IF removed IS NOT NULL AND current_setting('transaction_isolation') = 'read committed' THEN
        {delete_removed}
    END IF;
    RETURN NULL;
END $capture$

-- name: truncate_function
-- The rows that went are known by what the table no longer has: this also serves the TRUNCATE of one partition.
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER {settings} AS $capture$
BEGIN
    {queue_orphans}
    IF current_setting('transaction_isolation') = 'read committed' THEN
        {delete_orphans}
    END IF;
    RETURN NULL;
END $capture$

-- name: before_truncate_function
-- Fires on the table and on each of its partitions. A partition that was attached later has no trigger of its own: the others answer
-- for it. A document queued too often is looked at and found as it should be.
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER {settings} AS $capture$
BEGIN
    INSERT INTO embed_pipeline.change_queue (index_name, version, doc_id)
    SELECT {index}, live.version, {doc_id}
    FROM {documents} AS d CROSS JOIN unnest({tableless_versions}::text[]) AS live(version)
    WHERE d.tableoid = TG_RELID
       OR NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = d.tableoid AND t.tgname = TG_NAME);
    RETURN NULL;
END $capture$

-- name: queue_orphans
INSERT INTO embed_pipeline.change_queue (index_name, version, doc_id)
SELECT {index}, {version}, w.doc_id
FROM (
    SELECT doc_id FROM {version_documents}
    UNION
    -- A document that could have no vector has no row there, and its dead letter must go as well.
    SELECT l.doc_id FROM embed_pipeline.dead_letters l WHERE l.index_name = {index} AND l.version = {version}
) AS w
WHERE NOT EXISTS (SELECT FROM {documents} AS d WHERE {key_is_wanted});

-- name: empty_function
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER {settings} AS $capture$
BEGIN
    RETURN NULL;
END $capture$

-- name: settings
-- The same texts for keys whatever the application's session has set, and no name of its search_path is ever used.
SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, YMD' SET timezone = 'UTC' SET intervalstyle = 'postgres'
SET bytea_output = 'hex' SET extra_float_digits = 1 SET lc_monetary = 'C'

-- name: insert_trigger
CREATE OR REPLACE TRIGGER {trigger} AFTER INSERT ON {documents}
REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION {function}()

-- name: update_trigger
CREATE OR REPLACE TRIGGER {trigger} AFTER UPDATE ON {documents}
REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION {function}()

-- name: delete_trigger
CREATE OR REPLACE TRIGGER {trigger} AFTER DELETE ON {documents}
REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION {function}()

-- name: row_trigger
CREATE OR REPLACE TRIGGER {trigger} AFTER INSERT OR UPDATE OR DELETE ON {documents}
FOR EACH ROW EXECUTE FUNCTION {function}()

-- name: truncate_trigger
CREATE OR REPLACE TRIGGER {trigger} AFTER TRUNCATE ON {documents}
FOR EACH STATEMENT EXECUTE FUNCTION {function}()

-- name: before_truncate_trigger
CREATE OR REPLACE TRIGGER {trigger} BEFORE TRUNCATE ON {documents}
FOR EACH STATEMENT EXECUTE FUNCTION {function}()

-- name: enable_always
ALTER TABLE {documents} ENABLE ALWAYS TRIGGER {trigger}

-- name: enable_replica
ALTER TABLE {documents} ENABLE REPLICA TRIGGER {trigger}

-- name: lock_documents
LOCK TABLE {documents} IN SHARE ROW EXCLUSIVE MODE

-- name: queue_all
INSERT INTO embed_pipeline.change_queue (index_name, version, doc_id)
SELECT %(index)s, live.version, {doc_id} FROM {documents} AS d CROSS JOIN unnest(%(versions)s::text[]) AS live(version)

-- name: leaf_partitions
SELECT n.nspname, c.relname
FROM pg_catalog.pg_partition_tree(%(documents)s::regclass) t
JOIN pg_catalog.pg_class c ON c.oid = t.relid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE t.level > 0 AND c.relkind IN ('r', 'p')

-- name: armed_triggers
SELECT t.tgname FROM pg_catalog.pg_trigger t
WHERE t.tgrelid = %(documents)s::regclass AND t.tgname = ANY (%(triggers)s) AND t.tgenabled <> 'D'

-- name: disarmed
SELECT w.documents::regclass::text, w.trigger
FROM unnest(%(tables)s::text[], %(triggers)s::text[], %(modes)s::text[]) AS w(documents, trigger, mode)
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t
                  WHERE t.tgrelid = w.documents::regclass AND t.tgname = w.trigger AND t.tgenabled::text = w.mode)

-- name: canary_update
UPDATE {documents} AS d SET {text_column} = left(d.{text_column}::text, -1) WHERE {key_is_wanted}

-- name: canary_candidate
SELECT {doc_id} FROM {documents} AS d WHERE length(d.{text_column}::text) > 1 LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED

-- name: canary_arrived
SELECT count(*) FROM embed_pipeline.change_queue
WHERE index_name = %(index)s AND version = %(version)s AND doc_id = %(doc_id)s AND seq > %(seq)s

-- name: last_seq
SELECT coalesce(max(seq), 0) FROM embed_pipeline.change_queue

-- name: delete_removed
DELETE FROM {version_documents} WHERE doc_id = ANY (removed);
DELETE FROM {version_vectors} WHERE doc_id = ANY (removed);

-- name: delete_orphans
DELETE FROM {version_documents} AS w WHERE NOT EXISTS (SELECT FROM {documents} AS d WHERE {key_is_wanted});
DELETE FROM {version_vectors} AS v WHERE NOT EXISTS (SELECT FROM {version_documents} AS w WHERE w.doc_id = v.doc_id);
