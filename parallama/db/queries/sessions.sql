-- name: open(user_id, password, address, now, expires_at, digest)
-- No row unless the user is active and has that encoded password still; a null: whatever it is. The lock makes whoever
-- changes either wait, and then find the session.
WITH known AS (
    SELECT id FROM users WHERE id = $1 AND active AND ($2::text IS NULL OR password = $2) FOR SHARE
), opened AS (
    INSERT INTO sessions (user_id, address, created_at, last_used_at, expires_at)
    SELECT id, $3, $4, $4, $5 FROM known
    RETURNING id, generation
), first AS (
    INSERT INTO refresh_tokens (digest, session_id, created_at) SELECT $6, id, $4 FROM opened
)
SELECT id, generation FROM opened;

-- name: rotate(digest, new_digest, now)
-- Of two parallel uses the second waits for the row, and then finds it rotated: no row. The state of the session is
-- asked twice: it may have been revoked between the look at it and the lock on it.
WITH used AS (
    UPDATE refresh_tokens t
    SET rotated_at = $3
    FROM sessions s JOIN users u ON u.id = s.user_id
    WHERE t.digest = $1 AND t.rotated_at IS NULL AND s.id = t.session_id
      AND s.revoked_at IS NULL AND s.expires_at > $3 AND u.active
    RETURNING t.session_id
), next AS (
    INSERT INTO refresh_tokens (digest, session_id, created_at) SELECT $2, session_id, $3 FROM used
)
UPDATE sessions s
SET last_used_at = $3
FROM used
WHERE s.id = used.session_id AND s.revoked_at IS NULL
RETURNING s.id, s.user_id, s.generation;

-- name: rotated_at(digest, now)
-- When a token of a live session was rotated; no row: there is no such token, or its session has ended.
SELECT t.rotated_at
FROM refresh_tokens t JOIN sessions s ON s.id = t.session_id
WHERE t.digest = $1 AND t.rotated_at IS NOT NULL AND s.revoked_at IS NULL AND s.expires_at > $2;

-- name: revoke_by_token(digest, revoked_at, revoked_for)
-- Whichever token of the session it is.
UPDATE sessions s
SET revoked_at = $2, revoked_for = $3
FROM refresh_tokens t
WHERE t.digest = $1 AND s.id = t.session_id AND s.revoked_at IS NULL
RETURNING s.id, s.user_id;

-- name: revoke(id, user_id, revoked_at)
-- Revoking it again changes nothing.
UPDATE sessions
SET revoked_at = COALESCE(revoked_at, $3), revoked_for = COALESCE(revoked_for, 'admin')
WHERE id = $1 AND user_id = $2;

-- name: revoke_all(user_id, revoked_at)
UPDATE sessions
SET revoked_at = $2, revoked_for = 'admin'
WHERE user_id = $1 AND revoked_at IS NULL AND expires_at > $2;

-- name: rotate_tokens(user_id, now)
-- The access tokens that are out die, the refresh tokens stay.
UPDATE sessions SET generation = generation + 1 WHERE user_id = $1 AND revoked_at IS NULL AND expires_at > $2;

-- name: sessions(user_id, ended, now, after_created_at, after_id, limit)
-- Oldest first; `ended`: those too that are revoked or have expired. Nulls: from the beginning, and all.
SELECT s.id, s.user_id, u.username, s.address, s.created_at, s.last_used_at, s.expires_at, s.revoked_at, s.revoked_for
FROM sessions s JOIN users u ON u.id = s.user_id
WHERE s.user_id = $1 AND ($2::boolean OR (s.revoked_at IS NULL AND s.expires_at > $3))
  AND ($4::timestamptz IS NULL OR (s.created_at, s.id) > ($4, $5::uuid))
ORDER BY s.created_at, s.id
LIMIT $6::bigint;

-- name: clean_up(ended_before, most)
-- Their tokens go with them.
DELETE FROM sessions
WHERE id IN (SELECT id FROM sessions WHERE LEAST(revoked_at, expires_at) < $1 LIMIT $2::bigint);
