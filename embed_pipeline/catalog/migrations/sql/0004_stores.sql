-- The store of an index as it was declared (never with a secret), and what its points carry beside their vectors: a Searcher opens the
-- store from here. store_kind stays, for who reads it; every index that is there already is in tables.
ALTER TABLE embed_pipeline.indexes
    ADD COLUMN store jsonb NOT NULL DEFAULT '{{"kind": "pgvector"}}',
    ADD COLUMN payload_columns text[] NOT NULL DEFAULT '{{}}',
    ADD COLUMN payload_object text,
    ADD CONSTRAINT store_is_of_its_kind CHECK (store ->> 'kind' = store_kind);

-- As it was, and it says so when the vectors of an index are elsewhere. Who may execute it stays.
CREATE OR REPLACE FUNCTION embed_pipeline.search(
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
    -- Asked of the table itself: who may search needs no right to read what is declared.
    IF to_regclass(format('embed_pipeline.%I', vectors)) IS NULL THEN
        RAISE EXCEPTION 'the vectors of version % of index % are not in this database', $2, $1
            USING ERRCODE = 'undefined_table',
                  HINT = 'Its store is elsewhere: search with embed_pipeline.Searcher, or ask that store (docs/reference/sql.md).';
    END IF;
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
