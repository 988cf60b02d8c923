-- name: create_key(user_id, digest, hint, description, expires_at)
-- No row when the user is gone; the lock keeps it from going meanwhile.
INSERT INTO api_keys (user_id, digest, hint, description, expires_at)
SELECT id, $2, $3, $4, $5 FROM users WHERE id = $1 FOR KEY SHARE
RETURNING id;

-- name: key(id)
SELECT k.id, k.user_id, u.username, k.hint, k.description, k.created_at, k.expires_at, k.revoked_at, k.last_used_at
FROM api_keys k JOIN users u ON u.id = k.user_id
WHERE k.id = $1;

-- name: keys_of_user(user_id, ended)
-- Oldest first; without `ended` only those that are neither revoked nor expired.
SELECT k.id, k.user_id, u.username, k.hint, k.description, k.created_at, k.expires_at, k.revoked_at, k.last_used_at
FROM api_keys k JOIN users u ON u.id = k.user_id
WHERE k.user_id = $1
  AND ($2 OR (k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())))
ORDER BY k.created_at, k.id;

-- name: revoke_key(id)
-- The first revocation stands.
UPDATE api_keys SET revoked_at = COALESCE(revoked_at, now()) WHERE id = $1;

-- name: revoke_keys_of_user(user_id)
UPDATE api_keys SET revoked_at = now() WHERE user_id = $1 AND revoked_at IS NULL;

-- name: delete_key(id)
DELETE FROM api_keys WHERE id = $1;

-- name: caller_by_digest(digest)
-- All that is judged when a key is used, whatever its state.
SELECT k.id AS key_id, k.user_id, u.username, u.admin OR u.role = 'admin' AS admin,
       u.active AND k.revoked_at IS NULL AS valid, k.expires_at
FROM api_keys k JOIN users u ON u.id = k.user_id
WHERE k.digest = $1;

-- name: caller_by_name(username)
-- The caller without a key. Never an admin, whatever is recorded of the user: anybody at all can be this one.
SELECT NULL::uuid AS key_id, id AS user_id, username, false AS admin, active AS valid, NULL::timestamptz AS expires_at
FROM users
WHERE lower(username) = lower($1);

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
