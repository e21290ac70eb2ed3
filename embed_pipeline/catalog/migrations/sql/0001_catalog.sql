-- The control plane. Tables hold state; the views at the end are the contract for people who look.
-- The schema embed_pipeline exists already; {vector_schema} is where the vector extension lives in this database.

CREATE TABLE embed_pipeline.indexes (
    index_name      text PRIMARY KEY CHECK (index_name ~ '^[a-z][a-z0-9_]{{0,23}}$'),
    documents_table text NOT NULL,
    key_columns     text[] NOT NULL CHECK (cardinality(key_columns) > 0),
    text_columns    text[] NOT NULL CHECK (cardinality(text_columns) > 0),
    store_kind      text NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE embed_pipeline.index_versions (
    index_name    text NOT NULL REFERENCES embed_pipeline.indexes,
    version       text NOT NULL CHECK (version ~ '^[a-z][a-z0-9_]{{0,23}}$'),
    state         text NOT NULL DEFAULT 'building'
                  CHECK (state IN ('building', 'ready', 'active', 'standby', 'retired')),
    state_since   timestamptz NOT NULL DEFAULT now(),
    fingerprint   text NOT NULL CHECK (length(fingerprint) = 64),
    model_name    text NOT NULL,
    model_version text NOT NULL,
    dimensions    integer NOT NULL CHECK (dimensions > 0),
    precision     text NOT NULL,
    distance      text NOT NULL,
    partitions    integer NOT NULL CHECK (partitions > 0),
    spec          jsonb NOT NULL,
    dropped_at    timestamptz,
    created_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (index_name, version)
);
-- One version serves. Two names for one live space would only pay for it twice.
CREATE UNIQUE INDEX one_active_version ON embed_pipeline.index_versions (index_name) WHERE state = 'active';
CREATE UNIQUE INDEX one_live_version_per_space
    ON embed_pipeline.index_versions (index_name, fingerprint) WHERE state <> 'retired';

CREATE TABLE embed_pipeline.partitions (
    index_name    text NOT NULL,
    version       text NOT NULL,
    partition_key text NOT NULL,
    lower_key     text[],            -- inclusive; null: from the first key
    upper_key     text[],            -- exclusive; null: to the last key
    is_empty      boolean NOT NULL,  -- more partitions than keys when the version was created
    completed_at  timestamptz,
    documents     bigint,
    PRIMARY KEY (index_name, version, partition_key),
    FOREIGN KEY (index_name, version) REFERENCES embed_pipeline.index_versions
);

-- Insert-only for applications: a transaction of theirs can neither wait for a worker nor fail on a row that a worker changed.
CREATE TABLE embed_pipeline.change_queue (
    seq          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    index_name   text NOT NULL,
    version      text NOT NULL,
    doc_id       text COLLATE "C" NOT NULL,
    enqueued_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    lease_id     uuid,
    leased_until timestamptz,
    attempts     integer NOT NULL DEFAULT 0,
    last_error   text
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 1000);
CREATE INDEX change_queue_order ON embed_pipeline.change_queue (index_name, version, seq);
CREATE INDEX change_queue_document ON embed_pipeline.change_queue (index_name, version, doc_id);

CREATE TABLE embed_pipeline.dead_letters (
    index_name  text NOT NULL,
    version     text NOT NULL,
    doc_id      text COLLATE "C" NOT NULL,
    source_hash bytea NOT NULL,
    reason      text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (index_name, version, doc_id)
);

CREATE TABLE embed_pipeline.control (
    index_name text PRIMARY KEY REFERENCES embed_pipeline.indexes,
    state      text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'paused', 'aborted')),
    reason     text NOT NULL DEFAULT '',
    changed_by text NOT NULL DEFAULT current_user,
    changed_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE embed_pipeline.gate_evidence (
    id                   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    index_name           text NOT NULL,
    version              text NOT NULL,
    fingerprint          text NOT NULL,
    baseline_version     text,
    baseline_fingerprint text,
    outcome              text NOT NULL CHECK (outcome IN ('pass', 'fail', 'undecided')),
    sentence             text NOT NULL,
    holdout_sha256       text,
    documents            bigint NOT NULL,
    vectors              bigint NOT NULL,
    ann_index            oid,
    measures             jsonb NOT NULL DEFAULT '{{}}',
    created_by           text NOT NULL DEFAULT current_user,
    created_at           timestamptz NOT NULL DEFAULT now(),
    valid_until          timestamptz NOT NULL,
    FOREIGN KEY (index_name, version) REFERENCES embed_pipeline.index_versions
);
CREATE INDEX gate_evidence_latest ON embed_pipeline.gate_evidence (index_name, version, id DESC);

