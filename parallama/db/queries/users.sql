-- name: create_user(username, role, admin)
-- No row when the name is taken, in whatever case.
INSERT INTO users (username, role, admin) VALUES ($1, $2, $3)
ON CONFLICT (lower(username)) DO NOTHING
RETURNING id, username, role, admin OR role = 'admin' AS admin, active, created_at;

-- name: ensure_user(username)
-- Make a basic user unless there is one of that name; an existing one stays as it is.
INSERT INTO users (username) VALUES ($1) ON CONFLICT (lower(username)) DO NOTHING;

-- name: users(role)
-- Every user, or those of one role, by name.
SELECT id, username, role, admin OR role = 'admin' AS admin, active, created_at
FROM users
WHERE $1::text IS NULL OR role = $1
ORDER BY lower(username);

-- name: user_by_name(username)
SELECT id, username, role, admin OR role = 'admin' AS admin, active, created_at
FROM users
WHERE lower(username) = lower($1);

-- name: user_by_id(id)
SELECT id, username, role, admin OR role = 'admin' AS admin, active, created_at
FROM users
WHERE id = $1;

-- name: update_user(id, role, admin, active)
-- A null leaves the value as it is.
UPDATE users
SET role = COALESCE($2, role), admin = COALESCE($3, admin), active = COALESCE($4, active)
WHERE id = $1
RETURNING id, username, role, admin OR role = 'admin' AS admin, active, created_at;

-- name: delete_user(id)
-- The keys go with the user, the usage rows stay.
DELETE FROM users WHERE id = $1;
