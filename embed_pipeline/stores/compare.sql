-- name: slice_as_known
-- Whether neither side of a slice has changed since it was known to be equal: each document has its row, and none a dead letter. To look up
-- all ids at once costs half of looking up each.
WITH documents AS MATERIALIZED (SELECT {doc_id} AS doc_id, {document_unchanged} AS is_unchanged FROM {documents} AS d WHERE {in_range})
SELECT d.documents, d.are_unchanged AND v.unchanged = d.documents AND NOT EXISTS (
           SELECT FROM embed_pipeline.dead_letters l WHERE l.index_name = %(index)s AND l.version = %(version)s), v.counted
FROM (SELECT count(*) AS documents, coalesce(bool_and(is_unchanged), true) AS are_unchanged FROM documents) AS d
CROSS JOIN (
    SELECT count(*) FILTER (WHERE {row_unchanged}) AS unchanged, count(*) FILTER (WHERE {is_counted}) AS counted
    FROM {stored} AS v WHERE v.doc_id = ANY (ARRAY(SELECT doc_id FROM documents)) {first_chunk}
) AS v

-- name: slice
-- Every document of a slice against what is stored of it, in one snapshot with what is announced: pending, or still in the inbox. The text
-- is hashed only where it may differ, and the inbox is read only where something does.
WITH announced AS MATERIALIZED (
    SELECT u.doc_id COLLATE "C" AS doc_id FROM embed_pipeline.inbox i CROSS JOIN unnest(i.doc_ids) AS u(doc_id)
    WHERE i.index_name = %(index)s
)
SELECT count(*), count(*) FILTER (WHERE c.verdict = 'current'), count(*) FILTER (WHERE c.verdict = 'dead'),
       count(*) FILTER (WHERE c.verdict NOT IN ('current', 'dead') AND c.pending),
       coalesce(array_agg(c.doc_id ORDER BY c.doc_id) FILTER (WHERE c.verdict NOT IN ('current', 'dead') AND NOT c.pending), ARRAY[]::text[]),
       coalesce(array_agg(c.verdict ORDER BY c.doc_id) FILTER (WHERE c.verdict NOT IN ('current', 'dead') AND NOT c.pending), ARRAY[]::text[]),
       count(*) FILTER (WHERE c.is_counted)
FROM (
    SELECT j.doc_id, j.verdict, j.is_counted,
           j.verdict NOT IN ('current', 'dead') AND (EXISTS (
               SELECT FROM embed_pipeline.pending p
               WHERE p.index_name || '' = %(index)s AND p.version || '' = %(version)s AND p.doc_id = j.doc_id)
               OR j.doc_id IN (SELECT a.doc_id FROM announced a)) AS pending
    FROM (
        SELECT {doc_id} AS doc_id,
               CASE
                   WHEN v.doc_id IS NULL THEN CASE
                       WHEN l.source_hash = {source_hash} OR octet_length({doc_id}) > {longest_id} THEN 'dead' ELSE 'missing' END
                   WHEN l.doc_id IS NOT NULL THEN 'stale'
                   WHEN ({document_unchanged} AND {row_unchanged}) IS NOT TRUE AND ({differs}) THEN 'stale'
                   WHEN NOT ({is_whole}) THEN 'wrong_chunks'
                   ELSE 'current'
               END AS verdict,
               coalesce({is_counted}, false) AS is_counted
        FROM {documents} AS d
        LEFT JOIN {stored} AS v ON v.doc_id = {doc_id} {first_chunk}
        LEFT JOIN embed_pipeline.dead_letters AS l
            ON l.index_name = %(index)s AND l.version = %(version)s AND l.doc_id = {doc_id}
        WHERE {in_range}
    ) AS j
) AS c

-- name: orphans
-- Of these ids those that are no document and are still stored, or have a dead letter, and whether that is announced: since they were listed
-- a worker may have done it. A TRUNCATE that waits announces none of them: it may have been expanded past this one before a backfill
-- inserted it.
WITH announced AS MATERIALIZED (
    SELECT u.doc_id COLLATE "C" AS doc_id FROM embed_pipeline.inbox i CROSS JOIN unnest(i.doc_ids) AS u(doc_id)
    WHERE i.index_name = %(index)s
)
SELECT w.doc_id,
       EXISTS (SELECT FROM embed_pipeline.pending p
               WHERE p.index_name || '' = %(index)s AND p.version || '' = %(version)s AND p.doc_id = w.doc_id)
       OR w.doc_id COLLATE "C" IN (SELECT a.doc_id FROM announced a)
FROM unnest(%(doc_ids)s::text[]) AS w(doc_id)
WHERE NOT EXISTS (SELECT FROM {documents} AS d WHERE {key_is_wanted})
  AND (EXISTS (SELECT FROM {stored} AS v WHERE v.doc_id = w.doc_id)
       OR EXISTS (SELECT FROM embed_pipeline.dead_letters l
                  WHERE l.index_name = %(index)s AND l.version = %(version)s AND l.doc_id = w.doc_id))

-- name: letters
SELECT doc_id FROM embed_pipeline.dead_letters
WHERE index_name = %(index)s AND version = %(version)s AND (%(after)s::text IS NULL OR doc_id > %(after)s::text) ORDER BY doc_id LIMIT %(limit)s
