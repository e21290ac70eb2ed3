-- The catalog as it is now: what a database gets on first use, and what the migrations make (tests/database/catalog/test_schema.py).
-- Tables hold state; the views are the contract for people who look. The schema embed_pipeline exists already; {vector_schema} is where
-- the vector extension lives in this database.

-- Which ledger this is, for what is kept outside of the database (docs/decisions/0026). A copy of the database copies the row: so it names
-- the database and the cluster that it was written in, and the addresses by which that server is known. `started` is of the run of the server
-- that was reached by one of them last: who reaches the same run by another address has reached the same server.
CREATE TABLE embed_pipeline.ledger (
    only_row  boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    id        uuid NOT NULL DEFAULT gen_random_uuid(),
    database  text NOT NULL,
    system    text NOT NULL,
    addresses text[] NOT NULL DEFAULT '{{}}',
    started   timestamptz NOT NULL
);
INSERT INTO embed_pipeline.ledger (database, system, started)
SELECT current_database(), s.system_identifier::text, pg_postmaster_start_time() FROM pg_control_system() s;

-- The oldest revision whose packages may work on this catalog. A migration that only adds leaves it; one that takes something away raises it
-- (docs/decisions/0028).
CREATE TABLE embed_pipeline.works_from (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    revision text NOT NULL
);
INSERT INTO embed_pipeline.works_from (revision) VALUES ('0001');

