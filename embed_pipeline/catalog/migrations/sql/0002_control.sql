-- A person may speak to the throttle from SQL, and read from SQL why a backfill waits.

-- The one way to change the control row. The rights are the caller's; the three functions below lend theirs.
CREATE FUNCTION embed_pipeline.set_control(index text, state text, reason text, actor text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $control$
DECLARE
    before text;
BEGIN
    SELECT c.state INTO before FROM embed_pipeline.control c WHERE c.index_name = $1 FOR UPDATE;
    IF before IS NULL THEN
        RAISE EXCEPTION 'index % is not registered', quote_nullable($1)
            USING ERRCODE = 'undefined_object', HINT = 'SELECT index_name FROM embed_pipeline.serving lists what is.';
    END IF;
    UPDATE embed_pipeline.control c
    SET state = $2, reason = coalesce($3, ''), changed_by = $4, changed_at = clock_timestamp() WHERE c.index_name = $1;
    INSERT INTO embed_pipeline.audit_events (index_name, event, from_state, to_state, actor, reason)
    VALUES ($1, 'control', before, $2, $4, coalesce($3, ''));
END $control$;

-- SECURITY DEFINER: an operator needs EXECUTE and no right on a table. session_user is who asks, current_user whose rights count.
CREATE FUNCTION embed_pipeline.pause(index text, reason text DEFAULT '') RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $control$ SELECT embed_pipeline.set_control($1, 'paused', $2, session_user::text) $control$;
CREATE FUNCTION embed_pipeline.resume(index text, reason text DEFAULT '') RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $control$ SELECT embed_pipeline.set_control($1, 'running', $2, session_user::text) $control$;
CREATE FUNCTION embed_pipeline.abort(index text, reason text DEFAULT '') RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $control$ SELECT embed_pipeline.set_control($1, 'aborted', $2, session_user::text) $control$;

-- Readers may use the schema, and a new function is everybody's: stopping a migration is not for readers.
REVOKE ALL ON FUNCTION embed_pipeline.set_control(text, text, text, text), embed_pipeline.pause(text, text),
    embed_pipeline.resume(text, text), embed_pipeline.abort(text, text) FROM PUBLIC;

-- What the throttle of a running backfill last said: one row, overwritten, so that it costs nothing to keep.
CREATE TABLE embed_pipeline.throttle_states (
    index_name text NOT NULL,
    version    text NOT NULL,
    answer     text NOT NULL CHECK (answer IN ('go', 'wait', 'stop')),
    signal     text NOT NULL,
    reason     text NOT NULL,
    since      timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (index_name, version),
    FOREIGN KEY (index_name, version) REFERENCES embed_pipeline.index_versions
) WITH (fillfactor = 50);

CREATE VIEW embed_pipeline.throttle AS
    SELECT index_name, version, answer, signal, reason, since, seen_at FROM embed_pipeline.throttle_states;
