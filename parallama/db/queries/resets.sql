-- Counts that were reset.

-- name: supersede(subjects, gateway, model)
-- Those that one of these users or keys for limits of this scope (null: any) makes needless, and of all those that no
-- month remembers.
DELETE FROM limit_resets
WHERE reset_at < now() - interval '32 days' OR (COALESCE(user_id, key_id) = ANY ($1::uuid[])
    AND ($2::text IS NULL OR gateway = $2) AND ($3::text IS NULL OR model = $3));

-- name: create(subjects, gateway, model)
-- What these users or keys have used by now counts no more for limits of this scope (null: any). One statement: of a row
-- it sees the sums if it sees the row.
WITH one AS (
    SELECT id FROM unnest($1::uuid[]) AS given (id)
), hours AS (
    SELECT one.id, extract(epoch FROM hour)::bigint AS at, key_id, gateway, model, sum(asked)::bigint AS requests,
        sum(prompt_tokens)::bigint AS prompt_tokens, sum(output_tokens)::bigint AS output_tokens
    FROM usage_hours JOIN one ON one.id IN (user_id, key_id)
    WHERE hour > now() - interval '32 days' AND (asked > 0 OR correction > 0)
        AND (user_id = ANY ($1) OR key_id = ANY ($1)) -- which an index finds
    GROUP BY 1, 2, 3, 4, 5
), recent AS (
    SELECT one.id, usage.id AS row
    FROM usage JOIN one ON one.id IN (user_id, key_id)
    WHERE usage.id >= usage_floor(now() - interval '3 hours')
        AND COALESCE(charged_at, created_at) > now() - interval '5 minutes'
)
INSERT INTO limit_resets (user_id, key_id, gateway, model, used, rows)
SELECT (SELECT id FROM users WHERE id = one.id), (SELECT id FROM api_keys WHERE id = one.id), $2, $3,
    (SELECT COALESCE(jsonb_agg(to_jsonb(hours) - 'id'), '[]') FROM hours WHERE hours.id = one.id),
    ARRAY(SELECT row FROM recent WHERE recent.id = one.id)
FROM one;

-- name: of(subjects)
-- The resets of these users and keys, in the order in which they were made.
SELECT COALESCE(user_id, key_id) AS subject, gateway, model, used::text AS used, rows
FROM limit_resets WHERE COALESCE(user_id, key_id) = ANY ($1::uuid[])
ORDER BY reset_at, id;

-- name: lately()
-- Whose counts were reset within a day.
SELECT DISTINCT COALESCE(user_id, key_id) AS subject FROM limit_resets WHERE reset_at > now() - interval '1 day';
