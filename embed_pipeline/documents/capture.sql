-- name: as_output
-- A value's text by its type's output function, in C. A cast may be a function of whoever owns the type, and would run with our rights.
concat({column})

-- name: as_cast
-- These types of PostgreSQL's own look otherwise when they are cast. What the column was changed to since is not cast.
(CASE WHEN pg_typeof({column}) = {type}::regtype THEN {column}::text ELSE concat({column}) END)

-- name: function
-- One row for a statement, in the writer's own transaction, and nothing else. The ids are gathered inside an exception block and written
-- outside of it: what goes wrong while gathering never reaches the application, and no statement costs a subtransaction of its own.
-- Cancelling passes: OTHERS does not catch it.
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER {settings} AS {body}

-- name: body
DECLARE
    changed text[];
    removed text[];
    problem text;
    code    text;
BEGIN
    BEGIN
        {gather}
        {require_inbox}
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS problem = MESSAGE_TEXT, code = RETURNED_SQLSTATE;
    END;
    {doubt}
    IF removed IS NOT NULL THEN
        {write_removed}
    END IF;
    IF changed IS NOT NULL THEN
        {write_changed}
    END IF;
    RETURN NULL;
END

-- name: require_inbox
-- Raises where somebody has dropped it. The name is looked up when the plan is made, and again after a drop, so a statement pays nothing.
        IF 'embed_pipeline.inbox'::regclass IS NULL THEN
            RETURN NULL;
        END IF;

-- name: doubt
-- This table may be gone too. Then no statement of the application fails, and every verb of ours does.
IF problem IS NOT NULL THEN
        IF to_regclass('embed_pipeline.doubts') IS NOT NULL THEN
            INSERT INTO embed_pipeline.doubts (index_name, kind, sqlstate, reason) VALUES ({index}, 'capture', code, problem);
        END IF;
        RETURN NULL;
    END IF;

-- name: only_documents
-- Nobody else can attach this function: that takes EXECUTE. But a partition keeps its triggers when it is detached, and may be anybody's then.
-- The documents' own table may have been renamed, and has another number after a restore: only where they are found, and are another table,
-- is this one none of theirs. Asked of the catalog, since to_regclass raises where a schema is closed to this role.
        IF TG_RELID <> {number}::oid THEN
            IF (WITH RECURSIVE above AS (
                    SELECT TG_RELID AS oid UNION ALL SELECT i.inhparent FROM pg_catalog.pg_inherits i JOIN above a ON i.inhrelid = a.oid
                )
                SELECT c.oid NOT IN (SELECT a.oid FROM above a)
                FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname = {schema_name} AND c.relname = {table_name}) THEN
                RETURN NULL;
            END IF;
        END IF;

-- name: write_ids
IF cardinality({ids}) <= 1000 THEN
            INSERT INTO embed_pipeline.inbox (index_name, doc_ids, removed) VALUES ({index}, {ids}, {removed});
        ELSE
            INSERT INTO embed_pipeline.inbox (index_name, doc_ids, removed)
            SELECT {index}, array_agg(u.id), {removed} FROM unnest({ids}) WITH ORDINALITY AS u(id, n) GROUP BY (u.n - 1) / 1000;
        END IF;

-- name: gather_insert
{only_documents}
        SELECT array_agg({new_id}) INTO changed FROM new_rows n;

-- name: gather_delete
{only_documents}
        SELECT array_agg({old_id}) INTO removed FROM old_rows o;

-- name: gather_update
{only_documents}
        -- A key that is gone is a delete. A key with another text, or a new one, is a change; other columns are none of our business.
        SELECT array_agg(b.id) FILTER (WHERE b.id IS NOT NULL), array_agg(a.id) FILTER (WHERE b.id IS NULL) INTO changed, removed
        FROM (SELECT {old_id} AS id, {old_state} AS state FROM old_rows o) AS a
        FULL JOIN (SELECT {new_id} AS id, {new_state} AS state FROM new_rows n) AS b ON a.id = b.id
        WHERE a.id IS NULL OR b.id IS NULL OR a.state IS DISTINCT FROM b.state;