CREATE TABLE embed_pipeline.coverage_checks (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    index_name   text NOT NULL,
    version      text NOT NULL,
    documents    bigint NOT NULL,
    vectors      bigint NOT NULL,
    pending      bigint NOT NULL,
    dead_letters bigint NOT NULL,
    differences  bigint NOT NULL,
    checked_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    FOREIGN KEY (index_name, version) REFERENCES embed_pipeline.index_versions
);

CREATE TABLE embed_pipeline.serving_pointer (
    index_name       text PRIMARY KEY REFERENCES embed_pipeline.indexes,
    version          text,
    previous_version text,
    generation       bigint NOT NULL DEFAULT 0,
    move             text CHECK (move IN ('cutover', 'rollback')),
    evidence_id      bigint REFERENCES embed_pipeline.gate_evidence,
    coverage_id      bigint REFERENCES embed_pipeline.coverage_checks,
    mark             bigint,
    changed_at       timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (index_name, version) REFERENCES embed_pipeline.index_versions
);

CREATE TABLE embed_pipeline.audit_events (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    index_name  text NOT NULL,
    version     text,
    event       text NOT NULL,
    from_state  text,
    to_state    text,
    actor       text NOT NULL DEFAULT current_user,
    reason      text NOT NULL DEFAULT '',
    evidence_id bigint REFERENCES embed_pipeline.gate_evidence,
    detail      jsonb NOT NULL DEFAULT '{{}}'
);

