-- The ledger against itself: sums against rows, rows against journals, what was used against limits. Nothing is edited:
-- what is off in the sums becomes rows of their own, whose `correction` counts from 1.

-- name: alone()
-- One process corrects at a time; to the end of the transaction. What is compared is read by a statement after this one.
SELECT pg_advisory_xact_lock(8020141102);

-- name: first()
-- Whether no other process corrects; to the end of the transaction.
SELECT pg_try_advisory_xact_lock(8020141103) AS first;

-- name: turn()
-- Until no other process corrects; to the end of the transaction.
SELECT pg_advisory_xact_lock(8020141103);

-- name: whole(storage_days)
-- The moment from which on the rows of every hour are kept: single ones may be older than their hour, or younger. Null:
-- there are no rows.
SELECT GREATEST(
    min(to_date(right(relname, 8), 'YYYYMMDD')::timestamp AT TIME ZONE 'UTC'),
    CASE WHEN $1::integer > 0 THEN date_trunc('day', now() - make_interval(days => $1), 'UTC') END
) + interval '4 hours' AS whole
FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
WHERE inhparent = 'usage'::regclass;

-- name: differences(zone, since, until)
-- What the sums of the hours that begin then lack, or have too much (negative), where they are not those of the rows. One
-- statement, since rows and sums change together.
SELECT hour, user_id, username, key_id, gateway, model, node,
    sum(requests)::bigint AS requests, sum(ok)::bigint AS ok, sum(failed)::bigint AS failed,
    sum(cancelled)::bigint AS cancelled, sum(refused)::bigint AS refused, sum(estimated)::bigint AS estimated,
    sum(prompt_tokens)::bigint AS prompt_tokens, sum(output_tokens)::bigint AS output_tokens,
    sum(duration_ms) AS duration_ms, sum(ttft_ms) AS ttft_ms, sum(ttft_count)::bigint AS ttft_count,
    sum(asked)::bigint AS asked
FROM (
    SELECT usage_hour(COALESCE(charged_at, created_at), $1) AS hour, user_id, username,
        COALESCE(key_id, '00000000-0000-0000-0000-000000000000') AS key_id, gateway,
        COALESCE(model, model_asked, '') AS model, COALESCE(node, '') AS node,
        count(*) AS requests, count(*) FILTER (WHERE outcome = 'ok') AS ok,
        count(*) FILTER (WHERE outcome = 'failed') AS failed, count(*) FILTER (WHERE outcome = 'cancelled') AS cancelled,
        count(*) FILTER (WHERE outcome = 'refused') AS refused, count(*) FILTER (WHERE estimated) AS estimated,
        COALESCE(sum(prompt_tokens), 0) AS prompt_tokens, COALESCE(sum(output_tokens), 0) AS output_tokens,
        sum(duration_ms) AS duration_ms, COALESCE(sum(ttft_ms), 0) AS ttft_ms, count(ttft_ms) AS ttft_count,
        count(*) FILTER (WHERE node IS NOT NULL AND operation IN ('chat', 'generate', 'embed')) AS asked
    FROM usage
    WHERE id >= usage_floor($2::timestamptz - interval '4 hours') AND id < usage_floor($3::timestamptz + interval '4 hours')
    GROUP BY 1, 2, 3, 4, 5, 6, 7
    UNION ALL
    SELECT hour, user_id, username, key_id, gateway, model, node, -requests, -ok, -failed, -cancelled, -refused,
        -estimated, -prompt_tokens, -output_tokens, -duration_ms, -ttft_ms, -ttft_count, -asked
    FROM usage_hours
) AS parts
WHERE hour >= $2 AND hour < $3
GROUP BY 1, 2, 3, 4, 5, 6, 7
HAVING sum(requests) <> 0 OR sum(ok) <> 0 OR sum(failed) <> 0 OR sum(cancelled) <> 0 OR sum(refused) <> 0
    OR sum(estimated) <> 0 OR sum(prompt_tokens) <> 0 OR sum(output_tokens) <> 0 OR sum(ttft_count) <> 0
    OR sum(asked) <> 0
    OR abs(sum(duration_ms)) > 1 OR abs(sum(ttft_ms)) > 1; -- milliseconds are no whole numbers: their order matters

