-- What was used, for limits: only requests count for which a node was asked to answer with a model.

-- name: hours(subjects, since)
-- By the hour, of users and of keys.
SELECT hour AS at, user_id, key_id, gateway, model, sum(asked)::bigint AS requests,
    sum(prompt_tokens)::bigint AS prompt_tokens, sum(output_tokens)::bigint AS output_tokens
FROM usage_hours
WHERE (user_id = ANY ($1::uuid[]) OR key_id = ANY ($1::uuid[])) AND hour >= $2 AND (asked > 0 OR correction > 0)
GROUP BY 1, 2, 3, 4, 5

-- name: minute(subjects, since)
-- Of the last minute, one by one: since `since`, or for 61 seconds by the clock here if that is more, since the caller's
-- clock may be ahead of the one that counts. Ids are by the clocks of many processes, so those of hours before are looked
-- at too, but only of these users, whose names are in an index.
SELECT id, COALESCE(charged_at, created_at) AS at, user_id, key_id, gateway, COALESCE(model, model_asked, '') AS model,
    1 AS requests, COALESCE(prompt_tokens, 0) AS prompt_tokens, COALESCE(output_tokens, 0) AS output_tokens
FROM usage
WHERE lower(username) = ANY (ARRAY(
        SELECT lower(u.username) FROM users u WHERE u.id = ANY ($1::uuid[])
        UNION SELECT lower(u.username) FROM users u JOIN api_keys k ON k.user_id = u.id WHERE k.id = ANY ($1::uuid[])))
    AND id >= usage_floor(LEAST($2, now()) - interval '3 hours')
    AND COALESCE(charged_at, created_at) >= LEAST($2, now() - interval '61 seconds')
    AND (user_id = ANY ($1::uuid[]) OR key_id = ANY ($1::uuid[]))
    AND node IS NOT NULL AND operation IN ('chat', 'generate', 'embed')