-- No unique constraint: a reader in any isolation level can add its row without ever failing.
CREATE TABLE embed_pipeline.version_reads (
    index_name text NOT NULL,
    version    text NOT NULL,
    read_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX version_reads_latest ON embed_pipeline.version_reads (index_name, version, read_at DESC);

-- Legality lives in the database, so that no client, and no hand at a psql prompt, can write an illegal history.

CREATE FUNCTION embed_pipeline.check_version_change() RETURNS trigger LANGUAGE plpgsql AS $check$
BEGIN
    IF (NEW.fingerprint, NEW.model_name, NEW.model_version, NEW.dimensions, NEW.precision, NEW.distance, NEW.partitions)
       IS DISTINCT FROM
       (OLD.fingerprint, OLD.model_name, OLD.model_version, OLD.dimensions, OLD.precision, OLD.distance, OLD.partitions) THEN
        RAISE EXCEPTION 'embedding version %.% is immutable', OLD.index_name, OLD.version
            USING ERRCODE = 'check_violation', HINT = 'Declare a new version instead.';
    END IF;
    IF NEW.state <> OLD.state THEN
        IF (OLD.state, NEW.state) NOT IN (
            ('building', 'ready'), ('building', 'retired'), ('ready', 'active'), ('ready', 'retired'),
            ('active', 'standby'), ('standby', 'active'), ('standby', 'retired')) THEN
            RAISE EXCEPTION 'version %.% cannot go from % to %', OLD.index_name, OLD.version, OLD.state, NEW.state
                USING ERRCODE = 'check_violation',
                      HINT = 'The states are building, ready, active, standby, retired, in this order; standby may become active again.';
        END IF;
        NEW.state_since := now();
    END IF;
    RETURN NEW;
END $check$;
CREATE TRIGGER check_version_change BEFORE UPDATE ON embed_pipeline.index_versions
    FOR EACH ROW EXECUTE FUNCTION embed_pipeline.check_version_change();

CREATE FUNCTION embed_pipeline.check_pointer_agrees() RETURNS trigger LANGUAGE plpgsql AS $check$
DECLARE
    active_version text;
    pointed_version text;
BEGIN
    SELECT v.version INTO active_version FROM embed_pipeline.index_versions v
        WHERE v.index_name = NEW.index_name AND v.state = 'active';
    SELECT p.version INTO pointed_version FROM embed_pipeline.serving_pointer p WHERE p.index_name = NEW.index_name;
    IF active_version IS DISTINCT FROM pointed_version THEN
        RAISE EXCEPTION 'index %: active version % and serving pointer % differ',
            NEW.index_name, coalesce(active_version, 'none'), coalesce(pointed_version, 'none')
            USING ERRCODE = 'check_violation', HINT = 'Use: embed-pipeline cutover ' || NEW.index_name || ' VERSION';
    END IF;
    RETURN NULL;
END $check$;
CREATE CONSTRAINT TRIGGER pointer_agrees AFTER INSERT OR UPDATE ON embed_pipeline.index_versions
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION embed_pipeline.check_pointer_agrees();
CREATE CONSTRAINT TRIGGER pointer_agrees AFTER INSERT OR UPDATE ON embed_pipeline.serving_pointer
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION embed_pipeline.check_pointer_agrees();

CREATE FUNCTION embed_pipeline.check_pointer_move() RETURNS trigger LANGUAGE plpgsql AS $check$
DECLARE
    target   embed_pipeline.index_versions;
    evidence embed_pipeline.gate_evidence;
    coverage embed_pipeline.coverage_checks;
    hint     text := format('Use: embed-pipeline cutover %s %s', NEW.index_name, NEW.version);
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.version IS NOT NULL OR NEW.generation <> 0 THEN
            RAISE EXCEPTION 'the serving pointer of % must start empty', NEW.index_name USING ERRCODE = 'check_violation', HINT = hint;
        END IF;
        RETURN NEW;
    END IF;
    IF NEW.version IS NOT DISTINCT FROM OLD.version THEN
        IF NEW.generation <> OLD.generation THEN
            RAISE EXCEPTION 'the generation of % moves only with its version', NEW.index_name USING ERRCODE = 'check_violation';
        END IF;
        RETURN NEW;
    END IF;
    IF NEW.generation <> OLD.generation + 1 OR NEW.mark IS NULL OR NEW.move IS NULL THEN
        RAISE EXCEPTION 'the serving pointer of % was moved by hand', NEW.index_name USING ERRCODE = 'check_violation', HINT = hint;
    END IF;
    SELECT * INTO target FROM embed_pipeline.index_versions v WHERE v.index_name = NEW.index_name AND v.version = NEW.version;
    SELECT * INTO coverage FROM embed_pipeline.coverage_checks c WHERE c.id = NEW.coverage_id;
    IF coverage.id IS NULL OR (coverage.index_name, coverage.version) IS DISTINCT FROM (NEW.index_name, NEW.version)
       OR coverage.differences > 0 OR coverage.checked_at < clock_timestamp() - interval '1 hour' THEN
        RAISE EXCEPTION 'index %: no recent complete coverage of %', NEW.index_name, NEW.version
            USING ERRCODE = 'check_violation', HINT = hint;
    END IF;
    IF EXISTS (SELECT FROM embed_pipeline.change_queue q
               WHERE q.index_name = NEW.index_name AND q.version = NEW.version AND q.seq <= NEW.mark) THEN
        RAISE EXCEPTION 'index %: changes up to % are still pending for %', NEW.index_name, NEW.mark, NEW.version
            USING ERRCODE = 'check_violation', HINT = format('Use: embed-pipeline sync %s', NEW.index_name);
    END IF;
    IF NEW.move = 'rollback' THEN
        IF NEW.version IS DISTINCT FROM OLD.previous_version THEN
            RAISE EXCEPTION 'index %: % is not the version that served before', NEW.index_name, NEW.version
                USING ERRCODE = 'check_violation', HINT = format('Use: embed-pipeline rollback %s', NEW.index_name);
        END IF;
        RETURN NEW;
    END IF;
    SELECT * INTO evidence FROM embed_pipeline.gate_evidence e WHERE e.id = NEW.evidence_id;
    IF evidence.id IS NULL OR evidence.outcome <> 'pass' OR evidence.valid_until < clock_timestamp()
       OR (evidence.index_name, evidence.version, evidence.fingerprint)
          IS DISTINCT FROM (NEW.index_name, NEW.version, target.fingerprint)
       OR evidence.baseline_version IS DISTINCT FROM OLD.version THEN
        RAISE EXCEPTION 'index %: no fresh, passing evidence for % against %',
            NEW.index_name, NEW.version, coalesce(OLD.version, 'nothing')
            USING ERRCODE = 'check_violation', HINT = format('Use: embed-pipeline gate %s %s', NEW.index_name, NEW.version);
    END IF;
    RETURN NEW;
END $check$;
CREATE TRIGGER check_pointer_move BEFORE INSERT OR UPDATE ON embed_pipeline.serving_pointer
    FOR EACH ROW EXECUTE FUNCTION embed_pipeline.check_pointer_move();

CREATE FUNCTION embed_pipeline.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $check$
BEGIN
    RAISE EXCEPTION '%.% is append-only', TG_TABLE_SCHEMA, TG_TABLE_NAME USING ERRCODE = 'check_violation';
END $check$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON embed_pipeline.audit_events
    FOR EACH STATEMENT EXECUTE FUNCTION embed_pipeline.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON embed_pipeline.gate_evidence
    FOR EACH STATEMENT EXECUTE FUNCTION embed_pipeline.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON embed_pipeline.coverage_checks
    FOR EACH STATEMENT EXECUTE FUNCTION embed_pipeline.refuse_change();

-- Reads are noted at most every ten seconds for a version, so that retire can refuse while somebody still reads it.
CREATE FUNCTION embed_pipeline.note_read(read_index text, read_version text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $note$
BEGIN
    IF pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean THEN
        RETURN;
    END IF;
    INSERT INTO embed_pipeline.version_reads (index_name, version)
    SELECT v.index_name, v.version FROM embed_pipeline.index_versions v
    WHERE v.index_name = read_index AND v.version = read_version AND v.state <> 'retired'
      AND NOT EXISTS (SELECT FROM embed_pipeline.version_reads r
                      WHERE r.index_name = read_index AND r.version = read_version
                        AND r.read_at > clock_timestamp() - interval '10 seconds');
END $note$;

-- The read path for SQL: the caller names the version its vector was made with, by name and fingerprint.
CREATE FUNCTION embed_pipeline.search(
    index_name text, version text, fingerprint text, query {vector_schema}.vector, k integer DEFAULT 10, exact boolean DEFAULT false
) RETURNS TABLE (doc_id text, chunk integer, distance double precision)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, {vector_schema}, pg_temp AS $search$
#variable_conflict use_column
DECLARE
    target   embed_pipeline.index_versions;
    operator text;
BEGIN
    SELECT * INTO target FROM embed_pipeline.index_versions v WHERE v.index_name = $1 AND v.version = $2;
    IF target.version IS NULL OR target.state = 'retired' THEN
        RAISE EXCEPTION 'index % has no live version %', $1, $2
            USING ERRCODE = 'undefined_object', HINT = 'Read embed_pipeline.serving and embed the query with that version.';
    END IF;
    IF target.fingerprint IS DISTINCT FROM $3 THEN
        RAISE EXCEPTION 'the query vector is of another space than version % of index %', $2, $1
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Read version and fingerprint together from embed_pipeline.serving and embed the query with that model.';
    END IF;
    IF vector_dims($4) <> target.dimensions THEN
        RAISE EXCEPTION 'the query vector has % dimensions, version % of index % has %', vector_dims($4), $2, $1, target.dimensions
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Embed the query with the model of this version.';
    END IF;
    operator := CASE target.distance WHEN 'cosine' THEN '<=>' WHEN 'inner_product' THEN '<#>' ELSE '<->' END;
    PERFORM embed_pipeline.note_read($1, $2);
    PERFORM set_config('hnsw.ef_search', greatest($5, (target.spec #>> '{{hnsw,ef_search}}')::integer)::text, true);
    PERFORM set_config('enable_indexscan', CASE WHEN $6 THEN 'off' ELSE 'on' END, true);
    RETURN QUERY EXECUTE format(
        'SELECT v.doc_id::text, v.chunk, (v.embedding %1$s $1::%2$s)::double precision FROM embed_pipeline.%3$I v'
        ' ORDER BY v.embedding %1$s $1::%2$s LIMIT $2',
        operator, target.precision, $1 || '__' || $2 || '__vectors') USING $4, $5;
    PERFORM set_config('enable_indexscan', 'on', true);
END $search$;

CREATE VIEW embed_pipeline.versions AS
    SELECT index_name, version, state, state_since, fingerprint, model_name, model_version, dimensions, precision, distance,
           partitions, created_at
    FROM embed_pipeline.index_versions;

CREATE VIEW embed_pipeline.serving AS
    SELECT p.index_name, p.version, v.fingerprint, v.model_name, v.model_version, v.dimensions, p.generation, p.previous_version,
           p.evidence_id, p.changed_at
    FROM embed_pipeline.serving_pointer p
    LEFT JOIN embed_pipeline.index_versions v USING (index_name, version);

CREATE VIEW embed_pipeline.queue AS
    SELECT seq, index_name, version, doc_id, enqueued_at, leased_until, attempts, last_error FROM embed_pipeline.change_queue;

CREATE VIEW embed_pipeline.evidence AS
    SELECT id, index_name, version, fingerprint, baseline_version, outcome, sentence, holdout_sha256, documents, vectors, measures,
           created_by, created_at, valid_until
    FROM embed_pipeline.gate_evidence;

CREATE VIEW embed_pipeline.events AS
    SELECT id, at, index_name, version, event, from_state, to_state, actor, reason, evidence_id, detail
    FROM embed_pipeline.audit_events;

-- Replaced whenever a version comes or goes: one branch for each version that has vectors.
CREATE VIEW embed_pipeline.provenance AS
    SELECT NULL::text AS index, NULL::text AS version, NULL::text AS doc_id, NULL::integer AS chunk, NULL::text AS model_name,
           NULL::text AS model_version, NULL::text AS fingerprint, NULL::text AS source_hash, NULL::timestamptz AS embedded_at
    WHERE false;
