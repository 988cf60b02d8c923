-- name: assignments(user_id, id, role, ended, after_at, after_id, limit, now)
-- Of a user, oldest first; the one of that id or role, and those after that moment and id; a null: any. Without `ended`
-- only those that hold at the moment `now`.
SELECT a.id, a.user_id, u.username, COALESCE(r.name, a.role) AS role, a.main, a.assigned_by, a.assigned_at,
       a.expires_at, a.ended_at, a.ended_by
FROM assignments a JOIN users u ON u.id = a.user_id LEFT JOIN roles r ON r.id = a.role_id
WHERE a.user_id = $1
  AND ($2::uuid IS NULL OR a.id = $2)
  AND ($3::text IS NULL OR r.name = $3)
  AND ($4 OR (a.ended_at IS NULL AND (a.expires_at IS NULL OR a.expires_at > $8)))
  AND ($5::timestamptz IS NULL OR (a.assigned_at, a.id) > ($5, $6::uuid))
ORDER BY a.assigned_at, a.id
LIMIT $7::bigint;

-- name: lock_user(id)
-- One change of a user's roles at a time.
SELECT id FROM users WHERE id = $1 FOR NO KEY UPDATE;

-- name: assign(user_id, role_id, assigned_by, assigned_at, expires_at)
-- No row when the role is gone; the lock keeps it from going meanwhile.
INSERT INTO assignments (user_id, role_id, role, assigned_by, assigned_at, expires_at)
SELECT $1, id, name, $3, $4, $5 FROM roles WHERE id = $2 FOR KEY SHARE
RETURNING id;

-- name: expire(id, expires_at)
UPDATE assignments SET expires_at = $2 WHERE id = $1;

-- name: end_assignment(id, ended_at, ended_by)
UPDATE assignments SET ended_at = $2, ended_by = $3 WHERE id = $1;