-- name: days(zone, since, until)
-- The UTC days with hours in which the totals of some user are not those of the rows. For many days: half the work of
-- what `differences` does, which tells models, keys and nodes apart.
SELECT DISTINCT date_trunc('day', hour, 'UTC') AS day
FROM (
    SELECT hour
    FROM (
        SELECT usage_hour(COALESCE(charged_at, created_at), $1) AS hour, user_id, count(*) AS requests,
            count(*) FILTER (WHERE outcome = 'ok') AS ok, count(*) FILTER (WHERE outcome = 'failed') AS failed,
            count(*) FILTER (WHERE outcome = 'cancelled') AS cancelled,
            count(*) FILTER (WHERE outcome = 'refused') AS refused, count(*) FILTER (WHERE estimated) AS estimated,
            COALESCE(sum(prompt_tokens), 0) AS prompt_tokens, COALESCE(sum(output_tokens), 0) AS output_tokens,
            sum(duration_ms) AS duration_ms, COALESCE(sum(ttft_ms), 0) AS ttft_ms, count(ttft_ms) AS ttft_count,
            count(*) FILTER (WHERE node IS NOT NULL AND operation IN ('chat', 'generate', 'embed')) AS asked
        FROM usage
        WHERE id >= usage_floor($2::timestamptz - interval '4 hours')
            AND id < usage_floor($3::timestamptz + interval '4 hours')
        GROUP BY 1, 2
        UNION ALL
        SELECT hour, user_id, -requests, -ok, -failed, -cancelled, -refused, -estimated, -prompt_tokens,
            -output_tokens, -duration_ms, -ttft_ms, -ttft_count, -asked
        FROM usage_hours
    ) AS parts
    WHERE hour >= $2 AND hour < $3
    GROUP BY hour, user_id
    HAVING sum(requests) <> 0 OR sum(ok) <> 0 OR sum(failed) <> 0 OR sum(cancelled) <> 0 OR sum(refused) <> 0
        OR sum(estimated) <> 0 OR sum(prompt_tokens) <> 0 OR sum(output_tokens) <> 0 OR sum(ttft_count) <> 0
        OR sum(asked) <> 0 OR abs(sum(duration_ms)) > 1 OR abs(sum(ttft_ms)) > 1
) AS off
ORDER BY day;

-- name: correct(hour, user_id, username, key_id, gateway, model, node, requests, ok, failed, cancelled, refused, estimated, prompt_tokens, output_tokens, duration_ms, ttft_ms, ttft_count, asked)
-- Put a difference down, as a row of its own.
INSERT INTO usage_hours (
    hour, user_id, username, key_id, gateway, model, node, correction, requests, ok, failed, cancelled, refused,
    estimated, prompt_tokens, output_tokens, duration_ms, ttft_ms, ttft_count, asked)
SELECT $1, $2, $3, $4, $5, $6, $7, COALESCE(max(correction), 0) + 1, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17,
    $18, $19
FROM usage_hours
WHERE hour = $1 AND user_id = $2 AND username = $3 AND key_id = $4 AND gateway = $5 AND model = $6 AND node = $7;

-- name: missing(ids)
-- Those of which there is no row, but for those whose day is no longer kept.
SELECT asked.id FROM unnest($1::uuid[]) AS asked (id)
WHERE NOT EXISTS (SELECT FROM usage WHERE usage.id = asked.id)
    AND asked.id >= (
        SELECT usage_floor(min(to_date(right(relname, 8), 'YYYYMMDD')::timestamp AT TIME ZONE 'UTC'))
        FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid WHERE inhparent = 'usage'::regclass);

-- name: limited(since)
-- Who has asked a model since then, with what the limits in force are made of.
SELECT u.id, lower(u.username) AS username, grants(u.id)::text AS grants, limits_of(u.id)::text AS own
FROM users u
WHERE EXISTS (SELECT FROM usage_hours h WHERE h.user_id = u.id AND h.hour >= $1 AND h.asked > 0);

-- name: limited_keys(since)
-- The same of keys that have limits of their own.
SELECT DISTINCT k.id, lower(u.username) AS username, limits_of(k.id)::text AS own
FROM limits l JOIN api_keys k ON k.id = l.key_id JOIN users u ON u.id = k.user_id
WHERE EXISTS (SELECT FROM usage_hours h WHERE h.key_id = k.id AND h.hour >= $1 AND h.asked > 0);

-- name: changed(since)
-- When something has changed last by which somebody's limits are made, by the name of the user; null: of all who hold
-- some role.
SELECT lower(username) AS username, max(at) AS at
FROM (
    SELECT CASE WHEN action LIKE 'user.%' THEN name ELSE username END AS username, at FROM audit
    WHERE at >= $1 AND split_part(action, '.', 1) IN ('limit', 'limits', 'assignment', 'role', 'user')
    UNION ALL
    SELECT u.username, a.expires_at FROM assignments a JOIN users u ON u.id = a.user_id
    WHERE a.expires_at >= $1 AND a.expires_at <= now()
) AS changes
GROUP BY 1;
