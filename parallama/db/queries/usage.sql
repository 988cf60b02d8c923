-- Usage: one row an exchange. Every bound of time is a bound of id, so that PostgreSQL reads only the days asked for.

-- name: partitions(moments)
-- Make the partition of the UTC day of each moment. Alone, because two processes that make the same one would collide.
WITH alone AS MATERIALIZED (SELECT pg_advisory_xact_lock(8020141101))
SELECT usage_partitions(moment, moment) FROM alone, unnest($1::timestamptz[]) AS moment

-- name: forget(moment)
-- Drop the partitions of the days before that of `moment`; how many there were.
SELECT usage_forget($1) AS dropped FROM pg_advisory_xact_lock(8020141101), set_config('lock_timeout', '2s', true)

-- name: ship(zone)
-- Move what was copied into incoming_usage to usage, without what is there already, and add what is new to the sums.
-- The order keeps two processes from waiting for each other.
WITH added AS (
    INSERT INTO usage SELECT * FROM incoming_usage ON CONFLICT DO NOTHING RETURNING *
)
INSERT INTO usage_hours AS known
SELECT usage_hour(created_at, $1), user_id, username,
    COALESCE(key_id, '00000000-0000-0000-0000-000000000000'), gateway, COALESCE(model, model_asked, ''),
    COALESCE(node, ''), count(*), count(*) FILTER (WHERE outcome = 'ok'), count(*) FILTER (WHERE outcome = 'failed'),
    count(*) FILTER (WHERE outcome = 'cancelled'), count(*) FILTER (WHERE outcome = 'refused'),
    count(*) FILTER (WHERE estimated), COALESCE(sum(prompt_tokens), 0), COALESCE(sum(output_tokens), 0),
    sum(duration_ms), COALESCE(sum(ttft_ms), 0), count(ttft_ms),
    count(*) FILTER (WHERE node IS NOT NULL AND operation IN ('chat', 'generate', 'embed'))
FROM added
GROUP BY 1, 2, 3, 4, 5, 6, 7
ORDER BY 1, 2, 3, 4, 5, 6, 7
ON CONFLICT (hour, user_id, username, key_id, gateway, model, node) DO UPDATE SET
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
-- Whether there is such a user, or was one: what was used outlives users.
SELECT EXISTS (SELECT FROM users WHERE lower(username) = lower($1))
    OR EXISTS (SELECT FROM usage_hours WHERE lower(username) = lower($1)) AS known

-- name: totals(username, gateway, day, hour, until)
-- Tokens and requests by gateway since the start of the day and since the start of the hour.
SELECT gateway,
    sum(requests)::bigint AS day_requests,
    sum(prompt_tokens + output_tokens)::bigint AS day_tokens,
    COALESCE(sum(requests) FILTER (WHERE hour >= $4), 0)::bigint AS hour_requests,
    COALESCE(sum(prompt_tokens + output_tokens) FILTER (WHERE hour >= $4), 0)::bigint AS hour_tokens
FROM usage_hours
WHERE lower(username) = lower($1) AND ($2::text IS NULL OR gateway = $2) AND hour >= $3 AND hour < $5
GROUP BY gateway
ORDER BY gateway

-- name: list(username, gateway, models, since, until)
-- The rows of a user, oldest first; models are the spellings of one name, as asked or as served.
SELECT id, created_at, username, key_id, gateway, operation, model_asked, model, node, prompt_tokens, output_tokens,
    estimated, ttft_ms, duration_ms, status, outcome, error, streamed, request_bytes, response_bytes, context_full
FROM usage
WHERE lower(username) = lower($1) AND ($2::text IS NULL OR gateway = $2)
    AND ($3::text[] IS NULL OR model = ANY ($3) OR model_asked = ANY ($3))
    AND id >= usage_floor($4) AND id < usage_floor($5)
ORDER BY id

-- name: summary(username, gateway, since, until)
-- Totals by gateway and model: the one served, or the one asked for where no node was asked.
SELECT gateway, NULLIF(model, '') AS model,
    sum(requests)::bigint AS requests,
    sum(ok)::bigint AS ok,
    sum(failed)::bigint AS failed,
    sum(cancelled)::bigint AS cancelled,
    sum(refused)::bigint AS refused,
    sum(prompt_tokens)::bigint AS prompt_tokens,
    sum(output_tokens)::bigint AS output_tokens,
    sum(prompt_tokens + output_tokens)::bigint AS total_tokens,
    sum(duration_ms) / sum(requests) AS mean_duration_ms,
    sum(ttft_ms) / NULLIF(sum(ttft_count), 0) AS mean_ttft_ms
FROM usage_hours
WHERE lower(username) = lower($1) AND ($2::text IS NULL OR gateway = $2) AND hour >= $3 AND hour < $4
GROUP BY gateway, model
ORDER BY gateway, NULLIF(model, '')

-- name: export(username)
-- Every row, oldest first, of one user or of all.
SELECT id, created_at, username, key_id, gateway, operation, model_asked, model, node, prompt_tokens, output_tokens,
    estimated, ttft_ms, duration_ms, status, outcome, error, streamed, request_bytes, response_bytes, context_full
FROM usage
WHERE $1::text IS NULL OR lower(username) = lower($1)
ORDER BY id
