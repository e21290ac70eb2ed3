-- name: scratch
CREATE TEMP TABLE in_place (number integer PRIMARY KEY, embedding {schema}.vector(384))

-- name: put
INSERT INTO in_place VALUES (%(number)s, %(vector)s) ON CONFLICT (number) DO UPDATE SET embedding = excluded.embedding

-- name: nearest
SELECT number FROM in_place ORDER BY embedding OPERATOR({schema}.<=>) %(query)s LIMIT 10

-- name: stored
SELECT v.doc_id, v.embedding, v.fingerprint, v.embedded_at FROM {table} AS v WHERE v.doc_id = ANY (%(doc_ids)s)
