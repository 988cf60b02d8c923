-- name: roles(name, after, limit, now)
-- By name: the one, or those after that name; a null: any. With what those above it give, and how many users hold it at
-- that moment. UNION ends where a hierarchy runs in a circle.
WITH RECURSIVE above AS (
    SELECT r.id AS below, p.id, p.name, p.parent_id, p.permissions FROM roles r JOIN roles p ON p.id = r.parent_id
    UNION
    SELECT a.below, p.id, p.name, p.parent_id, p.permissions FROM above a JOIN roles p ON p.id = a.parent_id
)
SELECT r.id, r.name, r.description, r.permissions, r.seeded, r.created_at, r.version,
       (SELECT p.name FROM roles p WHERE p.id = r.parent_id) AS parent,
       ARRAY(SELECT a.name FROM above a WHERE a.below = r.id) AS above,
       ARRAY(SELECT DISTINCT p FROM above a, unnest(a.permissions) p WHERE a.below = r.id) AS inherited,
       (SELECT count(DISTINCT a.user_id) FROM assignments a
        WHERE a.role_id = r.id AND a.ended_at IS NULL AND (a.expires_at IS NULL OR a.expires_at > $4)) AS users
FROM roles r
WHERE ($1::text IS NULL OR r.name = $1) AND ($2::text IS NULL OR r.name COLLATE "C" > $2)
ORDER BY r.name COLLATE "C"
LIMIT $3::bigint;

-- name: lock_roles()
-- One change of the hierarchy at a time, or two together could make a circle. Readers and those who assign do not wait.
LOCK TABLE roles IN SHARE ROW EXCLUSIVE MODE;

-- name: create_role(name, description, parent_id, permissions)
-- No row when the name is taken.
INSERT INTO roles (name, description, parent_id, permissions) VALUES ($1, $2, $3, $4)
ON CONFLICT (name) DO NOTHING
RETURNING id;

-- name: is_taken(name, but_id)
-- Whether another role has the name. With the roles locked, it stays so.
SELECT EXISTS (SELECT FROM roles WHERE name = $1 AND id <> $2);

-- name: update_role(id, name, description, parent_id, permissions)
UPDATE roles SET name = $2, description = $3, parent_id = $4, permissions = $5 WHERE id = $1;

-- name: children(id)
SELECT name FROM roles WHERE parent_id = $1 ORDER BY name COLLATE "C";

-- name: orphan(parent_id)
UPDATE roles SET parent_id = NULL WHERE parent_id = $1;

-- name: lock_holders(role_id)
-- Who has or had the role. As changes of users do, this takes the users before their assignments: in the other order the
-- two would wait for each other.
SELECT id FROM users WHERE id IN (SELECT user_id FROM assignments WHERE role_id = $1) ORDER BY id FOR NO KEY UPDATE;

-- name: end_role(role_id, role, ended_at, ended_by)
-- Everybody's; what had expired stays as it is. The role goes from the row here: a row that is changed twice in one
-- transaction has its user checked, and locked, once more.
UPDATE assignments SET role = $2, role_id = NULL, ended_at = $3, ended_by = $4
WHERE role_id = $1 AND ended_at IS NULL AND (expires_at IS NULL OR expires_at > $3);

-- name: delete_role(id)
DELETE FROM roles WHERE id = $1;

-- name: permissions()
SELECT name FROM permissions ORDER BY name COLLATE "C";

-- name: add_permissions(names)
-- Those that were not there before. Whoever adds the same at this moment is waited for.
INSERT INTO permissions (name) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING RETURNING name;

-- name: give(permission, roles)
-- To seeded roles of these names that have not got it, nor every gateway.
UPDATE roles SET permissions = ARRAY(SELECT p FROM unnest(permissions || $1::text) p ORDER BY p COLLATE "C")
WHERE name = ANY ($2::text[]) AND seeded AND NOT permissions && ARRAY[$1::text, 'use_*'];
