-- name: limits(holder, gateway, after_holder, after_gateway, after_model, after_meter, after_period, limit)
-- Of one user, key or role, and of one gateway; a null: of any. In the order of whose they are, gateway, model (none
-- first), meter and period; after the one of that place.
SELECT * FROM (
    SELECT *, COALESCE('key ' || key, 'role ' || role, 'user ' || lower("user")) COLLATE "C" AS whose,
           gateway COLLATE "C" AS g, COALESCE(model, '') COLLATE "C" AS m, meter COLLATE "C" AS c, period COLLATE "C" AS p
    FROM limit_records
    WHERE ($1::uuid IS NULL OR holder = $1) AND ($2::text IS NULL OR gateway = $2)
) AS every
WHERE $3::text IS NULL OR (whose, g, m, c, p) > ($3, $4::text, $5::text, $6::text, $7::text)
ORDER BY whose, g, m, c, p
LIMIT $8::bigint;

-- name: limit(id)
SELECT * FROM limit_records WHERE id = $1;

-- name: limits_of(holders)
-- All of these users, keys and roles; those of a key after those of a user or role with the same scope.
SELECT * FROM limit_records WHERE holder = ANY ($1::uuid[])
ORDER BY gateway COLLATE "C", COALESCE(model, '') COLLATE "C", meter COLLATE "C", period COLLATE "C", key NULLS FIRST;

-- name: lock_limit(id)
-- For a change that reads first.
SELECT id FROM limits WHERE id = $1 FOR UPDATE;

-- name: hold_user(id)
-- One change of the limits of a user at a time: none waits for another in a circle, and the user is not deleted meanwhile.
SELECT id FROM users WHERE id = $1 FOR NO KEY UPDATE;

-- name: hold_key(id)
-- The same of a key.
SELECT id FROM api_keys WHERE id = $1 FOR NO KEY UPDATE;

-- name: hold_role(id)
-- The same of a role.
SELECT id FROM roles WHERE id = $1 FOR NO KEY UPDATE;

-- name: owner(key_id)
-- Whose key it is.
SELECT user_id FROM api_keys WHERE id = $1;

-- name: families()
-- The gateways that a server has ever started with.
SELECT substr(name, 5) AS name FROM permissions WHERE name LIKE 'use\_%' ORDER BY name COLLATE "C";

-- name: create_limit(user_id, key_id, role_id, gateway, model, meter, period, amount, admission, outage, max_output_tokens)
-- No row when there is one of the scope.
INSERT INTO limits
    (user_id, key_id, role_id, gateway, model, meter, period, amount, admission, outage, max_output_tokens)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
ON CONFLICT (COALESCE(user_id, key_id, role_id), gateway, COALESCE(model, ''), meter, period) DO NOTHING
RETURNING id;

-- name: find_limit(holder, gateway, model, meter, period)
-- The one of a scope, held for a change.
SELECT id FROM limits
WHERE COALESCE(user_id, key_id, role_id) = $1 AND gateway = $2 AND COALESCE(model, '') = COALESCE($3, '')
  AND meter = $4 AND period = $5
FOR UPDATE;

-- name: update_limit(id, amount, admission, outage, max_output_tokens)
UPDATE limits SET amount = $2, admission = $3, outage = $4, max_output_tokens = $5, updated_at = now() WHERE id = $1;

-- name: delete_limit(id)
DELETE FROM limits WHERE id = $1;

-- name: delete_limits(holder, gateway)
-- Of one user, key or role; of one gateway or all (null).
DELETE FROM limits
WHERE COALESCE(user_id, key_id, role_id) = $1 AND ($2::text IS NULL OR gateway = $2);

-- name: held_limits(user_id, key_id)
-- What the limits in force are made of.
SELECT grants($1)::text AS grants, limits_of($1)::text AS own, limits_of($2)::text AS key;

-- name: template(role_id)
-- The limits of a role and of those above it, a row for each role, the nearest first.
WITH RECURSIVE above AS (
    SELECT id, parent_id, ARRAY[id] AS path FROM roles WHERE id = $1
    UNION ALL
    SELECT r.id, r.parent_id, a.path || r.id FROM above a JOIN roles r ON r.id = a.parent_id WHERE r.id <> ALL (a.path)
)
SELECT limits_of(id)::text AS limits FROM above ORDER BY cardinality(path);

-- name: holders(role_id, now)
-- Who has the role at that moment, or one below it.
WITH RECURSIVE below AS (
    SELECT id FROM roles WHERE id = $1
    UNION SELECT r.id FROM roles r JOIN below b ON r.parent_id = b.id
)
SELECT DISTINCT a.user_id FROM assignments a JOIN below b ON b.id = a.role_id
WHERE a.ended_at IS NULL AND (a.expires_at IS NULL OR a.expires_at > $2);
