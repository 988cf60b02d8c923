-- Usage: one row an exchange. Every bound of time is a bound of id, so that PostgreSQL reads only the days asked for.

-- name: partitions(moments)
-- Make the partition of the UTC day of each moment. Alone, because two processes that make the same one would collide.
WITH alone AS MATERIALIZED (SELECT pg_advisory_xact_lock(8020141101))
SELECT usage_partitions(moment, moment) FROM alone, unnest($1::timestamptz[]) AS moment

-- name: forget(moment)
-- Drop the partitions of the days before that of `moment`; how many there were.
SELECT usage_forget($1) AS dropped FROM pg_advisory_xact_lock(8020141101), set_config('lock_timeout', '2s', true)

-- name: ship(zone)
-- Add the rows in `incoming`, the columns of usage in their order, to usage, without those that are there already, and what
-- is new to the sums. The order keeps two processes from waiting for each other.
WITH added AS (
    INSERT INTO usage SELECT
        (line ->> 0)::uuid, to_timestamp((line ->> 1)::float8), (line ->> 2)::uuid, line ->> 3, (line ->> 4)::uuid,
        line ->> 5, line ->> 6, line ->> 7, line ->> 8, line ->> 9, (line ->> 10)::bigint, (line ->> 11)::bigint,
        (line ->> 12)::boolean, (line ->> 13)::float8, (line ->> 14)::float8, (line ->> 15)::smallint, line ->> 16,
        line ->> 17, (line ->> 18)::boolean, (line ->> 19)::bigint, (line ->> 20)::bigint, (line ->> 21)::boolean,
        line ->> 22, line ->> 23, to_timestamp((line ->> 24)::float8)
    FROM incoming
    ON CONFLICT DO NOTHING RETURNING *
)
INSERT INTO usage_hours AS known
SELECT usage_hour(COALESCE(charged_at, created_at), $1), user_id, username,
    COALESCE(key_id, '00000000-0000-0000-0000-000000000000'), gateway, COALESCE(model, model_asked, ''),
    COALESCE(node, ''), count(*), count(*) FILTER (WHERE outcome = 'ok'), count(*) FILTER (WHERE outcome = 'failed'),
    count(*) FILTER (WHERE outcome = 'cancelled'), count(*) FILTER (WHERE outcome = 'refused'),
    count(*) FILTER (WHERE estimated), COALESCE(sum(prompt_tokens), 0), COALESCE(sum(output_tokens), 0),
    sum(duration_ms), COALESCE(sum(ttft_ms), 0), count(ttft_ms),
    count(*) FILTER (WHERE node IS NOT NULL AND operation IN ('chat', 'generate', 'embed')), 0
FROM added
GROUP BY 1, 2, 3, 4, 5, 6, 7
ORDER BY 1, 2, 3, 4, 5, 6, 7
ON CONFLICT (hour, user_id, username, key_id, gateway, model, node, correction) DO UPDATE SET
    requests = known.requests + excluded.requests,
    ok = known.ok + excluded.ok,
    failed = known.failed + excluded.failed,
    cancelled = known.cancelled + excluded.cancelled,
    refused = known.refused + excluded.refused,
    estimated = known.estimated + excluded.estimated,
    prompt_tokens = known.prompt_tokens + excluded.prompt_tokens,
    output_tokens = known.output_tokens + excluded.output_tokens,
    duration_ms = known.duration_ms + excluded.duration_ms,
    ttft_ms = known.ttft_ms + excluded.ttft_ms,
    ttft_count = known.ttft_count + excluded.ttft_count,
    asked = known.asked + excluded.asked

-- name: known(username)
-- Whether there is such a user, or was one: what was used outlives users. `id`: of the one that there is.
SELECT found.id, found.id IS NOT NULL OR EXISTS (SELECT FROM usage_hours WHERE lower(username) = lower($1)) AS known
FROM (SELECT (SELECT id FROM users WHERE lower(username) = lower($1)) AS id) AS found

-- name: totals(user_id, username, gateway, day, hour, until)
-- Tokens and requests by gateway since the start of the day and since the start of the hour: the requests that limits
-- count, so that they and what remains are what there is.
SELECT gateway,
    sum(asked)::bigint AS day_requests,
    sum(prompt_tokens + output_tokens)::bigint AS day_tokens,
    COALESCE(sum(asked) FILTER (WHERE hour >= $5), 0)::bigint AS hour_requests,
    COALESCE(sum(prompt_tokens + output_tokens) FILTER (WHERE hour >= $5), 0)::bigint AS hour_tokens
