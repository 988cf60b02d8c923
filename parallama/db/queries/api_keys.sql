-- name: create_key(user_id, digest, hint, description, created_at, expires_at, models, gateways, networks, priority_ceiling)
-- No row when the user is gone; the lock keeps it from going meanwhile.
INSERT INTO api_keys
    (user_id, digest, hint, description, created_at, expires_at, models, gateways, networks, priority_ceiling)
SELECT id, $2, $3, $4, $5, $6, $7, $8, $9, $10 FROM users WHERE id = $1 FOR KEY SHARE
RETURNING id;

-- name: key(id)
SELECT k.id, k.user_id, u.username, k.hint, k.description, k.created_at, k.expires_at, k.revoked_at, k.last_used_at,
       k.enabled, k.models, k.gateways, k.networks, k.priority_ceiling, k.rotated_at, k.previous_until, k.version
FROM api_keys k JOIN users u ON u.id = k.user_id
WHERE k.id = $1;

-- name: lock_key(id)
-- For a change that reads first.
SELECT id FROM api_keys WHERE id = $1 FOR UPDATE;

-- name: keys(user_id, ended, after, after_id, limit, now)
-- Oldest first, of one user or of all (null), after the key made then with that id; without `ended` only those that
-- are neither revoked nor expired.
SELECT k.id, k.user_id, u.username, k.hint, k.description, k.created_at, k.expires_at, k.revoked_at, k.last_used_at,
       k.enabled, k.models, k.gateways, k.networks, k.priority_ceiling, k.rotated_at, k.previous_until, k.version
FROM api_keys k JOIN users u ON u.id = k.user_id
WHERE ($1::uuid IS NULL OR k.user_id = $1)
  AND ($2 OR (k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > $6)))
  AND ($3::timestamptz IS NULL OR (k.created_at, k.id) > ($3, $4::uuid))
ORDER BY k.created_at, k.id
LIMIT $5::bigint;

-- name: update_key(id, description, expires_at, enabled, models, gateways, networks, priority_ceiling)
UPDATE api_keys
SET description = $2, expires_at = $3, enabled = $4, models = $5, gateways = $6, networks = $7, priority_ceiling = $8
WHERE id = $1;

-- name: rotate_key(id, digest, hint, rotated_at, previous_until)
-- The secret so far becomes the previous one, or nothing where that is not to last; the one before it ends.
UPDATE api_keys
SET previous_digest = CASE WHEN $5::timestamptz IS NULL THEN NULL ELSE digest END,
    digest = $2, hint = $3, rotated_at = $4, previous_until = $5
WHERE id = $1;

-- name: revoke_key(id, revoked_at)
-- The first revocation stands.
UPDATE api_keys SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL;

-- name: revoke_keys_of_user(user_id, revoked_at)
UPDATE api_keys SET revoked_at = $2 WHERE user_id = $1 AND revoked_at IS NULL;

-- name: delete_key(id)
DELETE FROM api_keys WHERE id = $1;

-- name: mark_used(ids, used_at)
-- Rows that someone else holds are passed over: this never waits, so it is part of no deadlock, and whoever holds one
-- is changing the key or writing the use of another process at this moment.
UPDATE api_keys k
SET last_used_at = due.used_at
FROM (
    SELECT a.id, given.used_at
    FROM unnest($1::uuid[], $2::timestamptz[]) AS given (id, used_at) JOIN api_keys a ON a.id = given.id
    WHERE a.last_used_at IS NULL OR a.last_used_at < given.used_at
    FOR NO KEY UPDATE OF a SKIP LOCKED
) due
WHERE k.id = due.id;

-- name: families()
-- Gateways that there are or were: each has brought its permission.
SELECT substr(name, 5) AS family FROM permissions WHERE name LIKE 'use\_%' ORDER BY name;
