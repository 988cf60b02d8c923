-- Usage: one row an exchange. Every bound of time is a bound of id, so that PostgreSQL reads only the days asked for.

-- name: partitions(moments)
-- Make the partition of the UTC day of each moment. Alone, because two processes that make the same one would collide.
WITH alone AS MATERIALIZED (SELECT pg_advisory_xact_lock(8020141101))
SELECT usage_partitions(moment, moment) FROM alone, unnest($1::timestamptz[]) AS moment

-- name: known(username)
-- Whether there is such a user, or was one: rows outlive users.
SELECT EXISTS (SELECT FROM users WHERE lower(username) = lower($1))
    OR EXISTS (SELECT FROM usage WHERE lower(username) = lower($1)) AS known

-- name: totals(username, gateway, day, hour, until)
-- Tokens and requests by gateway since the start of the day and since the start of the hour.
SELECT gateway,
    count(*) AS day_requests,
    COALESCE(sum(COALESCE(prompt_tokens, 0) + COALESCE(output_tokens, 0)), 0)::bigint AS day_tokens,
    count(*) FILTER (WHERE id >= usage_floor($4)) AS hour_requests,
    COALESCE(sum(COALESCE(prompt_tokens, 0) + COALESCE(output_tokens, 0)) FILTER (WHERE id >= usage_floor($4)), 0)::bigint
        AS hour_tokens
FROM usage
WHERE lower(username) = lower($1) AND ($2::text IS NULL OR gateway = $2)
    AND id >= usage_floor($3) AND id < usage_floor($5)
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
SELECT gateway, COALESCE(model, model_asked) AS model,
    count(*) AS requests,
    count(*) FILTER (WHERE outcome = 'ok') AS ok,
    count(*) FILTER (WHERE outcome = 'failed') AS failed,
    count(*) FILTER (WHERE outcome = 'cancelled') AS cancelled,
    count(*) FILTER (WHERE outcome = 'refused') AS refused,
    COALESCE(sum(prompt_tokens), 0)::bigint AS prompt_tokens,
    COALESCE(sum(output_tokens), 0)::bigint AS output_tokens,
    COALESCE(sum(COALESCE(prompt_tokens, 0) + COALESCE(output_tokens, 0)), 0)::bigint AS total_tokens,
    avg(duration_ms) AS mean_duration_ms,
    avg(ttft_ms) AS mean_ttft_ms
FROM usage
WHERE lower(username) = lower($1) AND ($2::text IS NULL OR gateway = $2)
    AND id >= usage_floor($3) AND id < usage_floor($4)
GROUP BY gateway, COALESCE(model, model_asked)
ORDER BY gateway, model

-- name: export(username)
-- Every row, oldest first, of one user or of all.
SELECT id, created_at, username, key_id, gateway, operation, model_asked, model, node, prompt_tokens, output_tokens,
    estimated, ttft_ms, duration_ms, status, outcome, error, streamed, request_bytes, response_bytes, context_full
FROM usage
WHERE $1::text IS NULL OR lower(username) = lower($1)
ORDER BY id
