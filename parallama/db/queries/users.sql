-- name: create_user(username, admin, password)
-- No row when the name is taken, in whatever case.
INSERT INTO users (username, admin, password) VALUES ($1, $2, $3)
ON CONFLICT (lower(username)) DO NOTHING
RETURNING id;

-- name: ensure_user(username)
-- Make a basic user unless there is one of that name; an existing one stays as it is.
WITH made AS (
    INSERT INTO users (username) VALUES ($1) ON CONFLICT (lower(username)) DO NOTHING RETURNING id
)
INSERT INTO assignments (user_id, role_id, role, main, assigned_by)
SELECT made.id, r.id, r.name, true, 'server' FROM made, roles r WHERE r.name = 'basic';

-- name: users(role, active, after, limit, now)
-- By name; those who hold the role, who are active or not, and who come after that name in lower case; a null: any.
SELECT u.id, u.username, u.active, u.created_at, u.last_login_at, u.version, u.password IS NOT NULL AS has_password,
       (SELECT r.name FROM assignments a JOIN roles r ON r.id = a.role_id
        WHERE a.user_id = u.id AND a.main AND a.ended_at IS NULL) AS role,
       ARRAY(SELECT DISTINCT r.name FROM assignments a JOIN roles r ON r.id = a.role_id
             WHERE a.user_id = u.id AND a.ended_at IS NULL AND (a.expires_at IS NULL OR a.expires_at > $5)
             ORDER BY r.name) AS roles,
       u.admin OR EXISTS (
           SELECT FROM jsonb_array_elements(grants(u.id)) g
           WHERE g -> 'roles' ? 'admin' AND (g ->> 'expires_at' IS NULL OR (g ->> 'expires_at')::timestamptz > $5)
       ) AS admin
FROM users u
WHERE ($1::text IS NULL OR EXISTS (
        SELECT FROM assignments a JOIN roles r ON r.id = a.role_id
        WHERE a.user_id = u.id AND r.name = $1 AND a.ended_at IS NULL AND (a.expires_at IS NULL OR a.expires_at > $5)))
  AND ($2::boolean IS NULL OR u.active = $2)
  AND ($3::text IS NULL OR lower(u.username) > $3)
ORDER BY lower(u.username)
LIMIT $4::bigint;

-- name: user(id, username, now)
-- By the one or the other; the columns of `users`.
SELECT u.id, u.username, u.active, u.created_at, u.last_login_at, u.version, u.password IS NOT NULL AS has_password,
       (SELECT r.name FROM assignments a JOIN roles r ON r.id = a.role_id
        WHERE a.user_id = u.id AND a.main AND a.ended_at IS NULL) AS role,
       ARRAY(SELECT DISTINCT r.name FROM assignments a JOIN roles r ON r.id = a.role_id
             WHERE a.user_id = u.id AND a.ended_at IS NULL AND (a.expires_at IS NULL OR a.expires_at > $3)
             ORDER BY r.name) AS roles,
       u.admin OR EXISTS (
           SELECT FROM jsonb_array_elements(grants(u.id)) g
           WHERE g -> 'roles' ? 'admin' AND (g ->> 'expires_at' IS NULL OR (g ->> 'expires_at')::timestamptz > $3)
       ) AS admin
FROM users u
WHERE u.id = $1 OR lower(u.username) = lower($2);

-- name: lock_user(id, username)
-- By the one or the other, for a change that reads first.
SELECT id FROM users WHERE id = $1 OR lower(username) = lower($2) FOR UPDATE;

-- name: held(id)
-- What the user may do: by the flag, and by the roles, of which the reader judges whether they have expired.
SELECT admin, grants(id) AS grants FROM users WHERE id = $1;

-- name: role_names()
SELECT name FROM roles ORDER BY name;

-- name: role_grants(name)
-- What the role gives, with those above it.
WITH RECURSIVE above AS (
    SELECT id, name, parent_id, permissions FROM roles WHERE name = $1
    UNION
    SELECT r.id, r.name, r.parent_id, r.permissions FROM roles r JOIN above ON r.id = above.parent_id
)
SELECT bool_or(name = 'admin') AS admin,
       ARRAY(SELECT DISTINCT p FROM above i, unnest(i.permissions) p) AS permissions
FROM above
HAVING count(*) > 0;

-- name: update_user(id, username, admin, active)
-- A null leaves the value as it is; the version counts even so, for the role may change with it.
UPDATE users
SET username = COALESCE($2, username), admin = COALESCE($3, admin), active = COALESCE($4, active)
WHERE id = $1;

-- name: end_main_role(user_id, role, ended_at, ended_by)
-- And any other assignment of the role that is to become the main one.
UPDATE assignments a
SET ended_at = $3, ended_by = $4
FROM roles r
WHERE r.name = $2 AND a.user_id = $1 AND a.ended_at IS NULL AND (a.main OR a.role_id = r.id);

-- name: assign_main_role(user_id, role, assigned_by, assigned_at)
-- No row when the role is gone; the lock keeps it from going meanwhile.
INSERT INTO assignments (user_id, role_id, role, main, assigned_by, assigned_at)
SELECT $1, id, name, true, $3, $4 FROM roles WHERE name = $2 FOR KEY SHARE
RETURNING id;

-- name: set_password(id, password)
UPDATE users SET password = $2 WHERE id = $1;

-- name: rehash_password(id, password, instead_of)
-- Only while the password is still the one that was verified.
UPDATE users SET password = $2 WHERE id = $1 AND password = $3;

-- name: mark_login(id, last_login_at)
UPDATE users SET last_login_at = $2 WHERE id = $1;

-- name: credentials(username)
SELECT id AS user_id, username, active, password FROM users WHERE lower(username) = lower($1);

-- name: end_sessions(user_id, revoked_at, revoked_for)
UPDATE sessions SET revoked_at = $2, revoked_for = $3 WHERE user_id = $1 AND revoked_at IS NULL;

-- name: delete_user(id)
-- Keys, sessions and assignments go with the user, the usage rows stay.
DELETE FROM users WHERE id = $1;

-- name: admins_left(now)
-- How sure it is that somebody active is an admin, by the flag, the role or a role below it: 2, for good; 1, at that
-- moment, until their role expires; 0, nobody is.
WITH RECURSIVE admins AS (
    SELECT id FROM roles WHERE name = 'admin'
    UNION
    SELECT r.id FROM roles r JOIN admins ON r.parent_id = admins.id
), held AS (
    SELECT a.expires_at FROM assignments a JOIN admins ON admins.id = a.role_id JOIN users u ON u.id = a.user_id
    WHERE u.active AND a.ended_at IS NULL AND (a.expires_at IS NULL OR a.expires_at > $1)
)
SELECT CASE
    WHEN EXISTS (SELECT FROM users WHERE active AND admin) OR EXISTS (SELECT FROM held WHERE expires_at IS NULL) THEN 2
    WHEN EXISTS (SELECT FROM held) THEN 1
    ELSE 0 END;

-- name: lock_admins()
-- One at a time may find that there is an admin left: whoever comes next sees what the one before has changed.
SELECT pg_advisory_xact_lock(hashtext('parallama: the last admin'));