CREATE TABLE embed_pipeline.indexes (
    index_name      text PRIMARY KEY CHECK (index_name ~ '^[a-z][a-z0-9]*(_[a-z0-9]+)*$' AND length(index_name) <= 24),
    documents_table text NOT NULL,
    key_columns     text[] NOT NULL CHECK (cardinality(key_columns) > 0),
    text_columns    text[] NOT NULL CHECK (cardinality(text_columns) > 0),
    -- The store as it was declared, never with a secret: a Searcher opens it from here.
    store           jsonb NOT NULL CHECK (store ->> 'kind' IS NOT NULL),
    payload_columns text[] NOT NULL DEFAULT '{{}}',
    payload_object  text,
    -- Payload field to kind of index, in a store that has such indexes.
    payload_indexes jsonb NOT NULL DEFAULT '{{}}',
    -- By what the gate judges, as it was declared last: every setting that decides, and the share of documents that may change.
    judges_by       jsonb NOT NULL DEFAULT '{{}}',
    -- Every inbox row that a search has to look at has a larger id, and every pending removal a larger seq (`advance_floors`).
    inbox_floor     bigint NOT NULL DEFAULT 0,
    removal_floor   bigint NOT NULL DEFAULT 0,
    created_at      timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

CREATE TABLE embed_pipeline.index_versions (
    index_name    text NOT NULL REFERENCES embed_pipeline.indexes,
    version       text NOT NULL CHECK (version ~ '^[a-z][a-z0-9]*(_[a-z0-9]+)*$' AND length(version) <= 24),
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
    spec          jsonb NOT NULL,  -- what decides a vector: never changed
    settings      jsonb NOT NULL,  -- the rest of the declaration, as it was declared last (`Version.declared`)
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
    epoch         integer NOT NULL DEFAULT 0,      -- an insert under another epoch than this one is too late
    closed        boolean NOT NULL DEFAULT true,   -- nothing is inserted: not begun, being compared, or filled
    completed_at  timestamptz,
    documents     bigint,
    PRIMARY KEY (index_name, version, partition_key),
    FOREIGN KEY (index_name, version) REFERENCES embed_pipeline.index_versions
);

-- What the application's transactions leave behind: the ids that one statement changed. Applications only insert here, and only workers
-- look: no transaction of an application can wait for a worker, or fail on a row that a worker changed.
CREATE TABLE embed_pipeline.inbox (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    index_name text NOT NULL,
    doc_ids    text[] COLLATE "C",  -- NULL: a TRUNCATE, "whatever is no longer there"
    removed    boolean NOT NULL,
    at         timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 1000);
CREATE INDEX inbox_removals ON embed_pipeline.inbox (index_name, id) WHERE removed;

-- What every live version still has to do. `seq` is drawn when a change is distributed; `since_seq` and `since` are of the first change
-- that is not acknowledged. A claim is a uuid drawn for one batch of one worker. Half of each page is left free: a claim changes every row
-- once, and one that stays in its page costs the indexes nothing.
CREATE SEQUENCE embed_pipeline.change_seq;
CREATE TABLE embed_pipeline.pending (
    index_name text NOT NULL,
    version    text NOT NULL,
    doc_id     text COLLATE "C" NOT NULL,
    seq        bigint NOT NULL,
    since_seq  bigint NOT NULL,
    since      timestamptz NOT NULL,
    removed    boolean NOT NULL,
    claim      uuid,
    attempts   integer NOT NULL DEFAULT 0,
    last_error text,
    -- Whoever looks for a document writes `index_name || ''` and `version || ''`: this table is empty or large, its statistics are of another
    -- time, and the planner takes each index that begins with the two for as good as the one with the document, and walks through all that waits.
    PRIMARY KEY (doc_id, index_name, version)
) WITH (fillfactor = 45, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 1000);
CREATE INDEX pending_since ON embed_pipeline.pending (index_name, version, since_seq);
CREATE INDEX pending_removals ON embed_pipeline.pending (index_name, version, seq) WHERE removed;

-- A claim is alive while its worker counts `beat` on. Others judge that by their own monotonic clock: no time of day decides.
CREATE TABLE embed_pipeline.claims (
    claim      uuid PRIMARY KEY,
    index_name text NOT NULL,
    version    text NOT NULL,
    who        text NOT NULL,
    beat       bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

-- Ids that no key of `pending` can hold (near 2.7 kB): set aside, so that the others go on.
CREATE TABLE embed_pipeline.unwieldy_ids (
    index_name text NOT NULL,
    digest     bytea NOT NULL,      -- sha256 of the id
    doc_id     text NOT NULL,
    reason     text NOT NULL,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (index_name, digest)
);

-- A reason to believe that a change may have been missed. While one is open, every search checks its hits, and a full comparison is
-- due; the comparison that saw it, of every live version, takes it away.
CREATE TABLE embed_pipeline.doubts (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    index_name text NOT NULL,
    kind       text NOT NULL CHECK (kind IN ('capture', 'shape', 'timeline', 'loss', 'take-over')),
    sqlstate   text,
    reason     text NOT NULL,
    at         timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX doubts_of_index ON embed_pipeline.doubts (index_name);

-- The documents table as it was when capture was armed, or looked at last: what differs from it is a doubt.
CREATE TABLE embed_pipeline.shapes (
    index_name text PRIMARY KEY REFERENCES embed_pipeline.indexes,
    parts      jsonb NOT NULL,      -- kind of fact -> its state as text
    leaves     jsonb NOT NULL,      -- oid of a leaf table -> its name
    system     text NOT NULL,       -- system identifier of the cluster
    timeline   bigint NOT NULL,
    seen_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Up to where documents and vectors were compared: what is older than `horizon` on both sides needs no second hash.
CREATE TABLE embed_pipeline.comparisons (
    index_name text NOT NULL,
    version    text NOT NULL,
    horizon    xid8 NOT NULL,
    shape      text NOT NULL,
    compared_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (index_name, version),
    FOREIGN KEY (index_name, version) REFERENCES embed_pipeline.index_versions
);

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
    -- adopted: of the first version of an index, whose vectors were there before: that they are the declared model's, not that they find well.
    kind                 text NOT NULL DEFAULT 'judged' CHECK (kind IN ('judged', 'adopted')),
    holdout_sha256       text,
    documents            bigint NOT NULL,
    vectors              bigint NOT NULL,
    ann_index            oid,
    ef_search            integer NOT NULL,
    judged               jsonb NOT NULL DEFAULT '{{}}',  -- by what rule, against which baseline: evidence about another one is stale
    measures             jsonb NOT NULL DEFAULT '{{}}',
    created_by           text NOT NULL DEFAULT current_user,
    created_at           timestamptz NOT NULL DEFAULT now(),
    valid_until          timestamptz NOT NULL,
    -- What was judged: `version` by itself; the serving version with the first places of its lists put in order by `version`; or the serving
    -- version's vectors, asked by queries of `version` that an adapter has mapped into their space.
    route                text NOT NULL DEFAULT 'direct' CHECK (route IN ('direct', 'refine', 'bridge')),
    refine_depth         integer CHECK (refine_depth BETWEEN 1 AND 1000),
    adapter_id           bigint,
    CHECK ((route = 'refine') = (refine_depth IS NOT NULL)),
    CHECK ((route = 'bridge') = (adapter_id IS NOT NULL)),
    CHECK (kind <> 'adopted' OR (baseline_version IS NULL AND route = 'direct' AND measures ? 'agreement')),
    FOREIGN KEY (index_name, version) REFERENCES embed_pipeline.index_versions
);
CREATE INDEX gate_evidence_latest ON embed_pipeline.gate_evidence (index_name, version, route, id DESC);

-- The texts that a verdict was about: of every judged document, and of a sample of all documents. Kept for the newest evidence of a version.
CREATE TABLE embed_pipeline.judged_documents (
    evidence_id bigint NOT NULL REFERENCES embed_pipeline.gate_evidence,
    doc_id      text COLLATE "C" NOT NULL,
    source_hash bytea NOT NULL,
    judged      boolean NOT NULL,
    sampled     boolean NOT NULL,
    PRIMARY KEY (evidence_id, doc_id)
);

-- What each query found under both versions: of the newest evidence of a version, and of what the pointer was last moved by.
CREATE TABLE embed_pipeline.judged_queries (
    evidence_id    bigint NOT NULL REFERENCES embed_pipeline.gate_evidence,
    position       integer NOT NULL,         -- in the held-out set
    query_id       text NOT NULL,
    query          text NOT NULL,
    cluster        text NOT NULL,
    judgements     jsonb NOT NULL,           -- document -> grade
    slices         jsonb NOT NULL,           -- column of the held-out set -> value, of the columns that the gate makes slices of
    baseline       double precision,         -- the gate's metric; NULL: it was compared with nothing
    candidate      double precision NOT NULL,
    baseline_hits  jsonb,                    -- [[document, score], ...], the best first
    candidate_hits jsonb NOT NULL,
    PRIMARY KEY (evidence_id, position)
);

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

-- Maps from the space of one version into that of another, for a bridge: a query of the new model (from) goes into the old index (to). What is
-- stored is never changed: a route names the row that was judged. Numbers are float32, little-endian; of `weights`, row by row of `from`.
CREATE TABLE embed_pipeline.adapters (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    index_name       text NOT NULL,
    from_version     text NOT NULL,
    from_fingerprint text NOT NULL,
    from_dimensions  integer NOT NULL,
    to_version       text NOT NULL,
    to_fingerprint   text NOT NULL,
    to_dimensions    integer NOT NULL,
    kind             text NOT NULL CHECK (kind IN ('procrustes', 'procrustes_centred', 'low_rank_affine')),
    weights          bytea NOT NULL,
    bias             bytea,
    pairs            integer NOT NULL CHECK (pairs >= 300),
    pairs_sha256     text NOT NULL CHECK (length(pairs_sha256) = 64),
    measures         jsonb NOT NULL DEFAULT '{{}}',
    fitted_by        text NOT NULL DEFAULT current_user,
    fitted_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    CHECK (from_version <> to_version AND from_fingerprint <> to_fingerprint),
    CHECK (octet_length(weights)::bigint = 4 * from_dimensions::bigint * to_dimensions),
    CHECK ((bias IS NULL) = (kind = 'procrustes')),
    CHECK (octet_length(bias) = 4 * to_dimensions),
    FOREIGN KEY (index_name, from_version) REFERENCES embed_pipeline.index_versions,
    FOREIGN KEY (index_name, to_version) REFERENCES embed_pipeline.index_versions
);
CREATE INDEX adapters_latest ON embed_pipeline.adapters (index_name, from_version, to_version, id DESC);

-- What the held-out queries said of a migration while it was on its way: one row for each time that they were asked. `arms`: what each way to
-- serve would have answered; `forecast`: what the whole of it will take, as far as that was known.
CREATE TABLE embed_pipeline.curve_points (
    id                   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    index_name           text NOT NULL,
    version              text NOT NULL,
    fingerprint          text NOT NULL,
    baseline_version     text NOT NULL,
    baseline_fingerprint text NOT NULL,
    occasion             text NOT NULL CHECK (occasion IN ('preview', 'tenth', 'asked')),
    documents            bigint NOT NULL,
    of_documents         bigint NOT NULL,
    partitions           integer NOT NULL,
    of_partitions        integer NOT NULL,
    usd                  double precision,
    seconds              double precision NOT NULL,
    holdout_sha256       text NOT NULL,
    metric               text NOT NULL,
    queries              integer NOT NULL,
    confidence           double precision NOT NULL,
    arms                 jsonb NOT NULL,
    forecast             jsonb NOT NULL DEFAULT '{{}}',
    measured_at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    FOREIGN KEY (index_name, version) REFERENCES embed_pipeline.index_versions,
    FOREIGN KEY (index_name, baseline_version) REFERENCES embed_pipeline.index_versions
);
CREATE INDEX curve_points_of_version ON embed_pipeline.curve_points (index_name, version, id);

-- The route that queries go through, and the one before: the version whose vectors are searched; where a version refines it, which one and how
-- deep; where queries of another version are mapped into its space, which one's and by which adapter. All of it moves at once, and the generation
-- with it.
CREATE TABLE embed_pipeline.serving_pointer (
    index_name       text PRIMARY KEY REFERENCES embed_pipeline.indexes,
    version          text,
    refine_version   text CHECK (refine_version <> version),
    refine_depth     integer CHECK (refine_depth BETWEEN 1 AND 1000),
    query_version    text CHECK (query_version <> version),
    adapter_id       bigint REFERENCES embed_pipeline.adapters,
    previous_version text,
    previous_refine_version text,
    previous_refine_depth   integer,
    previous_query_version  text,
    previous_adapter_id     bigint,
    generation       bigint NOT NULL DEFAULT 0,
    move             text CHECK (move IN ('cutover', 'rollback')),
    evidence_id      bigint REFERENCES embed_pipeline.gate_evidence,
    coverage_id      bigint REFERENCES embed_pipeline.coverage_checks,
    mark             bigint,
    -- Documents up to the mark that the version had not brought up to date when the last move took it into service: a rollback was told to.
    stale_accepted   bigint NOT NULL DEFAULT 0 CHECK (stale_accepted >= 0),
    changed_at       timestamptz NOT NULL DEFAULT now(),
    CHECK ((refine_version IS NULL) = (refine_depth IS NULL)),
    CHECK ((query_version IS NULL) = (adapter_id IS NULL)),
    CHECK (num_nonnulls(refine_version, query_version) = 0 OR (version IS NOT NULL AND num_nonnulls(refine_version, query_version) = 1)),
    FOREIGN KEY (index_name, version) REFERENCES embed_pipeline.index_versions,
    FOREIGN KEY (index_name, refine_version) REFERENCES embed_pipeline.index_versions,
    FOREIGN KEY (index_name, query_version) REFERENCES embed_pipeline.index_versions
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
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    index_name text NOT NULL,
    version    text NOT NULL,
    read_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX version_reads_latest ON embed_pipeline.version_reads (index_name, version, read_at DESC);

-- Who searches, and for which fingerprints it can embed queries: a row for each process, which only that process writes (`note_searcher`).
CREATE TABLE embed_pipeline.searchers (
    index_name text NOT NULL,
    searcher   uuid NOT NULL,
    role       text NOT NULL,
    who        text NOT NULL,       -- host and process
    can        text[] NOT NULL,
    cannot     jsonb NOT NULL,      -- fingerprint -> why
    seen_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (index_name, searcher)
) WITH (fillfactor = 50);

-- The looks after a cutover: of each generation so many, each of one watcher. The outcome is NULL while a look lasts, or where its watcher died.
CREATE TABLE embed_pipeline.watch_looks (
    index_name text NOT NULL,
    generation bigint NOT NULL,
    look       integer NOT NULL,
    version    text NOT NULL,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    outcome    text CHECK (outcome IN ('well', 'fail', 'unknown', 'overtaken')),
    sentence   text NOT NULL DEFAULT '',
    measures   jsonb NOT NULL DEFAULT '{{}}',
    PRIMARY KEY (index_name, generation, look),
    FOREIGN KEY (index_name, version) REFERENCES embed_pipeline.index_versions
);

-- What shadow reads have found (`note_shadow`): sums of one hour, that every process of a role adds to. `sketches`: name -> bucket -> count.
CREATE TABLE embed_pipeline.shadow_hours (
    index_name     text NOT NULL,
    shadow         text NOT NULL,
    answered       text NOT NULL,       -- the route that gave the answers
    hour           timestamptz NOT NULL,
    role           text NOT NULL,
    searches       bigint NOT NULL,
    compared       bigint NOT NULL,     -- in which either found anything: what the two sums are over
    failed         bigint NOT NULL,
    dropped        bigint NOT NULL,
    overlap        double precision NOT NULL,
    agreement      double precision NOT NULL,
    answered_empty bigint NOT NULL,
    shadow_empty   bigint NOT NULL,
    sketches       jsonb NOT NULL,
    last_failure   text NOT NULL,
    PRIMARY KEY (index_name, shadow, answered, hour, role)
) WITH (fillfactor = 50);

-- The queries whose two lists agree least, fifty of a role for each pair; their texts only where a process was told to keep them.
CREATE TABLE embed_pipeline.shadow_queries (
    index_name   text NOT NULL,
    shadow       text NOT NULL,
    answered     text NOT NULL,
    role         text NOT NULL,
    query_sha256 bytea NOT NULL CHECK (octet_length(query_sha256) = 32),
    query        text,
    agreement    double precision NOT NULL,
    overlap      double precision NOT NULL,
    at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (index_name, shadow, answered, role, query_sha256)
);

-- Legality lives in the database, so that no client, and no hand at a psql prompt, can write an illegal history.

CREATE FUNCTION embed_pipeline.check_version_change() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $check$
BEGIN
    IF (NEW.index_name, NEW.version, NEW.fingerprint, NEW.model_name, NEW.model_version, NEW.dimensions, NEW.precision, NEW.distance,
        NEW.partitions, NEW.spec)
       IS DISTINCT FROM
       (OLD.index_name, OLD.version, OLD.fingerprint, OLD.model_name, OLD.model_version, OLD.dimensions, OLD.precision, OLD.distance,
        OLD.partitions, OLD.spec) THEN
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
        -- Whoever moves the pointer to such a route shares this row's lock first: one of the two sees what the other has done.
        IF NEW.state = 'retired' AND EXISTS (SELECT FROM embed_pipeline.serving_pointer p
                                             WHERE p.index_name = NEW.index_name AND NEW.version IN (p.refine_version, p.query_version)) THEN
            RAISE EXCEPTION 'version %.% is on the route that serves', OLD.index_name, OLD.version
                USING ERRCODE = 'check_violation', HINT = format('Use: embed-pipeline rollback %s', OLD.index_name);
        END IF;
        NEW.state_since := now();
    END IF;
    RETURN NEW;
END $check$;
CREATE TRIGGER check_version_change BEFORE UPDATE ON embed_pipeline.index_versions
    FOR EACH ROW EXECUTE FUNCTION embed_pipeline.check_version_change();

-- Every change of a state is in the audit, also one that somebody makes at a psql prompt. Who has more to say about it than who it is says so in
-- embed_pipeline.why, for this one change (`versions.transition`).
CREATE FUNCTION embed_pipeline.audit_state() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $audit$
DECLARE
    why jsonb := coalesce(nullif(current_setting('embed_pipeline.why', true), ''), '{{}}')::jsonb;
BEGIN
    INSERT INTO embed_pipeline.audit_events (index_name, version, event, from_state, to_state, actor, reason, evidence_id)
    VALUES (NEW.index_name, NEW.version, coalesce(why ->> 'event', 'by hand'), OLD.state, NEW.state,
            coalesce(why ->> 'actor', session_user), coalesce(why ->> 'reason', ''), (why ->> 'evidence_id')::bigint);
    PERFORM set_config('embed_pipeline.why', '', true);
    RETURN NULL;
END $audit$;
CREATE TRIGGER audit_state AFTER UPDATE ON embed_pipeline.index_versions
    FOR EACH ROW WHEN (OLD.state <> NEW.state) EXECUTE FUNCTION embed_pipeline.audit_state();

CREATE FUNCTION embed_pipeline.check_pointer_agrees() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $check$
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

-- Why evidence does not describe any more what would serve, in a sentence, as far as the database can know it; NULL while it does. It knows the
-- declaration that was opened last (`indexes.judges_by`) and the held-out set as its file was then, the ANN indexes, and the texts that the
-- version's vectors are of. It cannot read a file, and of vectors that are elsewhere it knows only which documents wait.
-- `texts`: also by what the set's file and the documents were when they were seen last. Who has read them in the move itself says so: what waits
-- since then is what any move leaves to the dual-write, and here it would count as changed.
CREATE FUNCTION embed_pipeline.evidence_stale(evidence_id bigint, texts boolean DEFAULT true) RETURNS text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $stale$
#variable_conflict use_column
DECLARE
    e         embed_pipeline.gate_evidence;
    declared  jsonb;
    serves    text;
    other     text;
    searched  record;
    vectors   text;
    kept      jsonb;
    documents bigint;
    judged    text[];
    counts    record;
    share     double precision;
    allowed   double precision;
BEGIN
    SELECT * INTO e FROM embed_pipeline.gate_evidence g WHERE g.id = $1;
    IF e.id IS NULL THEN
        RETURN 'there is none';
    END IF;
    IF e.valid_until < clock_timestamp() THEN
        RETURN format('it expired at %s', to_char(e.valid_until AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI'));
    END IF;
    IF EXISTS (SELECT FROM embed_pipeline.gate_evidence g
               WHERE g.index_name = e.index_name AND g.version = e.version AND g.route = e.route AND g.id > e.id) THEN
        RETURN format('%s was judged again since', e.version);
    END IF;
    SELECT p.version INTO serves FROM embed_pipeline.serving_pointer p WHERE p.index_name = e.index_name;
    IF serves IS DISTINCT FROM e.baseline_version THEN
        RETURN format('it compared with %s, and %s serves now', coalesce(e.baseline_version, 'nothing'), coalesce(serves, 'nothing'));
    END IF;
    SELECT i.judges_by INTO declared FROM embed_pipeline.indexes i WHERE i.index_name = e.index_name;
    SELECT format('%s was %s and is %s now', k.name, coalesce(was.value, 'not set'), coalesce(now.value, 'not set')) INTO other
    FROM (SELECT jsonb_object_keys(e.judged -> 'rule') AS name UNION SELECT jsonb_object_keys(declared -> 'rule')) k
    CROSS JOIN LATERAL (SELECT e.judged -> 'rule' ->> k.name AS value) was
    CROSS JOIN LATERAL (SELECT declared -> 'rule' ->> k.name AS value) now
    WHERE was.value IS DISTINCT FROM now.value ORDER BY k.name LIMIT 1;
    IF other IS NOT NULL THEN
        RETURN 'its rule has changed: ' || other;
    END IF;
    IF (SELECT g.holdout_sha256 FROM embed_pipeline.gate_evidence g WHERE g.index_name = e.index_name ORDER BY g.id DESC LIMIT 1)
       IS DISTINCT FROM e.holdout_sha256 THEN
        RETURN 'the held-out set has changed: the index was judged by another one since';
    END IF;
    IF texts AND declared ? 'holdout_sha256' AND declared ->> 'holdout_sha256' IS DISTINCT FROM e.holdout_sha256 THEN
        RETURN 'the held-out set has changed: its file was another one when the index was opened last';
    END IF;
    -- The candidate may be searched by more than it was judged by: that finds more.
    FOR searched IN
        SELECT v.version, s.ann_index, s.ef_search, s.exact, (v.settings #>> '{{hnsw,ef_search}}')::integer AS now,
               to_regclass(format('embed_pipeline.%I', v.index_name || '__' || v.version)) IS NOT NULL AS here,
               to_regclass(format('embed_pipeline.%I', v.index_name || '__' || v.version || '__hnsw'))::oid AS built
        FROM (VALUES (CASE e.route WHEN 'direct' THEN e.version ELSE e.baseline_version END, e.ann_index, e.ef_search, false),
                     (e.baseline_version, (e.judged #>> '{{baseline,ann_index}}')::oid, (e.judged #>> '{{baseline,hnsw.ef_search}}')::integer, true))
             AS s(version, ann_index, ef_search, exact)
        JOIN embed_pipeline.index_versions v ON v.index_name = e.index_name AND v.version = s.version
    LOOP
        IF searched.here AND searched.built IS DISTINCT FROM searched.ann_index THEN
            RETURN format('the ANN index of %s was built anew', searched.version);
        END IF;
        IF searched.now < searched.ef_search OR (searched.exact AND searched.now <> searched.ef_search) THEN
            RETURN format('%s was searched with hnsw.ef_search %s, and is with %s now', searched.version, searched.ef_search, searched.now);
        END IF;
    END LOOP;
    -- A route beside what serves is judged over vectors that may lag behind: of its documents the library speaks alone.
    IF e.route <> 'direct' OR NOT texts THEN
        RETURN NULL;
    END IF;
    kept := e.judged -> 'documents';
    vectors := format('embed_pipeline.%I', e.index_name || '__' || e.version);
    -- What waits is another text than was judged, or will be gone. A dead letter says which text has no vector.
    EXECUTE format(
        'WITH waiting AS MATERIALIZED ('
        '    SELECT p.doc_id FROM embed_pipeline.pending p WHERE p.index_name = $2 AND p.version = $3'
        '    UNION SELECT u.doc_id FROM embed_pipeline.inbox i CROSS JOIN LATERAL unnest(i.doc_ids) u(doc_id) WHERE i.index_name = $2),'
        ' truncated AS MATERIALIZED (SELECT EXISTS (SELECT FROM embed_pipeline.inbox i WHERE i.index_name = $2 AND i.doc_ids IS NULL) AS is),'
        ' now AS MATERIALIZED ('
        '    SELECT j.doc_id, j.judged, j.sampled, j.source_hash, t.is OR w.doc_id IS NOT NULL AS waits, %s AS hash'
        '    FROM embed_pipeline.judged_documents j CROSS JOIN truncated t LEFT JOIN waiting w ON w.doc_id = j.doc_id'
        '    WHERE j.evidence_id = $1)'
        ' SELECT count(*) FILTER (WHERE n.judged) AS judged, count(*) FILTER (WHERE n.sampled) AS sampled,'
        '        count(*) FILTER (WHERE n.sampled AND n.hash IS NULL AND NOT n.waits)::double precision AS gone,'
        '        count(*) FILTER (WHERE n.sampled AND (n.waits OR n.hash <> n.source_hash))::double precision AS other,'
        '        array_agg(n.doc_id::text ORDER BY n.doc_id) FILTER (WHERE n.judged AND (n.waits OR n.hash IS DISTINCT FROM n.source_hash)) AS moved'
        ' FROM now n',
        CASE WHEN to_regclass(vectors) IS NULL THEN 'j.source_hash' ELSE format(
            'coalesce((SELECT v.source_hash FROM %s v WHERE v.doc_id = j.doc_id LIMIT 1),'
            '         (SELECT d.source_hash FROM embed_pipeline.dead_letters d'
            '          WHERE d.index_name = $2 AND d.version = $3 AND d.doc_id = j.doc_id),'
            '         (SELECT j.source_hash FROM embed_pipeline.unwieldy_ids u WHERE u.index_name = $2 AND u.doc_id = j.doc_id))', vectors) END)
        INTO counts USING e.id, e.index_name, e.version;
    IF (counts.judged, counts.sampled) IS DISTINCT FROM ((kept ->> 'judged')::bigint, (kept ->> 'sampled')::bigint) THEN
        RETURN 'what it knows of the documents that it judged is not complete any more';
    END IF;
    judged := counts.moved;
    IF cardinality(judged) > 0 THEN
        RETURN format('%s of the %s judged documents have another text since, or are gone: %s%s', cardinality(judged), counts.judged,
                      array_to_string(judged[1:3], ', '), CASE WHEN cardinality(judged) > 3 THEN format(' and %s more', cardinality(judged) - 3) ELSE '' END);
    END IF;
    documents := coalesce((SELECT c.documents FROM embed_pipeline.coverage_checks c WHERE c.index_name = e.index_name AND c.version = e.version
                           AND c.checked_at > e.created_at ORDER BY c.id DESC LIMIT 1), e.documents);
    share := CASE WHEN counts.sampled > 0
                  THEN (counts.gone + counts.other) / counts.sampled
                       + greatest(documents - e.documents * (1 - counts.gone / counts.sampled), 0) / greatest(e.documents, 1)
                  WHEN documents = e.documents THEN 0 ELSE 1 END;
    allowed := coalesce((declared ->> 'max_row_change')::double precision, 0);
    -- A share that is a sum may miss the limit that it equals by the last binary digits.
    IF share > allowed + 1e-9 THEN
        RETURN format('%s %% of the documents have changed, come or gone since, and gate.max_row_change allows %s %%',
                      round(least(share, 1)::numeric * 100, 1), round(allowed::numeric * 100, 1));
    END IF;
    RETURN NULL;
END $stale$;

CREATE FUNCTION embed_pipeline.check_pointer_move() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $check$
DECLARE
    judged   embed_pipeline.index_versions;
    evidence embed_pipeline.gate_evidence;
    coverage embed_pipeline.coverage_checks;
    stale    text[];
    moved    text;
    hint     text := format('Use: embed-pipeline cutover %s %s', NEW.index_name, NEW.version);
    adapter  embed_pipeline.adapters;
    kind     text := CASE WHEN NEW.adapter_id IS NOT NULL THEN 'bridge' WHEN NEW.refine_version IS NOT NULL THEN 'refine' ELSE 'direct' END;
    -- The version that makes a route more than its index version.
    other    text := coalesce(NEW.refine_version, NEW.query_version);
    route    text := CASE kind WHEN 'refine' THEN concat_ws(' refined by ', NEW.version, NEW.refine_version)
                     WHEN 'bridge' THEN concat_ws(' asked by ', NEW.version, NEW.query_version) ELSE NEW.version END;
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.version IS NOT NULL OR NEW.generation <> 0 THEN
            RAISE EXCEPTION 'the serving pointer of % must start empty', NEW.index_name USING ERRCODE = 'check_violation', HINT = hint;
        END IF;
        RETURN NEW;
    END IF;
    IF (NEW.version, NEW.refine_version, NEW.refine_depth, NEW.query_version, NEW.adapter_id) IS NOT DISTINCT FROM (OLD.version, OLD.refine_version, OLD.refine_depth, OLD.query_version, OLD.adapter_id) THEN
        IF (NEW.generation, NEW.stale_accepted) <> (OLD.generation, OLD.stale_accepted) THEN
            RAISE EXCEPTION 'the generation of % moves only with its route', NEW.index_name USING ERRCODE = 'check_violation';
        END IF;
        -- Forgotten when a version of it is retired. Another one is what a rollback would take for the route that served before.
        IF (NEW.previous_version, NEW.previous_refine_version, NEW.previous_refine_depth, NEW.previous_query_version, NEW.previous_adapter_id)
           IS DISTINCT FROM (OLD.previous_version, OLD.previous_refine_version, OLD.previous_refine_depth, OLD.previous_query_version, OLD.previous_adapter_id)
           AND num_nonnulls(NEW.previous_version, NEW.previous_refine_version, NEW.previous_refine_depth, NEW.previous_query_version, NEW.previous_adapter_id) > 0 THEN
            RAISE EXCEPTION 'the route before of % changes only with its route', NEW.index_name USING ERRCODE = 'check_violation';
        END IF;
        RETURN NEW;
    END IF;
    IF NEW.generation <> OLD.generation + 1 OR NEW.mark IS NULL OR NEW.move IS NULL
       OR (NEW.previous_version, NEW.previous_refine_version, NEW.previous_refine_depth, NEW.previous_query_version, NEW.previous_adapter_id)
          IS DISTINCT FROM (OLD.version, OLD.refine_version, OLD.refine_depth, OLD.query_version, OLD.adapter_id)
       OR (NEW.version = OLD.version
           AND (NEW.mark, NEW.coverage_id, NEW.stale_accepted) IS DISTINCT FROM (OLD.mark, OLD.coverage_id, OLD.stale_accepted)) THEN
        RAISE EXCEPTION 'the serving pointer of % was moved by hand', NEW.index_name USING ERRCODE = 'check_violation', HINT = hint;
    END IF;
    IF other IS NOT NULL THEN
        PERFORM FROM embed_pipeline.index_versions v
        WHERE v.index_name = NEW.index_name AND v.version = other AND v.state <> 'retired' FOR SHARE;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'index %: % is not live, and so % cannot serve', NEW.index_name, other, route
                USING ERRCODE = 'check_violation', HINT = format('Use: embed-pipeline status %s', NEW.index_name);
        END IF;
    END IF;
    IF NEW.adapter_id IS NOT NULL THEN
        SELECT * INTO adapter FROM embed_pipeline.adapters a WHERE a.id = NEW.adapter_id;
        IF (adapter.index_name, adapter.from_version, adapter.to_version) IS DISTINCT FROM (NEW.index_name, NEW.query_version, NEW.version)
           OR (adapter.from_fingerprint, adapter.to_fingerprint) IS DISTINCT FROM (
               (SELECT v.fingerprint FROM embed_pipeline.index_versions v WHERE v.index_name = NEW.index_name AND v.version = NEW.query_version),
               (SELECT v.fingerprint FROM embed_pipeline.index_versions v WHERE v.index_name = NEW.index_name AND v.version = NEW.version)) THEN
            RAISE EXCEPTION 'index %: adapter % does not lead from % into %', NEW.index_name, NEW.adapter_id, NEW.query_version, NEW.version
                USING ERRCODE = 'check_violation', HINT = format('Use: embed-pipeline fit %s %s', NEW.index_name, NEW.query_version);
        END IF;
    END IF;
    IF NEW.version IS DISTINCT FROM OLD.version THEN
        SELECT * INTO coverage FROM embed_pipeline.coverage_checks c WHERE c.id = NEW.coverage_id;
        IF coverage.id IS NULL OR (coverage.index_name, coverage.version) IS DISTINCT FROM (NEW.index_name, NEW.version)
           OR coverage.differences > 0 OR coverage.checked_at < clock_timestamp() - interval '1 hour' THEN
            RAISE EXCEPTION 'index %: no recent complete coverage of %', NEW.index_name, NEW.version
                USING ERRCODE = 'check_violation', HINT = hint;
        END IF;
        stale := ARRAY(SELECT q.doc_id::text FROM embed_pipeline.pending q
                       WHERE q.index_name = NEW.index_name AND q.version = NEW.version AND q.since_seq <= NEW.mark ORDER BY q.since_seq);
        IF cardinality(stale) > (CASE NEW.move WHEN 'rollback' THEN NEW.stale_accepted ELSE 0 END) THEN
            RAISE EXCEPTION 'index %: changes up to % are still pending for %', NEW.index_name, NEW.mark, NEW.version
                USING ERRCODE = 'check_violation', HINT = format('Use: embed-pipeline sync %s', NEW.index_name);
        END IF;
        -- Whoever moves the pointer, and however: what is let pass is named.
        NEW.stale_accepted := cardinality(stale);
        IF cardinality(stale) > 0 THEN
            INSERT INTO embed_pipeline.audit_events (index_name, version, event, actor, detail)
            VALUES (NEW.index_name, NEW.version, 'stale accepted',
                    coalesce(nullif(current_setting('embed_pipeline.actor', true), ''), current_user),
                    jsonb_build_object('count', cardinality(stale), 'documents', stale));
        END IF;
    END IF;
    IF NEW.move = 'rollback' THEN
        IF (NEW.version, NEW.refine_version, NEW.refine_depth, NEW.query_version, NEW.adapter_id)
           IS DISTINCT FROM (OLD.previous_version, OLD.previous_refine_version, OLD.previous_refine_depth, OLD.previous_query_version, OLD.previous_adapter_id) THEN
            RAISE EXCEPTION 'index %: % is not the route that served before', NEW.index_name, route
                USING ERRCODE = 'check_violation', HINT = format('Use: embed-pipeline rollback %s', NEW.index_name);
        END IF;
        RETURN NEW;
    END IF;
    -- By itself again, a version serves by the evidence that brought it to serve.
    IF NEW.version = OLD.version AND kind = 'direct' THEN
        RETURN NEW;
    END IF;
    SELECT * INTO judged FROM embed_pipeline.index_versions v
        WHERE v.index_name = NEW.index_name AND v.version = coalesce(other, NEW.version);
    SELECT * INTO evidence FROM embed_pipeline.gate_evidence e WHERE e.id = NEW.evidence_id;
    IF evidence.id IS NULL OR evidence.outcome <> 'pass' OR evidence.valid_until < clock_timestamp()
       OR (evidence.index_name, evidence.version, evidence.fingerprint)
          IS DISTINCT FROM (NEW.index_name, judged.version, judged.fingerprint)
       OR evidence.baseline_version IS DISTINCT FROM OLD.version
       OR (evidence.route, evidence.refine_depth, evidence.adapter_id) IS DISTINCT FROM (kind, NEW.refine_depth, NEW.adapter_id)
       -- It was judged beside what serves, and over its vectors.
       OR (kind <> 'direct' AND NEW.version IS DISTINCT FROM OLD.version) THEN
        RAISE EXCEPTION 'index %: no fresh, passing evidence for % against %',
            NEW.index_name, route, coalesce(OLD.version, 'nothing')
            USING ERRCODE = 'check_violation', HINT = format('Use: embed-pipeline gate %s %s%s', NEW.index_name, judged.version,
                                                             CASE kind WHEN 'direct' THEN '' ELSE ' --route ' || kind END);
    END IF;
    moved := embed_pipeline.evidence_stale(evidence.id, current_setting('embed_pipeline.texts_read_for', true) IS DISTINCT FROM evidence.id::text);
    IF moved IS NOT NULL THEN
        RAISE EXCEPTION 'index %: the evidence for % is stale: %', NEW.index_name, route, moved
            USING ERRCODE = 'check_violation', HINT = format('Use: embed-pipeline gate %s %s%s', NEW.index_name, judged.version,
                                                             CASE kind WHEN 'direct' THEN '' ELSE ' --route ' || kind END);
    END IF;
    RETURN NEW;
END $check$;
CREATE TRIGGER check_pointer_move BEFORE INSERT OR UPDATE ON embed_pipeline.serving_pointer
    FOR EACH ROW EXECUTE FUNCTION embed_pipeline.check_pointer_move();

-- A version that begins or ceases to refine, or to be asked through an adapter, changes no state: the audit hears of it here, whoever moves the
-- pointer.
CREATE FUNCTION embed_pipeline.audit_route() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $audit$
DECLARE
    why jsonb := coalesce(nullif(current_setting('embed_pipeline.why', true), ''), '{{}}')::jsonb;
BEGIN
    INSERT INTO embed_pipeline.audit_events (index_name, version, event, actor, reason, evidence_id, detail)
    VALUES (NEW.index_name, NEW.version, 'route', coalesce(why ->> 'actor', session_user), coalesce(why ->> 'reason', ''),
            NEW.evidence_id, jsonb_build_object(
                'move', NEW.move, 'generation', NEW.generation,
                'route', jsonb_build_object('version', NEW.version, 'refine', NEW.refine_version, 'depth', NEW.refine_depth,
                                             'queries', NEW.query_version, 'adapter', NEW.adapter_id),
                'before', jsonb_build_object('version', OLD.version, 'refine', OLD.refine_version, 'depth', OLD.refine_depth,
                                             'queries', OLD.query_version, 'adapter', OLD.adapter_id)));
    PERFORM set_config('embed_pipeline.why', '', true);
    RETURN NULL;
END $audit$;
CREATE TRIGGER audit_route AFTER UPDATE ON embed_pipeline.serving_pointer
    FOR EACH ROW WHEN (OLD.generation <> NEW.generation AND num_nonnulls(OLD.refine_version, NEW.refine_version, OLD.adapter_id, NEW.adapter_id) > 0)
    EXECUTE FUNCTION embed_pipeline.audit_route();

CREATE FUNCTION embed_pipeline.refuse_change() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $check$
BEGIN
    RAISE EXCEPTION '%.% is append-only', TG_TABLE_SCHEMA, TG_TABLE_NAME USING ERRCODE = 'check_violation';
END $check$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON embed_pipeline.audit_events
    FOR EACH STATEMENT EXECUTE FUNCTION embed_pipeline.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON embed_pipeline.gate_evidence
    FOR EACH STATEMENT EXECUTE FUNCTION embed_pipeline.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON embed_pipeline.coverage_checks
    FOR EACH STATEMENT EXECUTE FUNCTION embed_pipeline.refuse_change();
-- Rows of older evidence are deleted. That too many were, the counts in the evidence show.
CREATE TRIGGER never_changed BEFORE UPDATE OR TRUNCATE ON embed_pipeline.judged_documents
    FOR EACH STATEMENT EXECUTE FUNCTION embed_pipeline.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON embed_pipeline.adapters
    FOR EACH STATEMENT EXECUTE FUNCTION embed_pipeline.refuse_change();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON embed_pipeline.curve_points
    FOR EACH STATEMENT EXECUTE FUNCTION embed_pipeline.refuse_change();

-- An adapter is of the two spaces as they are registered: what claims to be of others would map queries into nowhere.
CREATE FUNCTION embed_pipeline.check_adapter() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $check$
DECLARE
    source embed_pipeline.index_versions;
    target embed_pipeline.index_versions;
    hint   text := format('Use: embed-pipeline fit %s %s', NEW.index_name, NEW.from_version);
BEGIN
    SELECT * INTO source FROM embed_pipeline.index_versions v WHERE v.index_name = NEW.index_name AND v.version = NEW.from_version;
    SELECT * INTO target FROM embed_pipeline.index_versions v WHERE v.index_name = NEW.index_name AND v.version = NEW.to_version;
    IF (source.fingerprint, source.dimensions, target.fingerprint, target.dimensions)
       IS DISTINCT FROM (NEW.from_fingerprint, NEW.from_dimensions, NEW.to_fingerprint, NEW.to_dimensions) THEN
        RAISE EXCEPTION 'index %: the adapter is not of % and % as they are registered', NEW.index_name, NEW.from_version, NEW.to_version
            USING ERRCODE = 'check_violation', HINT = hint;
    END IF;
    IF source.distance <> 'cosine' OR target.distance <> 'cosine' THEN
        RAISE EXCEPTION 'index %: an adapter is between spaces of cosine distance, not from % to %',
            NEW.index_name, source.distance, target.distance USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $check$;
CREATE TRIGGER check_adapter BEFORE INSERT ON embed_pipeline.adapters
    FOR EACH ROW EXECUTE FUNCTION embed_pipeline.check_adapter();

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
                        -- One of the future was noted before the clock was set back.
                        AND r.read_at BETWEEN clock_timestamp() - interval '10 seconds' AND clock_timestamp());
END $note$;

-- A process that searches says for which fingerprints it can embed queries; NULL for `can`: it searches no more. Of what it says, what is
-- about live versions is kept, cut to a length; of one role the last thousand rows of a day: whoever may read could fill the table else.
CREATE FUNCTION embed_pipeline.note_searcher(search_index text, searcher uuid, who text, can text[], cannot jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $note$
#variable_conflict use_column
DECLARE
    live text[];
BEGIN
    IF pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean THEN
        RETURN;
    END IF;
    IF $4 IS NULL THEN
        DELETE FROM embed_pipeline.searchers s WHERE s.index_name = $1 AND s.searcher = $2 AND s.role = session_user;
        RETURN;
    END IF;
    live := ARRAY(SELECT v.fingerprint FROM embed_pipeline.index_versions v
                  WHERE v.index_name = $1 AND v.state <> 'retired' ORDER BY v.fingerprint);
    IF cardinality(live) = 0 THEN
        RETURN;
    END IF;
    INSERT INTO embed_pipeline.searchers AS s (index_name, searcher, role, who, can, cannot)
    VALUES ($1, $2, session_user, left($3, 200), ARRAY(SELECT l FROM unnest(live) l WHERE l = ANY ($4)),
            coalesce((SELECT jsonb_object_agg(l, left($5 ->> l, 500)) FROM unnest(live) l WHERE $5 ->> l IS NOT NULL), '{{}}'))
    ON CONFLICT (index_name, searcher) DO UPDATE
    SET who = excluded.who, can = excluded.can, cannot = excluded.cannot, seen_at = clock_timestamp() WHERE s.role = session_user;
    DELETE FROM embed_pipeline.searchers s WHERE (s.index_name, s.searcher) IN (
        SELECT o.index_name, o.searcher FROM embed_pipeline.searchers o
        WHERE (o.index_name, o.searcher) IN (
            SELECT n.index_name, n.searcher FROM embed_pipeline.searchers n
            WHERE n.index_name = $1 AND n.role = session_user AND n.searcher <> $2 ORDER BY n.seen_at DESC OFFSET 999)
           OR (o.index_name = $1 AND o.searcher <> $2 AND o.seen_at < clock_timestamp() - interval '1 day')
        FOR UPDATE SKIP LOCKED);
END $note$;

-- The counts of both, by name and bucket. What is no count of a bucket is left out.
CREATE FUNCTION embed_pipeline.added_sketches(one jsonb, other jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $added$
    SELECT coalesce(jsonb_object_agg(s.name, s.counts), '{{}}') FROM (
        SELECT b.name, jsonb_object_agg(b.bucket, b.n) AS counts FROM (
            SELECT e.key AS name, c.key AS bucket, least(sum(c.value::numeric), 1000000000000) AS n
            FROM (SELECT * FROM jsonb_each($1) UNION ALL SELECT * FROM jsonb_each($2)) e, jsonb_each_text(e.value) c
            WHERE e.key IN ('answered_ms', 'shadow_ms', 'answered_scores', 'shadow_scores')
              AND c.key ~ '^(0|-?[1-9][0-9]{{0,2}})$' AND c.value ~ '^[0-9]{{1,12}}$'
            GROUP BY e.key, c.key) b
        GROUP BY b.name) s
$added$;

-- What shadow reads of one process have found since it said so last. Whoever may run this writes into rows of its own role alone, about live
-- versions, of this hour by the server's clock, and no more than fits into them; they go after thirty days. It is no reader's by itself.
CREATE FUNCTION embed_pipeline.note_shadow(
    shadow_index text, answered text, shadow text, numbers jsonb, sketches jsonb, queries jsonb
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $note$
#variable_conflict use_column
DECLARE
    this_hour timestamptz := date_trunc('hour', clock_timestamp());
    n         bigint[] := ARRAY(SELECT least(greatest(coalesce(($4 ->> name)::bigint, 0), 0), 1000000000)
                                FROM unnest(ARRAY['searches', 'compared', 'failed', 'dropped', 'answered_empty', 'shadow_empty'])
                                     WITH ORDINALITY AS names(name, place) ORDER BY place);
    -- Sums of numbers from 0 to 1.
    o         double precision := least(greatest(coalesce(($4 ->> 'overlap')::double precision, 0), 0), n[2]);
    a         double precision := least(greatest(coalesce(($4 ->> 'agreement')::double precision, 0), 0), n[2]);
BEGIN
    IF pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean THEN
        RETURN;
    END IF;
    IF (SELECT count(*) FROM embed_pipeline.index_versions v
        WHERE v.index_name = $1 AND v.state <> 'retired' AND v.version IN (split_part($2, ' ', 1), $3)) < 2 OR length($2) > 100 THEN
        RETURN;
    END IF;
    INSERT INTO embed_pipeline.shadow_hours AS h
    VALUES ($1, $3, $2, this_hour, session_user, n[1], n[2], n[3], n[4], o, a, n[5], n[6],
            embed_pipeline.added_sketches('{{}}', $5), left(coalesce($4 ->> 'last_failure', ''), 500))
    ON CONFLICT (index_name, shadow, answered, hour, role) DO UPDATE
    SET searches = h.searches + excluded.searches, compared = h.compared + excluded.compared, failed = h.failed + excluded.failed,
        dropped = h.dropped + excluded.dropped, overlap = h.overlap + excluded.overlap, agreement = h.agreement + excluded.agreement,
        answered_empty = h.answered_empty + excluded.answered_empty, shadow_empty = h.shadow_empty + excluded.shadow_empty,
        sketches = embed_pipeline.added_sketches(h.sketches, excluded.sketches),
        last_failure = coalesce(nullif(excluded.last_failure, ''), h.last_failure);
    INSERT INTO embed_pipeline.shadow_queries AS q (index_name, shadow, answered, role, query_sha256, query, agreement, overlap)
    SELECT DISTINCT ON (r.sha256) $1, $3, $2, session_user, decode(r.sha256, 'hex'), left(r.text, 1000), r.agreement, r.overlap
    FROM (SELECT * FROM jsonb_to_recordset($6) AS r(sha256 text, text text, agreement double precision, overlap double precision)
          LIMIT 50) r
    WHERE r.sha256 ~ '^[0-9a-f]{{64}}$' AND r.agreement BETWEEN 0 AND 1 AND r.overlap BETWEEN 0 AND 1
    ORDER BY r.sha256
    ON CONFLICT (index_name, shadow, answered, role, query_sha256) DO UPDATE
    SET query = excluded.query, agreement = excluded.agreement, overlap = excluded.overlap, at = clock_timestamp();
    DELETE FROM embed_pipeline.shadow_queries q WHERE q.ctid IN (
        SELECT o.ctid FROM embed_pipeline.shadow_queries o
        WHERE o.index_name = $1 AND o.shadow = $3 AND o.answered = $2 AND o.role = session_user
        ORDER BY o.at < clock_timestamp() - interval '30 days', o.agreement, o.query_sha256 OFFSET 50);
    DELETE FROM embed_pipeline.shadow_hours h WHERE h.index_name = $1 AND h.role = session_user AND h.hour < this_hour - interval '30 days';
    DELETE FROM embed_pipeline.shadow_queries q WHERE q.index_name = $1 AND q.role = session_user AND q.at < this_hour - interval '30 days';
END $note$;

-- How much a search has to doubt: 2, every hit (a doubt is open, or a removal is not distributed yet, or a TRUNCATE; or the version is being
-- retired, and nobody is told of its removals any more); 1, hits that are pending as removed; 0, none. The floors keep what is worked off
-- from being walked through while VACUUM cannot take it away.
CREATE FUNCTION embed_pipeline.doubtful(index_name text, version text) RETURNS integer
    -- Not in SQL: such a function is planned anew by every search.
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $doubtful$
BEGIN
    RETURN (
        SELECT CASE
            WHEN EXISTS (SELECT FROM embed_pipeline.doubts d WHERE d.index_name = $1)
                 OR EXISTS (SELECT FROM embed_pipeline.inbox i WHERE i.index_name = $1 AND i.removed AND i.id > x.inbox_floor)
                 OR EXISTS (SELECT FROM embed_pipeline.index_versions v
                            WHERE v.index_name = $1 AND v.version = $2 AND v.state = 'retired') THEN 2
            WHEN EXISTS (SELECT FROM embed_pipeline.pending p
                         WHERE p.index_name = $1 AND p.version = $2 AND p.removed AND p.seq > x.removal_floor) THEN 1
            ELSE 0 END
        FROM embed_pipeline.indexes x WHERE x.index_name = $1);
END $doubtful$;

-- Of these hits, those that are gone: looked up in the documents by a function of the index. Where it cannot look, what is announced
-- as removed counts as gone.
CREATE FUNCTION embed_pipeline.gone(index_name text, version text, doc_ids text[]) RETURNS text[]
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $gone$
DECLARE
    found text[];
BEGIN
    EXECUTE format('SELECT embed_pipeline.%I($1)', 'gone_' || $1) INTO found USING $3;
    IF found IS NOT NULL THEN
        RETURN found;
    END IF;
    RETURN ARRAY(
        SELECT w.doc_id FROM unnest($3) AS w(doc_id)
        WHERE EXISTS (SELECT FROM embed_pipeline.pending p
                      WHERE p.index_name || '' = $1 AND p.version || '' = $2 AND p.doc_id = w.doc_id AND p.removed)
           OR EXISTS (SELECT FROM embed_pipeline.inbox i
                      WHERE i.index_name = $1 AND i.removed AND (i.doc_ids IS NULL OR w.doc_id = ANY (i.doc_ids))));
END $gone$;

-- The read path for SQL: the caller names the version its vector was made with, by name and fingerprint. It gives k documents where
-- there are k: what is gone is hidden, and more is asked for. `among`: only these documents, each of them compared.
CREATE FUNCTION embed_pipeline.search(
    index_name text, version text, fingerprint text, query {vector_schema}.vector, k integer DEFAULT 10, exact boolean DEFAULT false,
    among text[] DEFAULT NULL
) RETURNS TABLE (doc_id text, chunk integer, distance double precision, passage_start integer, passage_end integer)
    -- Not with pgvector's schema on the path: who may make a function there would have it run by everybody who searches. And not with SET
    -- hnsw.ef_search: a role without superuser rights may make such a function only where pgvector is loaded, so not out of a backup.
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $search$
#variable_conflict use_column
DECLARE
    target    embed_pipeline.index_versions;
    -- Loads pgvector, which has to be there before its settings are.
    dimensions integer := cardinality($4::real[]);
    ef_search text := current_setting('hnsw.ef_search', true);
    scan      text := current_setting('hnsw.iterative_scan', true);
    home      text;
    vectors   text;
    apart     text;
    doubt     integer;
    suspect   text;
    chunked   boolean;
    mode      text := CASE WHEN $7 IS NOT NULL THEN 'among' WHEN $6 THEN 'all' ELSE 'index' END;
    asked     bigint;
    given     bigint;
    chosen    text[] := $7;
    hidden    text[];
    ids       text[];
    chunks    integer[];
    distances double precision[];
    starts    integer[];
    ends      integer[];
    suspects  text[];
BEGIN
    IF $5 IS NULL OR $5 NOT BETWEEN 1 AND 100000 THEN
        RAISE EXCEPTION 'k is %, and a search gives from 1 to 100000 documents', coalesce($5::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Ask for 10.';
    END IF;
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
    IF dimensions IS DISTINCT FROM target.dimensions THEN
        RAISE EXCEPTION 'the query vector has % dimensions, version % of index % has %', dimensions, $2, $1, target.dimensions
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Embed the query with the model of this version.';
    END IF;
    vectors := format('embed_pipeline.%I', $1 || '__' || $2);
    -- Asked of the table itself: who may search needs no right to read what is declared.
    IF to_regclass(vectors) IS NULL THEN
        RAISE EXCEPTION 'the vectors of version % of index % are not in this database', $2, $1
            USING ERRCODE = 'undefined_table',
                  HINT = 'Its store is elsewhere: search with embed_pipeline.Searcher, or ask that store (docs/reference/sql.md).';
    END IF;
    PERFORM embed_pipeline.note_read($1, $2);
    PERFORM set_config('hnsw.ef_search', least(greatest($5, (target.settings #>> '{{hnsw,ef_search}}')::integer), 1000)::text, true),
            set_config('hnsw.iterative_scan', 'strict_order', true);
    chunked := target.spec #>> '{{chunker,kind}}' IS NOT NULL;
    -- Where pgvector is now: it may have been moved since this function was made.
    SELECT quote_ident(n.nspname) INTO home
        FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector';
    apart := format('v.embedding OPERATOR(%1$s.%2$s) $1::%1$s.%3$s', home,
                 CASE target.distance WHEN 'cosine' THEN '<=>' WHEN 'inner_product' THEN '<#>' ELSE '<->' END, target.precision);
    -- Decided before the vectors are looked at: what is worked off in between has taken its vectors along.
    doubt := embed_pipeline.doubtful($1, $2);
    suspect := CASE doubt WHEN 2 THEN 'true' WHEN 0 THEN 'false' ELSE format(
        'coalesce((SELECT p.removed FROM embed_pipeline.pending p '
        'WHERE p.index_name || '''' = %L AND p.version || '''' = %L AND p.doc_id = v.doc_id), false)', $1, $2) END;
    asked := CASE WHEN chunked THEN 4 * $5 ELSE $5 END;
    LOOP
        EXECUTE format(
            'WITH n AS MATERIALIZED (SELECT v.doc_id, v.chunk, (%1$s)::double precision AS distance, v.passage_start, v.passage_end,'
            '                               %2$s AS suspect FROM %3$s v %4$s ORDER BY %5$s LIMIT $2),'
            ' f AS (SELECT DISTINCT ON (n.doc_id) n.* FROM n ORDER BY n.doc_id, n.distance, n.chunk)'
            ' SELECT (SELECT count(*) FROM n), array_agg(f.doc_id::text ORDER BY f.distance, f.doc_id),'
            ' array_agg(f.chunk ORDER BY f.distance, f.doc_id), array_agg(f.distance ORDER BY f.distance, f.doc_id),'
            ' array_agg(f.passage_start ORDER BY f.distance, f.doc_id), array_agg(f.passage_end ORDER BY f.distance, f.doc_id),'
            ' coalesce(array_agg(f.doc_id::text) FILTER (WHERE f.suspect), ARRAY[]::text[]) FROM f',
            apart, suspect, vectors, CASE WHEN mode = 'among' THEN 'WHERE v.doc_id = ANY ($3)' ELSE '' END,
            -- An order that no index has, whatever is set for the planner: every vector is compared.
            CASE WHEN mode = 'index' THEN apart ELSE '(' || apart || ') + 0' END)
            INTO given, ids, chunks, distances, starts, ends, suspects USING $4, asked, chosen;
        hidden := CASE WHEN cardinality(suspects) = 0 THEN suspects ELSE embed_pipeline.gone($1, $2, suspects) END;
        EXIT WHEN coalesce(cardinality(ids), 0) - cardinality(hidden) >= $5;
        IF doubt = 2 AND chosen IS NULL AND cardinality(hidden) = cardinality(ids) THEN
            -- After a TRUNCATE nearly all may be gone: what is there is compared where that is little.
            EXECUTE format('SELECT embed_pipeline.%I(10000)', 'present_' || $1) INTO chosen;
            IF chosen IS NOT NULL THEN
                mode := 'among';
                asked := 2147483647;
                CONTINUE;
            END IF;
            chosen := ARRAY[]::text[];
        END IF;
        IF given >= asked THEN
            asked := 4 * asked;
        ELSIF mode = 'index' THEN
            mode := 'all';  -- The index had no more to give: every vector is compared.
        ELSE
            EXIT;
        END IF;
    END LOOP;
    RETURN QUERY SELECT u.a, u.b, u.c, u.d, u.e
        FROM unnest(ids, chunks, distances, starts, ends) WITH ORDINALITY u(a, b, c, d, e, n)
        WHERE u.a <> ALL (hidden) ORDER BY u.n LIMIT $5;
    -- The caller's own.
    PERFORM set_config('hnsw.ef_search', ef_search, true), set_config('hnsw.iterative_scan', scan, true);
END $search$;

-- The read path for SQL where the serving route is refined: the caller brings the query twice, in the space of the version that is searched
-- and in that of the version that refines it, both named in embed_pipeline.serving. `placed`: its place was given by the latter.
CREATE FUNCTION embed_pipeline.search_refined(
    index_name text, fingerprint text, query {vector_schema}.vector, refine_fingerprint text, refine_query {vector_schema}.vector,
    k integer DEFAULT 10, exact boolean DEFAULT false
) RETURNS TABLE (doc_id text, chunk integer, distance double precision, passage_start integer, passage_end integer, placed boolean)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $refined$
DECLARE
    route      embed_pipeline.serving_pointer;
    refining   embed_pipeline.index_versions;
    dimensions integer := cardinality($5::real[]);
    vectors    text;
    home       text;
BEGIN
    SELECT * INTO route FROM embed_pipeline.serving_pointer p WHERE p.index_name = $1;
    SELECT * INTO refining FROM embed_pipeline.index_versions v WHERE v.index_name = $1 AND v.version = route.refine_version;
    IF refining.version IS NULL OR refining.fingerprint IS DISTINCT FROM $4 THEN
        RAISE EXCEPTION 'index % serves %, which no version of this space refines', $1,
            coalesce(concat_ws(' refined by ', route.version, route.refine_version), 'nothing')
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Read embed_pipeline.serving: without a refine_version search with embed_pipeline.search.';
    END IF;
    IF dimensions IS DISTINCT FROM refining.dimensions THEN
        RAISE EXCEPTION 'the query vector has % dimensions, version % of index % has %', dimensions, refining.version, $1, refining.dimensions
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Embed the query with the model of this version.';
    END IF;
    vectors := format('embed_pipeline.%I', $1 || '__' || refining.version);
    IF to_regclass(vectors) IS NULL THEN
        RAISE EXCEPTION 'the vectors of version % of index % are not in this database', refining.version, $1
            USING ERRCODE = 'undefined_table',
                  HINT = 'Its store is elsewhere: search with embed_pipeline.Searcher, or ask that store (docs/reference/sql.md).';
    END IF;
    PERFORM embed_pipeline.note_read($1, refining.version);
    SELECT quote_ident(n.nspname) INTO home
        FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector';
    -- Listed first and compared then: what is worked off in between is newer, never older. What still waits to be is left where it is.
    RETURN QUERY EXECUTE format(
        'WITH l AS MATERIALIZED ('
        '    SELECT s.* FROM embed_pipeline.search($1, $2, $3, $4, greatest($6, $7), $8) WITH ORDINALITY'
        '    AS s(doc_id, chunk, distance, passage_start, passage_end, place)),'
        ' n AS MATERIALIZED ('
        '    SELECT v.doc_id, min((v.embedding OPERATOR(%1$s.%2$s) $5::%1$s.%3$s)::double precision) AS apart FROM %4$s v'
        '    WHERE v.doc_id = ANY (ARRAY(SELECT l.doc_id FROM l WHERE l.place <= $7)) AND (SELECT true FROM embed_pipeline.pending p'
        '        WHERE p.index_name || '''' = %5$L AND p.version || '''' = %6$L AND p.doc_id = v.doc_id) IS NULL'
        '    GROUP BY v.doc_id HAVING min((v.embedding OPERATOR(%1$s.%2$s) $5::%1$s.%3$s)::double precision) <> ''NaN''),'
        ' h AS (SELECT l.doc_id, l.place, row_number() OVER (ORDER BY l.place) AS nth_place,'
        '              row_number() OVER (ORDER BY n.apart, l.place) AS nth FROM l JOIN n ON n.doc_id = l.doc_id)'
        ' SELECT l.doc_id, l.chunk, l.distance, l.passage_start, l.passage_end, h.doc_id IS NOT NULL'
        ' FROM l LEFT JOIN h ON h.doc_id = l.doc_id LEFT JOIN h AS held ON held.nth_place = h.nth'
        ' ORDER BY coalesce(held.place, l.place) LIMIT $6',
        home, CASE refining.distance WHEN 'cosine' THEN '<=>' WHEN 'inner_product' THEN '<#>' ELSE '<->' END, refining.precision,
        vectors, $1, refining.version)
        USING $1, route.version, $2, $3, $5, $6, route.refine_depth, $7;
END $refined$;

CREATE VIEW embed_pipeline.versions AS
    SELECT index_name, version, state, state_since, fingerprint, model_name, model_version, dimensions, precision, distance,
           partitions, created_at
    FROM embed_pipeline.index_versions;

CREATE VIEW embed_pipeline.serving AS
    SELECT p.index_name, p.version, v.fingerprint, v.model_name, v.model_version, v.dimensions, p.generation, p.previous_version,
           p.evidence_id, p.stale_accepted, p.changed_at,
           CASE WHEN p.refine_version IS NOT NULL THEN 'refine' WHEN p.adapter_id IS NOT NULL THEN 'bridge' WHEN p.version IS NOT NULL THEN 'direct' END AS route,
           p.refine_version, r.fingerprint AS refine_fingerprint, p.refine_depth, p.previous_refine_version,
           p.query_version, p.adapter_id, p.previous_query_version
    FROM embed_pipeline.serving_pointer p
    LEFT JOIN embed_pipeline.index_versions v USING (index_name, version)
    LEFT JOIN embed_pipeline.index_versions r ON r.index_name = p.index_name AND r.version = p.refine_version;

CREATE VIEW embed_pipeline.queue AS
    SELECT p.seq, p.index_name, p.version, p.doc_id, p.since, p.removed, p.attempts, p.last_error, c.who AS claimed_by
    FROM embed_pipeline.pending p LEFT JOIN embed_pipeline.claims c USING (claim);

CREATE VIEW embed_pipeline.evidence AS
    SELECT id, index_name, version, fingerprint, baseline_version, outcome, sentence, holdout_sha256, documents, vectors, judged, measures,
           created_by, created_at, valid_until, route, refine_depth, adapter_id, kind
    FROM embed_pipeline.gate_evidence;

CREATE VIEW embed_pipeline.evidence_queries AS
    SELECT j.evidence_id, e.index_name, e.version, e.baseline_version, j.query_id, j.query, j.cluster, j.judgements, j.slices, j.baseline,
           j.candidate, j.candidate - j.baseline AS difference, j.baseline_hits, j.candidate_hits
    FROM embed_pipeline.judged_queries j JOIN embed_pipeline.gate_evidence e ON e.id = j.evidence_id;

CREATE VIEW embed_pipeline.events AS
    SELECT id, at, index_name, version, event, from_state, to_state, actor, reason, evidence_id, detail
    FROM embed_pipeline.audit_events;

-- Replaced whenever a version comes or goes: one branch for each version that has vectors.
CREATE VIEW embed_pipeline.provenance AS
    SELECT NULL::text AS index, NULL::text AS version, NULL::text AS doc_id, NULL::integer AS chunk, NULL::text AS model_name,
           NULL::text AS model_version, NULL::text AS fingerprint, NULL::text AS source_hash, NULL::timestamptz AS embedded_at,
           NULL::integer AS passage_start, NULL::integer AS passage_end, NULL::timestamptz AS adopted_at
    WHERE false;

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

-- Accounts with providers: limits that all processes keep together, and what each version has cost (docs/decisions/0018).

-- What an index declares of its accounts, prices and budget, never with a secret: a Searcher knows nothing but the database.
CREATE TABLE embed_pipeline.terms (
    index_name text PRIMARY KEY REFERENCES embed_pipeline.indexes,
    terms      jsonb NOT NULL
);

-- One row per account: whoever decides about it holds this row. Times are seconds since 1970 by the clock of this server, and move with it
-- (`moment_of_account`).
CREATE TABLE embed_pipeline.provider_accounts (
    account           text PRIMARY KEY,
    next_at           double precision NOT NULL DEFAULT 0,  -- when background work may be admitted again, by the pace
    blocked_until     double precision NOT NULL DEFAULT 0,  -- what the provider asked for
    learned_requests  bigint,                               -- limits per minute, from the headers of its answers
    learned_tokens    bigint,
    cut_requests      double precision,                     -- requests per minute after the last cut, and when that was
    cut_at            double precision NOT NULL DEFAULT 0,
    cut_early         boolean NOT NULL DEFAULT false,       -- the work had begun less than half a minute before it
    seen_at           double precision NOT NULL DEFAULT 0   -- the last decision, to the second: a clock that is set back is seen by it
) WITH (fillfactor = 50);

-- What was admitted in each second: the sliding minute.
CREATE TABLE embed_pipeline.account_slots (
    account  text NOT NULL,
    second   bigint NOT NULL,
    requests bigint NOT NULL,
    tokens   bigint NOT NULL,
    PRIMARY KEY (account, second)
) WITH (fillfactor = 50);

-- Who was told to wait, one row per process. A row that is over `until` is of somebody who never came back.
CREATE TABLE embed_pipeline.account_waiters (
    account text NOT NULL,
    who     text NOT NULL,
    urgency integer NOT NULL,
    since   double precision NOT NULL,
    until   double precision NOT NULL,
    reason  text NOT NULL,
    PRIMARY KEY (account, who)
) WITH (fillfactor = 50);

-- What was asked for a version, charged before each request and corrected after it: who was killed in between has spent it.
-- No reference to index_versions: a plan of a version that is not registered costs money too.
CREATE TABLE embed_pipeline.spending (
    index_name      text NOT NULL,
    version         text NOT NULL,
    kind            text NOT NULL CHECK (kind IN ('query', 'dual-write', 'check', 'backfill', 'batch')),
    requests        bigint NOT NULL DEFAULT 0,
    tokens          bigint NOT NULL DEFAULT 0,
    unpriced_tokens bigint NOT NULL DEFAULT 0,  -- of `tokens`: those whose price nobody knew
    usd             numeric NOT NULL DEFAULT 0,
    PRIMARY KEY (index_name, version, kind)
) WITH (fillfactor = 50);

-- Now, by the clock of this server. Where that was set back, by a person or by a failover, the account's times go back with it: what was asked for
-- in the last minute still counts, and nobody waits for a time that will not come for an hour. The caller holds the account's row.
CREATE FUNCTION embed_pipeline.moment_of_account(account text, now double precision) RETURNS double precision
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $moment$
DECLARE
    moment double precision := coalesce($2, extract(epoch FROM clock_timestamp())::double precision);
    ahead  double precision;
    slots  embed_pipeline.account_slots[];
BEGIN
    SELECT p.seen_at - moment INTO ahead FROM embed_pipeline.provider_accounts p WHERE p.account = $1;
    IF ahead > 1 THEN
        UPDATE embed_pipeline.provider_accounts p
        SET next_at = p.next_at - ahead, blocked_until = p.blocked_until - ahead, cut_at = p.cut_at - ahead, seen_at = moment
        WHERE p.account = $1;
        UPDATE embed_pipeline.account_waiters w SET since = w.since - ahead, until = w.until - ahead WHERE w.account = $1;
        -- Out and in again: two of them may change places. Rounded to the later second, so that none counts for less than its minute.
        SELECT coalesce(array_agg(s), ARRAY[]::embed_pipeline.account_slots[]) INTO slots
        FROM embed_pipeline.account_slots s WHERE s.account = $1;
        DELETE FROM embed_pipeline.account_slots s WHERE s.account = $1;
        INSERT INTO embed_pipeline.account_slots (account, second, requests, tokens)
        SELECT s.account, s.second - floor(ahead)::bigint, s.requests, s.tokens FROM unnest(slots) AS s;
    ELSIF ahead < -0.5 THEN
        UPDATE embed_pipeline.provider_accounts p SET seen_at = moment WHERE p.account = $1;
    END IF;
    RETURN moment;
END $moment$;

-- May one request of about `tokens` tokens be sent now? `verdict` is go, wait (`seconds`, `reason`), budget or unpriced.
-- A request that is admitted is sent within a second, or asked for again. No minute [t, t + 60) at the provider then holds requests
-- admitted in more than 62 different seconds, and no 62 seconds in a row are given more than a limit.
CREATE FUNCTION embed_pipeline.admit(
    account text, index_name text, version text, kind text, urgency integer, tokens bigint, who text,
    max_requests bigint, max_tokens bigint, usd_per_million numeric, budget numeric, now double precision DEFAULT NULL,
    OUT verdict text, OUT seconds double precision, OUT slot bigint, OUT reason text, OUT spent numeric
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $admit$
#variable_conflict use_column
DECLARE
    -- Told apart from the columns of the same name.
    the_account alias FOR $1;
    the_tokens  alias FOR $6;
    a           embed_pipeline.provider_accounts;
    moment          double precision;
    later       double precision;
    requests_a_minute bigint;
    tokens_a_minute   bigint;
    used        record;
BEGIN
    seconds := 0; slot := 0; reason := ''; verdict := 'go';
    IF pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean THEN
        RETURN;  -- A reader of a standby can count nothing. Queries alone are asked there.
    END IF;
    SELECT p.* INTO a FROM embed_pipeline.provider_accounts p WHERE p.account = the_account FOR UPDATE;
    IF NOT FOUND THEN
        INSERT INTO embed_pipeline.provider_accounts (account) VALUES (the_account) ON CONFLICT DO NOTHING;
        SELECT p.* INTO a FROM embed_pipeline.provider_accounts p WHERE p.account = the_account FOR UPDATE;
    END IF;
    -- Read under the lock: the order of decisions is the order of their times.
    moment := embed_pipeline.moment_of_account(the_account, $12);
    SELECT p.* INTO a FROM embed_pipeline.provider_accounts p WHERE p.account = the_account;

    IF $11 IS NOT NULL AND $4 IN ('backfill', 'dual-write', 'batch') AND NOT EXISTS (
        SELECT FROM embed_pipeline.index_versions v WHERE v.index_name = $2 AND v.version = $3 AND v.state IN ('active', 'standby')
    ) THEN
        SELECT coalesce(sum(s.usd), 0) INTO spent FROM embed_pipeline.spending s WHERE s.index_name = $2 AND s.version = $3;
        verdict := CASE WHEN $10 IS NULL THEN 'unpriced' WHEN spent + the_tokens * $10 / 1000000 > $11 THEN 'budget' ELSE 'go' END;
        IF verdict <> 'go' THEN
            DELETE FROM embed_pipeline.account_waiters w WHERE w.account = the_account AND w.who = $7;
            RETURN;
        END IF;
    END IF;

    IF $4 <> 'batch' THEN  -- What a provider works off within a day is not counted in its minutes.
        -- After a cut what was measured is back within five minutes. A cut of work that had just begun measured next to nothing: from one request
        -- in five seconds on the rate doubles every twenty. The exponent is held to what bigint takes.
        requests_a_minute := least($8, a.learned_requests, floor(greatest(
            a.cut_requests * (1 + (moment - a.cut_at) / 300),
            CASE WHEN a.cut_early THEN 12 * power(2::double precision, least((moment - a.cut_at) / 20, 40)) END))::bigint);
        tokens_a_minute := least($9, a.learned_tokens);

        IF moment < a.blocked_until THEN
            later := a.blocked_until; reason := 'the provider asked to wait';
        END IF;
        IF later IS NULL AND $5 > 0 THEN
            SELECT max(w.until) - 0.98 INTO later FROM embed_pipeline.account_waiters w
            WHERE w.account = the_account AND w.urgency < $5 AND w.until > moment;
            reason := CASE WHEN later IS NULL THEN '' ELSE 'more urgent work goes first' END;
        END IF;
        -- The pace: background work leaves the minute even, so that what is urgent never finds it used up.
        IF later IS NULL AND $5 > 1 AND moment < a.next_at AND coalesce(requests_a_minute, tokens_a_minute) IS NOT NULL THEN
            later := a.next_at;
            reason := CASE WHEN coalesce(the_tokens::numeric / nullif(tokens_a_minute, 0), 0) > coalesce(1.0 / nullif(requests_a_minute, 0), 0)
                           THEN format('%s tokens a minute', tokens_a_minute) ELSE format('%s requests a minute', requests_a_minute) END;
        END IF;
        IF later IS NULL AND coalesce(requests_a_minute, tokens_a_minute) IS NOT NULL THEN
            -- The first second in which enough of the minute is over. What is larger than a whole minute waits for an empty one.
            SELECT f.second + 62 AS free, f.reason INTO used FROM (
                SELECT min(s.second) AS second, format('%s requests a minute', requests_a_minute) AS reason FROM (
                    SELECT s.second, sum(s.requests) OVER w AS freed, sum(s.requests) OVER () AS total
                    FROM embed_pipeline.account_slots s WHERE s.account = the_account AND s.second > floor(moment) - 62
                    WINDOW w AS (ORDER BY s.second)) s
                WHERE s.total + 1 > requests_a_minute AND s.total - s.freed + 1 <= greatest(requests_a_minute, 1)
                UNION ALL
                SELECT min(s.second), format('%s tokens a minute', tokens_a_minute) FROM (
                    SELECT s.second, sum(s.tokens) OVER w AS freed, sum(s.tokens) OVER () AS total
                    FROM embed_pipeline.account_slots s WHERE s.account = the_account AND s.second > floor(moment) - 62
                    WINDOW w AS (ORDER BY s.second)) s
                WHERE s.total > 0 AND s.total + the_tokens > tokens_a_minute
                  AND s.total - s.freed + least(the_tokens, tokens_a_minute) <= tokens_a_minute
            ) f WHERE f.second IS NOT NULL ORDER BY f.second DESC LIMIT 1;
            later := used.free; reason := coalesce(used.reason, '');
        END IF;

        IF later IS NOT NULL THEN
            verdict := 'wait';
            seconds := least(greatest(later - moment, 0.02), 5);  -- Asked again by then: limits change, and the dead are forgotten.
            INSERT INTO embed_pipeline.account_waiters AS w (account, who, urgency, since, until, reason)
            VALUES (the_account, $7, $5, moment, moment + seconds + 1, reason)
            ON CONFLICT (account, who) DO UPDATE SET urgency = excluded.urgency, until = excluded.until, reason = excluded.reason;
            RETURN;
        END IF;

        slot := floor(moment);
        INSERT INTO embed_pipeline.account_slots AS s (account, second, requests, tokens) VALUES (the_account, slot, 1, the_tokens)
        ON CONFLICT (account, second) DO UPDATE SET requests = s.requests + 1, tokens = s.tokens + excluded.tokens;
        DELETE FROM embed_pipeline.account_slots s WHERE s.account = the_account AND s.second <= slot - 62;
        DELETE FROM embed_pipeline.account_waiters w WHERE w.account = the_account AND (w.who = $7 OR w.until <= moment);
        -- Spread over 62.6 seconds, a hundredth more than the window: that is left for what does not keep the pace. One second may be
        -- caught up, so that a process that woke up late does not cost the minute its share.
        UPDATE embed_pipeline.provider_accounts p
        SET next_at = greatest(p.next_at, moment - 1)
            + 62.6 * greatest(coalesce(1.0 / nullif(requests_a_minute, 0), 0), coalesce(the_tokens::double precision / nullif(tokens_a_minute, 0), 0))
        WHERE p.account = the_account;
    END IF;
    INSERT INTO embed_pipeline.spending AS s (index_name, version, kind, requests, tokens, unpriced_tokens, usd)
    VALUES ($2, $3, $4, 1, the_tokens, CASE WHEN $10 IS NULL THEN the_tokens ELSE 0 END, coalesce(the_tokens * $10 / 1000000, 0))
    ON CONFLICT (index_name, version, kind) DO UPDATE
    SET requests = s.requests + 1, tokens = s.tokens + excluded.tokens,
        unpriced_tokens = s.unpriced_tokens + excluded.unpriced_tokens, usd = s.usd + excluded.usd;
END $admit$;

-- How an admitted request ended. `billed` is NULL when nothing was: its money comes back, its place in the minute does not, since a
-- provider counts what it refuses too.
CREATE FUNCTION embed_pipeline.settle(
    account text, index_name text, version text, kind text, slot bigint, estimated bigint, billed bigint,
    max_tokens bigint, usd_per_million numeric, learned_requests bigint, learned_tokens bigint,
    block_seconds double precision, too_fast boolean, now double precision DEFAULT NULL
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $settle$
#variable_conflict use_column
DECLARE
    moment double precision;
    more   bigint := coalesce($7, 0) - $6;
BEGIN
    IF pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean THEN
        RETURN;
    END IF;
    PERFORM FROM embed_pipeline.provider_accounts p WHERE p.account = $1 FOR UPDATE;
    moment := embed_pipeline.moment_of_account($1, $14);
    IF $7 IS NOT NULL AND more <> 0 THEN
        UPDATE embed_pipeline.account_slots s SET tokens = s.tokens + more WHERE s.account = $1 AND s.second = $5;
    END IF;
    UPDATE embed_pipeline.provider_accounts p
    SET learned_requests = coalesce($10, p.learned_requests), learned_tokens = coalesce($11, p.learned_tokens),
        blocked_until = greatest(p.blocked_until, moment + coalesce($12, 0)),
        next_at = p.next_at + CASE WHEN $7 IS NULL THEN 0 ELSE coalesce(62.6 * more / nullif(least($8, p.learned_tokens), 0), 0) END,
        -- Halved at most once in five seconds: the requests that were under way together say one thing, not many.
        cut_requests = CASE WHEN $13 AND moment - p.cut_at >= 5 THEN greatest(1, (
            SELECT coalesce(sum(s.requests), 0) FROM embed_pipeline.account_slots s WHERE s.account = $1 AND s.second > moment - 60) / 2.0)
            ELSE p.cut_requests END,
        cut_early = CASE WHEN $13 AND moment - p.cut_at >= 5 THEN NOT EXISTS (
            SELECT FROM embed_pipeline.account_slots s WHERE s.account = $1 AND s.second BETWEEN moment - 60 AND moment - 30)
            ELSE p.cut_early END,
        cut_at = CASE WHEN $13 AND moment - p.cut_at >= 5 THEN moment ELSE p.cut_at END
    WHERE p.account = $1;
    UPDATE embed_pipeline.spending s
    SET requests = s.requests - CASE WHEN $7 IS NULL THEN 1 ELSE 0 END, tokens = s.tokens + more,
        unpriced_tokens = s.unpriced_tokens + CASE WHEN $9 IS NULL THEN more ELSE 0 END,
        usd = s.usd + coalesce(more * $9 / 1000000, 0)
    WHERE s.index_name = $2 AND s.version = $3 AND s.kind = $4;
END $settle$;

-- Jobs at the providers' batch interfaces. The row stands before the job does: a process that dies between the two leaves a token, by which
-- the next one finds the job at the provider and does not pay for it again.
CREATE TABLE embed_pipeline.batch_jobs (
    token         text PRIMARY KEY,
    index_name    text NOT NULL,
    version       text NOT NULL,
    partition     text NOT NULL,
    doc_ids       text[] NOT NULL,
    is_last       boolean NOT NULL,     -- nothing of the partition was left to submit after it
    tokens        bigint NOT NULL,      -- as it was expected when the job was submitted
    job_id        text,                 -- the provider's; NULL while nobody knows whether it was submitted
    intended_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    submitted_at  timestamptz,
    collected_at  timestamptz,
    ended         text NOT NULL DEFAULT '',  -- how, in the provider's words
    FOREIGN KEY (index_name, version) REFERENCES embed_pipeline.index_versions
);
CREATE INDEX batch_jobs_of_partition ON embed_pipeline.batch_jobs (index_name, version, partition);

-- The vectors of the held-out queries that a version was last judged on, in its own space. Of each query's text only the hash: the set has the text.
CREATE TABLE embed_pipeline.holdout_vectors (
    index_name     text NOT NULL,
    version        text NOT NULL,
    query_sha256   bytea NOT NULL,
    holdout_sha256 text NOT NULL,
    vector         bytea NOT NULL,      -- float32, little-endian
    kept_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (index_name, version, query_sha256),
    FOREIGN KEY (index_name, version) REFERENCES embed_pipeline.index_versions
);

-- What each version's model answered to a few fixed texts before it embedded any document: a provider that changes a model behind its
-- name is found by asking again. The texts stand beside their vectors, so that a later package with other texts compares like with like.
CREATE TABLE embed_pipeline.model_samples (
    index_name    text NOT NULL,
    version       text NOT NULL,
    texts         bytea[] NOT NULL,     -- UTF-8, whatever this database is encoded in
    vectors       bytea NOT NULL,       -- float32, little-endian, one row of the version's dimensions for each text
    late          boolean NOT NULL,     -- documents had vectors already: of those it proves nothing
    taken_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    agreed_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    checked_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    lowest_cosine double precision,
    changed_at    timestamptz,          -- since when the model is known to be another one; NULL while it is the same
    PRIMARY KEY (index_name, version),
    FOREIGN KEY (index_name, version) REFERENCES embed_pipeline.index_versions
);

-- What SQL alone can tell of what needs a person (report/attention.py, whose words `reasons` are): one row for each index. The documents, the
-- triggers on them and the stores are not looked at: of those `embed-pipeline health` knows.
CREATE VIEW embed_pipeline.health AS
    WITH told AS (
        SELECT p.index_name, p.version, count(*) AS waiting, min(p.since) AS since FROM embed_pipeline.pending p GROUP BY 1, 2
    ), untold AS (
        SELECT i.index_name, sum(cardinality(i.doc_ids)) AS waiting, min(i.at) AS since FROM embed_pipeline.inbox i GROUP BY 1
    ), refused AS (
        SELECT d.index_name, d.version, count(*) AS documents FROM embed_pipeline.dead_letters d GROUP BY 1, 2
    ), live AS (
        SELECT v.index_name, v.version, v.fingerprint, coalesce(t.waiting, 0) + coalesce(u.waiting, 0) AS waiting,
               greatest(extract(epoch FROM clock_timestamp() - least(t.since, u.since)), 0)::double precision AS oldest_seconds,
               coalesce(r.documents, 0) AS dead_letters, m.changed_at
        FROM embed_pipeline.index_versions v
        LEFT JOIN told t USING (index_name, version) LEFT JOIN untold u USING (index_name) LEFT JOIN refused r USING (index_name, version)
        LEFT JOIN embed_pipeline.model_samples m USING (index_name, version)
        WHERE v.state <> 'retired'
    ), seen AS (
        SELECT s.index_name, s.version, s.route, s.generation, coalesce(s.refine_version, s.query_version, s.version) AS judged, c.state AS control,
               (SELECT count(*) FROM embed_pipeline.doubts d WHERE d.index_name = s.index_name) AS doubts, e.at AS compared_at,
               (SELECT coalesce(sum(q.value::bigint), 0)::bigint FROM jsonb_each_text(e.detail -> 'queued') q) AS differences
        FROM embed_pipeline.serving s LEFT JOIN embed_pipeline.control c USING (index_name)
        LEFT JOIN LATERAL (SELECT a.at, a.detail FROM embed_pipeline.audit_events a
                           WHERE a.index_name = s.index_name AND a.event = 'reconcile' ORDER BY a.id DESC LIMIT 1) e ON true
    ), found AS (
        SELECT n.*, l.waiting, l.oldest_seconds, l.dead_letters, array_remove(ARRAY[
            CASE WHEN n.doubts > 0 THEN 'doubt' END,
            CASE WHEN EXISTS (SELECT FROM live o WHERE o.index_name = n.index_name AND o.changed_at IS NOT NULL) THEN 'model_changed' END,
            -- A version by itself serves by any verdict that it ever passed by: a rollback asks for no new one.
            CASE WHEN n.version IS NOT NULL AND NOT coalesce(CASE n.route
                     WHEN 'direct' THEN EXISTS (SELECT FROM embed_pipeline.gate_evidence g WHERE g.index_name = n.index_name
                                                AND g.version = n.version AND g.route = 'direct' AND g.outcome = 'pass')
                     ELSE (SELECT g.outcome = 'pass' FROM embed_pipeline.gate_evidence g
                           WHERE g.index_name = n.index_name AND g.version = n.judged AND g.route = n.route ORDER BY g.id DESC LIMIT 1)
                 END, false) THEN 'no_evidence' END,
            CASE WHEN EXISTS (SELECT FROM live o WHERE o.index_name = n.index_name AND o.waiting > 0 AND o.oldest_seconds > 60) THEN 'queue' END,
            CASE WHEN EXISTS (SELECT FROM live o WHERE o.index_name = n.index_name AND o.dead_letters > 0) THEN 'dead_letters' END,
            CASE WHEN EXISTS (SELECT FROM live o JOIN embed_pipeline.searchers r
                                  ON r.index_name = o.index_name AND r.cannot ->> o.fingerprint IS NOT NULL
                              WHERE o.index_name = n.index_name
                                AND abs(extract(epoch FROM clock_timestamp() - r.seen_at)) < 180) THEN 'reader_left_behind' END,
            CASE WHEN n.control <> 'running' THEN 'held' END,
            CASE WHEN (SELECT w.outcome IN ('fail', 'unknown') FROM embed_pipeline.watch_looks w
                       WHERE w.index_name = n.index_name AND w.generation = n.generation AND w.outcome IS NOT NULL
                       ORDER BY w.look DESC LIMIT 1) THEN 'watch' END,
            CASE WHEN n.differences > 0 AND n.doubts = 0 THEN 'bypassed' END,
            CASE WHEN EXISTS (SELECT FROM embed_pipeline.index_versions v WHERE v.index_name = n.index_name
                              AND v.state = 'retired' AND v.dropped_at IS NULL) THEN 'retire_unfinished' END], NULL) AS reasons
        FROM seen n LEFT JOIN live l ON l.index_name = n.index_name AND l.version = n.version
    )
    SELECT index_name, cardinality(reasons) = 0 AS well, reasons, version, route, generation, control, waiting, oldest_seconds, dead_letters,
           doubts, compared_at, differences
    FROM found;

-- Readers may use the schema, and a new function is everybody's. Theirs are these six, and two of each index (documents/capture.sql): who may
-- only read stops no migration, uses up no account, and lends no function of ours to a trigger on a table of its own
-- (docs/how-to/least-privilege.md).
DO $rights$
DECLARE
    ours regprocedure;
BEGIN
    FOR ours IN
        SELECT p.oid FROM pg_catalog.pg_proc p
        WHERE p.pronamespace = 'embed_pipeline'::regnamespace AND p.proname <> ALL (ARRAY['search', 'search_refined', 'doubtful', 'gone', 'note_read', 'note_searcher'])
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                          WHERE d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', ours);
    END LOOP;
END $rights$;
