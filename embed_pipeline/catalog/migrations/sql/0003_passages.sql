-- Where a chunk stands in its document, for versions that are there already (new ones have the columns from the start), in the
-- view of provenance and in the answers of embed_pipeline.search.

-- ADD COLUMN of a nullable column rewrites nothing, but its lock meets every search. All locks are asked for together and briefly; a
-- try that does not get one lets go of all, so that searches never queue behind it for longer than two seconds.
DO $passages$
DECLARE
    one   text;
    known text[];
BEGIN
    SELECT coalesce(array_agg(format('embed_pipeline.%I', v.index_name || '__' || v.version || '__vectors')
                              ORDER BY v.index_name, v.version), '{{}}')
    INTO known
    FROM embed_pipeline.index_versions v
    WHERE v.dropped_at IS NULL
      AND to_regclass(format('embed_pipeline.%I', v.index_name || '__' || v.version || '__vectors')) IS NOT NULL;
    PERFORM set_config('lock_timeout', '2s', true);
    FOR attempt IN 1 .. 15 LOOP
        BEGIN
            FOREACH one IN ARRAY known LOOP
                EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', one);
            END LOOP;
            EXIT;
        EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
            IF attempt = 15 THEN
                RAISE;
            END IF;
            PERFORM pg_sleep(least(0.1 * 2 ^ attempt, 5));
        END;
    END LOOP;
    FOREACH one IN ARRAY known LOOP
        EXECUTE format('ALTER TABLE %s ADD COLUMN IF NOT EXISTS passage_start integer, ADD COLUMN IF NOT EXISTS passage_end integer', one);
    END LOOP;
END $passages$;

-- The view as it stands, with the two columns at its end: one branch for each version that dual-writes reach.
DO $provenance$
DECLARE
    branches text;
BEGIN
    SELECT string_agg(format(
        'SELECT %L::text AS index, %L::text AS version, (d.doc_id COLLATE "default") AS doc_id, v.chunk, d.model_name, d.model_version,'
        ' d.fingerprint, encode(d.source_hash, ''hex'') AS source_hash, d.embedded_at, v.passage_start, v.passage_end'
        ' FROM embed_pipeline.%I d JOIN embed_pipeline.%I v USING (doc_id)',
        v.index_name, v.version, v.index_name || '__' || v.version || '__documents', v.index_name || '__' || v.version || '__vectors'),
        ' UNION ALL ' ORDER BY v.index_name, v.created_at, v.version)
    INTO branches
    FROM embed_pipeline.index_versions v WHERE v.state <> 'retired';
    EXECUTE 'CREATE OR REPLACE VIEW embed_pipeline.provenance AS ' || coalesce(branches,
        'SELECT NULL::text AS index, NULL::text AS version, NULL::text AS doc_id, NULL::integer AS chunk, NULL::text AS model_name,'
        ' NULL::text AS model_version, NULL::text AS fingerprint, NULL::text AS source_hash, NULL::timestamptz AS embedded_at,'
        ' NULL::integer AS passage_start, NULL::integer AS passage_end WHERE false');
END $provenance$;

-- What a function returns cannot be changed by CREATE OR REPLACE, so it is made anew, and who may execute it is kept.
SELECT set_config('embed_pipeline.search_rights', coalesce(p.proacl::text, ''), true)
FROM pg_catalog.pg_proc p WHERE p.oid = 'embed_pipeline.search(text, text, text, {vector_schema}.vector, integer, boolean)'::regprocedure;

DROP FUNCTION embed_pipeline.search(text, text, text, {vector_schema}.vector, integer, boolean);

CREATE FUNCTION embed_pipeline.search(
    index_name text, version text, fingerprint text, query {vector_schema}.vector, k integer DEFAULT 10, exact boolean DEFAULT false
) RETURNS TABLE (doc_id text, chunk integer, distance double precision, passage_start integer, passage_end integer)
    LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, {vector_schema}, pg_temp AS $search$
