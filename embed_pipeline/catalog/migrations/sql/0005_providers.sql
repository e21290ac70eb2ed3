-- Accounts with providers: limits that all processes keep together, and what each version has cost (docs/decisions/0018).

-- What an index declares of its accounts, prices and budget, never with a secret: a Searcher knows nothing but the database.
CREATE TABLE embed_pipeline.terms (
    index_name text PRIMARY KEY REFERENCES embed_pipeline.indexes,
    terms      jsonb NOT NULL
);

-- One row per account: whoever decides about it holds this row. Times are seconds since 1970 by the clock of this server.
CREATE TABLE embed_pipeline.provider_accounts (
    account           text PRIMARY KEY,
    next_at           double precision NOT NULL DEFAULT 0,  -- when background work may be admitted again, by the pace
    blocked_until     double precision NOT NULL DEFAULT 0,  -- what the provider asked for
    learned_requests  bigint,                               -- limits per minute, from the headers of its answers
    learned_tokens    bigint,
    cut_requests      double precision,                     -- requests per minute after the last cut, and when that was
    cut_at            double precision NOT NULL DEFAULT 0
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
    moment := coalesce($12, extract(epoch FROM clock_timestamp())::double precision);

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
        requests_a_minute := least($8, a.learned_requests, floor(a.cut_requests * (1 + (moment - a.cut_at) / 300))::bigint);
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
    a      embed_pipeline.provider_accounts;
    moment     double precision;
    more   bigint := coalesce($7, 0) - $6;
BEGIN
    IF pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean THEN
        RETURN;
    END IF;
    SELECT p.* INTO a FROM embed_pipeline.provider_accounts p WHERE p.account = $1 FOR UPDATE;
    moment := coalesce($14, extract(epoch FROM clock_timestamp())::double precision);
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
        cut_at = CASE WHEN $13 AND moment - p.cut_at >= 5 THEN moment ELSE p.cut_at END
    WHERE p.account = $1;
    UPDATE embed_pipeline.spending s
    SET requests = s.requests - CASE WHEN $7 IS NULL THEN 1 ELSE 0 END, tokens = s.tokens + more,
        unpriced_tokens = s.unpriced_tokens + CASE WHEN $9 IS NULL THEN more ELSE 0 END,
        usd = s.usd + coalesce(more * $9 / 1000000, 0)
    WHERE s.index_name = $2 AND s.version = $3 AND s.kind = $4;
END $settle$;

-- Who may read may not use up an account or a budget: docs/how-to/least-privilege.md says who needs them.
REVOKE ALL ON FUNCTION
    embed_pipeline.admit(text, text, text, text, integer, bigint, text, bigint, bigint, numeric, numeric, double precision),
    embed_pipeline.settle(text, text, text, text, bigint, bigint, bigint, bigint, numeric, bigint, bigint, double precision, boolean,
        double precision) FROM PUBLIC;