FROM usage_hours
WHERE ($1::uuid IS NULL OR user_id = $1) AND ($2::text IS NULL OR lower(username) = lower($2))
    AND ($3::text IS NULL OR gateway = $3) AND hour >= $4 AND hour < $6
GROUP BY gateway
ORDER BY gateway

-- name: reach()
-- The first and the last hour that have sums; null: there are none.
SELECT min(hour) AS first, max(hour) AS last FROM usage_hours

-- name: report(by, days, user_id, username, gateway, model, key_id, node, since, until, a, b, c, d, e, f, limit)
-- Totals by what `by` names; in place of the rest stands nothing. After the line at (a, b, c, d, e, f), at most `limit`.
-- `days`: when each day began, in order; date_trunc in a time zone takes as long as all sums of a row.
SELECT at, username, key_id, gateway, model, node,
    sum(requests)::bigint AS requests,
    sum(ok)::bigint AS ok,
    sum(failed)::bigint AS failed,
    sum(cancelled)::bigint AS cancelled,
    sum(refused)::bigint AS refused,
    sum(prompt_tokens)::bigint AS prompt_tokens,
    sum(output_tokens)::bigint AS output_tokens,
    (sum(prompt_tokens) + sum(output_tokens))::bigint AS total_tokens,
    sum(duration_ms) / NULLIF(sum(requests), 0) AS mean_duration_ms,
    sum(ttft_ms) / NULLIF(sum(ttft_count), 0) AS mean_ttft_ms
FROM (
    SELECT
        CASE WHEN 'hour' = ANY ($1::text[]) THEN hour
             WHEN 'day' = ANY ($1) THEN ($2::timestamptz[])[width_bucket(hour, $2)]
             ELSE 'epoch' END AS at,
        CASE WHEN 'user' = ANY ($1) THEN username ELSE '' END AS username,
        CASE WHEN 'key' = ANY ($1) THEN key_id ELSE '00000000-0000-0000-0000-000000000000' END AS key_id,
        CASE WHEN 'gateway' = ANY ($1) THEN gateway ELSE '' END AS gateway,
        CASE WHEN 'model' = ANY ($1) THEN model ELSE '' END AS model,
        CASE WHEN 'node' = ANY ($1) THEN node ELSE '' END AS node,
        requests, ok, failed, cancelled, refused, prompt_tokens, output_tokens, duration_ms, ttft_ms, ttft_count
    FROM usage_hours
    WHERE ($3::uuid IS NULL OR user_id = $3) AND ($4::text IS NULL OR lower(username) = lower($4))
        AND ($5::text IS NULL OR gateway = $5) AND ($6::text[] IS NULL OR model = ANY ($6))
        AND ($7::uuid IS NULL OR key_id = $7) AND ($8::text IS NULL OR node = $8)
        AND ($9::timestamptz IS NULL OR hour >= $9) AND ($10::timestamptz IS NULL OR hour < $10)
) AS parts
WHERE $11::timestamptz IS NULL
    OR (at, username, key_id, gateway, model, node) > ($11, $12::text, $13::uuid, $14::text, $15::text, $16::text)
GROUP BY at, username, key_id, gateway, model, node
ORDER BY at, username, key_id, gateway, model, node
LIMIT $17::bigint

-- name: rows(user_id, username, gateway, models, key_id, node, since, until, after, limit)
-- Single rows, oldest first, at most `limit` after the one with the id `after`; models are the spellings of one name, as
-- asked or as served.
SELECT id, created_at, username, key_id, gateway, operation, model_asked, model, node, prompt_tokens, output_tokens,
    estimated, ttft_ms, duration_ms, status, outcome, error, streamed, request_bytes, response_bytes, context_full
FROM usage
WHERE ($1::uuid IS NULL OR user_id = $1) AND ($2::text IS NULL OR lower(username) = lower($2))
    AND ($3::text IS NULL OR gateway = $3) AND ($4::text[] IS NULL OR model = ANY ($4) OR model_asked = ANY ($4))
    AND ($5::uuid IS NULL OR key_id = $5) AND ($6::text IS NULL OR node = $6)
    AND id >= COALESCE(usage_floor($7::timestamptz), '00000000-0000-0000-0000-000000000000')
    AND id < COALESCE(usage_floor($8::timestamptz), 'ffffffff-ffff-ffff-ffff-ffffffffffff')
    AND id > COALESCE($9::uuid, '00000000-0000-0000-0000-000000000000')
ORDER BY id
LIMIT $10::bigint
