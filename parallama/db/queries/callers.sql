-- name: caller_by_digest(digest)
-- All that is judged when a key is used, whatever its state; `previous`: by the secret before a rotation.
SELECT k.id AS key_id, k.user_id, u.username, u.admin, u.active, grants(u.id)::text AS grants,
       limits_of(u.id)::text AS limits, limits_of(k.id)::text AS key_limits,
       k.revoked_at IS NOT NULL AS revoked, k.enabled, k.expires_at, k.models, k.gateways, k.networks,
       k.priority_ceiling, k.digest <> $1 AS previous, k.previous_until
FROM api_keys k JOIN users u ON u.id = k.user_id
WHERE k.digest = $1 OR k.previous_digest = $1;

-- name: caller_by_session(session_id)
-- All that is judged of an access token that came of this login.
SELECT s.user_id, u.username, u.admin, u.active, grants(u.id)::text AS grants, limits_of(u.id)::text AS limits,
       s.revoked_at IS NOT NULL AS revoked, s.generation, s.expires_at
FROM sessions s JOIN users u ON u.id = s.user_id
WHERE s.id = $1;

-- name: caller_by_name(username)
-- The caller without a credential.
SELECT id AS user_id, username, active, grants(id)::text AS grants, limits_of(id)::text AS limits
FROM users WHERE lower(username) = lower($1);