#variable_conflict use_column
DECLARE
    target    embed_pipeline.index_versions;
    operator  text;
    vectors   text;
    iterative text;
    furthest  text;
    asked     bigint;
    given     bigint;
    ids       text[];
    chunks    integer[];
    distances double precision[];
    starts    integer[];
    ends      integer[];
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
    vectors := $1 || '__' || $2 || '__vectors';
    PERFORM embed_pipeline.note_read($1, $2);
    PERFORM set_config('hnsw.ef_search', greatest($5, (target.spec #>> '{{hnsw,ef_search}}')::integer)::text, true);

    IF target.spec #>> '{{chunker,kind}}' IS NULL THEN
        PERFORM set_config('enable_indexscan', CASE WHEN $6 THEN 'off' ELSE 'on' END, true);
        RETURN QUERY EXECUTE format(
            'SELECT v.doc_id::text, v.chunk, (v.embedding %1$s $1::%2$s)::double precision, v.passage_start, v.passage_end'
            ' FROM embed_pipeline.%3$I v ORDER BY v.embedding %1$s $1::%2$s LIMIT $2',
            operator, target.precision, vectors) USING $4, $5;
        PERFORM set_config('enable_indexscan', 'on', true);
        RETURN;
    END IF;

    -- With a chunker: k documents. The index knows passages, and is asked for more and more until they are of k documents.
    asked := 4 * $5;
    IF NOT $6 THEN
        iterative := coalesce(current_setting('hnsw.iterative_scan', true), 'off');
        furthest := coalesce(current_setting('hnsw.max_scan_tuples', true), '20000');
        PERFORM set_config('hnsw.iterative_scan', 'strict_order', true), set_config('hnsw.max_scan_tuples', '2147483647', true);
    END IF;
    WHILE NOT $6 LOOP
        EXECUTE format(
            'WITH n AS MATERIALIZED ('
            '  SELECT v.doc_id, v.chunk, (v.embedding %1$s $1::%2$s)::double precision AS distance, v.passage_start, v.passage_end'
            '  FROM embed_pipeline.%3$I v ORDER BY v.embedding %1$s $1::%2$s LIMIT $3'
            '), f AS ('
            '  SELECT d.* FROM (SELECT DISTINCT ON (n.doc_id) n.* FROM n ORDER BY n.doc_id, n.distance, n.chunk) d'
            '  ORDER BY d.distance, d.doc_id LIMIT $2'
            ') SELECT (SELECT count(*) FROM n), array_agg(f.doc_id::text ORDER BY f.distance, f.doc_id),'
            '         array_agg(f.chunk ORDER BY f.distance, f.doc_id), array_agg(f.distance ORDER BY f.distance, f.doc_id),'
            '         array_agg(f.passage_start ORDER BY f.distance, f.doc_id), array_agg(f.passage_end ORDER BY f.distance, f.doc_id)'
            ' FROM f', operator, target.precision, vectors)
            INTO given, ids, chunks, distances, starts, ends USING $4, $5, asked;
        EXIT WHEN cardinality(ids) >= $5 OR given < asked;
        asked := 4 * asked;
    END LOOP;
    IF NOT $6 THEN
        PERFORM set_config('hnsw.iterative_scan', iterative, true), set_config('hnsw.max_scan_tuples', furthest, true);
    END IF;
    IF cardinality(ids) >= $5 THEN
        RETURN QUERY SELECT u.a, u.b, u.c, u.d, u.e FROM unnest(ids, chunks, distances, starts, ends) WITH ORDINALITY u(a, b, c, d, e, n) ORDER BY u.n;
        RETURN;
    END IF;
    -- Asked to, or the index had no more to give: every vector is compared.
    RETURN QUERY EXECUTE format(
        'SELECT f.doc_id::text, f.chunk, f.distance, f.passage_start, f.passage_end FROM ('
        '  SELECT DISTINCT ON (v.doc_id) v.doc_id, v.chunk, (v.embedding %1$s $1::%2$s)::double precision AS distance,'
        '         v.passage_start, v.passage_end'
        '  FROM embed_pipeline.%3$I v ORDER BY v.doc_id, distance, v.chunk) f'
        ' ORDER BY f.distance, f.doc_id LIMIT $2', operator, target.precision, vectors) USING $4, $5;
END $search$;

DO $rights$
DECLARE
    kept    aclitem[] := nullif(current_setting('embed_pipeline.search_rights'), '')::aclitem[];
    granted record;
BEGIN
    IF kept IS NULL THEN
        RETURN;  -- Nobody ever said who may: everybody, as for any new function.
    END IF;
    REVOKE EXECUTE ON FUNCTION embed_pipeline.search(text, text, text, {vector_schema}.vector, integer, boolean) FROM PUBLIC;
    FOR granted IN SELECT grantee, is_grantable FROM aclexplode(kept) WHERE privilege_type = 'EXECUTE' LOOP
        EXECUTE format(
            'GRANT EXECUTE ON FUNCTION embed_pipeline.search(text, text, text, {vector_schema}.vector, integer, boolean) TO %s%s',
            CASE WHEN granted.grantee = 0 THEN 'PUBLIC' ELSE granted.grantee::regrole::text END,
            CASE WHEN granted.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
    END LOOP;
END $rights$;
