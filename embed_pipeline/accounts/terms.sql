-- name: keep_terms
INSERT INTO embed_pipeline.terms AS t (index_name, terms) VALUES (%(index)s, %(terms)s)
ON CONFLICT (index_name) DO UPDATE SET terms = excluded.terms WHERE t.terms <> excluded.terms

-- name: terms
SELECT terms FROM embed_pipeline.terms WHERE index_name = %(index)s

-- name: admit
SELECT verdict, seconds, slot, reason, spent FROM embed_pipeline.admit(
    %(account)s, %(index)s, %(version)s, %(kind)s, %(urgency)s, %(tokens)s, %(who)s, %(max_requests)s, %(max_tokens)s,
    %(usd_per_million)s::numeric, %(budget)s::numeric, %(now)s)

-- name: settle
SELECT embed_pipeline.settle(
    %(account)s, %(index)s, %(version)s, %(kind)s, %(slot)s, %(estimated)s, %(billed)s, %(max_tokens)s, %(usd_per_million)s::numeric,
    %(learned_requests)s, %(learned_tokens)s, %(block_seconds)s, %(too_fast)s, %(now)s)

-- name: spending
SELECT version, kind, requests, tokens, CASE WHEN unpriced_tokens = 0 THEN usd::double precision END
FROM embed_pipeline.spending WHERE index_name = %(index)s ORDER BY version, kind

-- name: account_state
SELECT greatest(a.blocked_until - extract(epoch FROM clock_timestamp())::double precision, 0), a.learned_requests, a.learned_tokens,
       coalesce(sum(s.requests), 0)::bigint, coalesce(sum(s.tokens), 0)::bigint
FROM embed_pipeline.provider_accounts a
LEFT JOIN embed_pipeline.account_slots s
    ON s.account = a.account AND s.second > extract(epoch FROM clock_timestamp())::double precision - 60
WHERE a.account = %(account)s
GROUP BY a.account

-- name: account_waits
SELECT urgency, reason, greatest(extract(epoch FROM clock_timestamp())::double precision - since, 0)
FROM embed_pipeline.account_waiters
WHERE account = %(account)s AND until > extract(epoch FROM clock_timestamp())::double precision
ORDER BY urgency, since LIMIT 1
