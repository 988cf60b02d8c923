-- What was used, for limits: only requests count for which a node was asked to answer with a model.

-- name: hours(subjects, since)
-- By the hour, of users and of keys.
SELECT hour AS at, user_id, key_id, gateway, model, sum(asked)::bigint AS requests,
    sum(prompt_tokens)::bigint AS prompt_tokens, sum(output_tokens)::bigint AS output_tokens
FROM usage_hours
WHERE (user_id = ANY ($1::uuid[]) OR key_id = ANY ($1::uuid[])) AND hour >= $2 AND asked > 0
GROUP BY 1, 2, 3, 4, 5

-- name: minute(subjects, since)
-- Of the last minute, one by one.
SELECT created_at AS at, user_id, key_id, gateway, COALESCE(model, model_asked, '') AS model, 1 AS requests,
    COALESCE(prompt_tokens, 0) AS prompt_tokens, COALESCE(output_tokens, 0) AS output_tokens
FROM usage
WHERE id >= usage_floor($2) AND (user_id = ANY ($1::uuid[]) OR key_id = ANY ($1::uuid[]))
    AND node IS NOT NULL AND operation IN ('chat', 'generate', 'embed')