-- name: gather_row
-- For replicated changes, which fire row triggers only, and for partitions that were attached after capture was armed: those that are
-- known have statement triggers of their own.
        IF TG_RELID = ANY ({known}::oid[]) AND current_setting('session_replication_role') <> 'replica' THEN
            RETURN NULL;
        END IF;
        {only_documents}
        IF TG_OP <> 'DELETE' THEN
            SELECT ARRAY[{new_id}] INTO changed FROM (SELECT NEW.*) AS n;
        END IF;
        IF TG_OP <> 'INSERT' THEN
            SELECT ARRAY[{old_id}] INTO removed FROM (SELECT OLD.*) AS o;
        END IF;
        IF TG_OP = 'UPDATE' AND changed = removed THEN
            removed := NULL;
            IF (SELECT {old_state} FROM (SELECT OLD.*) AS o) IS NOT DISTINCT FROM (SELECT {new_state} FROM (SELECT NEW.*) AS n) THEN
                changed := NULL;
            END IF;
        END IF;

-- name: truncate_function
-- Nobody has to know here what was there: the worker expands it to whatever is no longer there.
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS {body}

-- name: truncate_body
DECLARE
    problem text;
    code    text;
BEGIN
    BEGIN
        {only_documents}
        {require_inbox}
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS problem = MESSAGE_TEXT, code = RETURNED_SQLSTATE;
    END;
    {doubt}
    INSERT INTO embed_pipeline.inbox (index_name, doc_ids, removed) VALUES ({index}, NULL, true);
    RETURN NULL;
END

-- name: gone_function
-- Those of these documents that are gone, by key and by the key's text; NULL where that cannot be told. VOLATILE: a search that began
-- before a reload was committed must find what is there now. It waits for the application's table locks no longer than its own timeout.
CREATE OR REPLACE FUNCTION {function}(doc_ids text[]) RETURNS text[] LANGUAGE plpgsql VOLATILE SECURITY DEFINER {settings}
SET row_security = off SET lock_timeout = '50ms' SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS {body}

-- name: look
    -- Held until the transaction ends, so that what is looked at below is what is read: a view, or a column of another type, would run code
    -- of whoever owns the table with the rights of this function.
    LOCK TABLE {documents} IN ACCESS SHARE MODE;
    IF NOT EXISTS (
        SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = {schema_name} AND c.relname = {table_name} AND c.relkind IN ('r', 'p')
          AND {types}::text[] = ARRAY(SELECT format_type(a.atttypid, NULL) FROM unnest({key}::text[]) WITH ORDINALITY AS k(name, n)
                              JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = k.name ORDER BY k.n)
    ) OR EXISTS (
        -- Only a superuser can make a cast between types that PostgreSQL itself has, whose numbers are smaller. All casts take four times as
        -- long to look through as all the rest of this.
        SELECT FROM unnest({cast_to}::text[]) AS t(name) WHERE to_regtype(t.name)::oid >= 16384
    ) AND EXISTS (
        -- A cast between the key and text that somebody wrote in another language than C: of an enum for instance, by its owner.
        SELECT FROM pg_catalog.pg_cast k JOIN pg_catalog.pg_proc f ON f.oid = k.castfunc JOIN pg_catalog.pg_language l ON l.oid = f.prolang
        WHERE l.lanname NOT IN ('c', 'internal')
          AND ARRAY[k.castsource, k.casttarget] && ARRAY(SELECT to_regtype(t.name)::oid FROM unnest({cast_to}::text[]) AS t(name))
    ) THEN
        RETURN NULL;
    END IF;

-- name: gone_body
BEGIN
    {look}
    RETURN ARRAY(SELECT w.doc_id FROM unnest($1) AS w(doc_id) WHERE NOT EXISTS (SELECT FROM {documents} AS d WHERE {key_is_wanted}));
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END

-- name: present_function
-- The ids of all documents, if there are no more than so many; NULL where there are, or where that cannot be told.
CREATE OR REPLACE FUNCTION {function}(most integer) RETURNS text[] LANGUAGE plpgsql VOLATILE SECURITY DEFINER {settings}
SET row_security = off SET lock_timeout = '50ms' AS {body}

-- name: present_body
DECLARE
    found text[];
BEGIN
    {look}
    -- No more than a search asks for: a role that may not read the documents is given no list of them.
    found := ARRAY(SELECT {doc_id} FROM {documents} AS d LIMIT least($1, 10000) + 1);
    RETURN CASE WHEN cardinality(found) <= least($1, 10000) THEN found END;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END

-- name: settings
-- No name of the caller's search_path is ever used.
SET search_path = pg_catalog, pg_temp

-- name: settings_of_texts
-- The same texts for keys whatever the application's session has set.
SET search_path = pg_catalog, pg_temp SET datestyle = 'ISO, YMD' SET timezone = 'UTC' SET intervalstyle = 'postgres'
SET bytea_output = 'hex' SET extra_float_digits = 1 SET lc_monetary = 'C'

-- name: revoke
REVOKE ALL ON FUNCTION {function}() FROM PUBLIC

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

-- name: enable_always
ALTER TABLE {documents} ENABLE ALWAYS TRIGGER {trigger}

-- name: enable_replica
ALTER TABLE {documents} ENABLE REPLICA TRIGGER {trigger}

-- name: drop_trigger
DROP TRIGGER IF EXISTS {trigger} ON {documents}

-- name: strays
-- Triggers of an index on tables that are not its documents. A clone goes with the trigger that it was made of.
SELECT n.nspname, c.relname, t.tgname
FROM pg_catalog.pg_trigger t
JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE t.tgname = ANY (%(triggers)s::text[]) AND t.tgparentid = 0 AND pg_has_role(c.relowner, 'USAGE')
  AND t.tgrelid <> ALL (ARRAY(SELECT name::regclass::oid FROM unnest(%(tables)s::text[]) AS u(name)))

-- name: lock_documents
LOCK TABLE {documents} IN SHARE ROW EXCLUSIVE MODE

-- name: armed_for
-- The table that functions are made for, as they know it again.
SELECT %(documents)s::regclass::oid::bigint,
       ARRAY(SELECT format_type(a.atttypid, NULL) FROM unnest(%(key)s::text[]) WITH ORDINALITY AS k(name, n)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = %(documents)s::regclass AND a.attname = k.name ORDER BY k.n)

-- name: leaf_partitions
SELECT n.nspname, c.relname, c.oid::bigint
FROM pg_catalog.pg_partition_tree(%(documents)s::regclass) t
JOIN pg_catalog.pg_class c ON c.oid = t.relid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE t.level > 0 AND c.relkind IN ('r', 'p')

-- name: disarmed
SELECT w.documents::regclass::text, w.trigger
FROM unnest(%(tables)s::text[], %(triggers)s::text[], %(modes)s::text[]) AS w(documents, trigger, mode)
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t
                  WHERE t.tgrelid = w.documents::regclass AND t.tgname = w.trigger AND t.tgenabled::text = w.mode)

-- name: has_update_rule
SELECT EXISTS (SELECT FROM pg_catalog.pg_rewrite r WHERE r.ev_class = %(documents)s::regclass AND r.ev_type = '2')

-- name: canary_update
UPDATE {documents} AS d SET {text_column} = pg_catalog.left(d.{text_column}::text, -1) WHERE {key_is_wanted}

-- name: canary_candidate
SELECT {doc_id} FROM {documents} AS d WHERE length(d.{text_column}::text) > 1 LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED

-- name: canary_arrived
-- What this transaction itself has left behind.
SELECT EXISTS (SELECT FROM embed_pipeline.inbox WHERE index_name = %(index)s AND id > %(before)s AND %(doc_id)s = ANY (doc_ids)),
       (SELECT reason FROM embed_pipeline.doubts WHERE index_name = %(index)s AND kind = 'capture'
        AND xmin = pg_current_xact_id_if_assigned()::xid ORDER BY id DESC LIMIT 1)

-- name: last_inbox_id
SELECT coalesce(max(id), 0) FROM embed_pipeline.inbox
