-- name: setting(name)
-- What was set over the settings file; the value as text.
SELECT value::text AS value, version FROM settings WHERE name = $1;

-- name: change_setting(name, value, version)
-- Set the keys of `value` and leave the others. No row when the version is another one; what was never set is version
-- 0, and null is any.
INSERT INTO settings AS s (name, value)
SELECT $1, $2::text::jsonb
WHERE COALESCE($3::bigint, 0) = 0 OR EXISTS (SELECT FROM settings WHERE name = $1)
ON CONFLICT (name) DO UPDATE SET value = s.value || EXCLUDED.value, updated_at = now()
WHERE $3::bigint IS NULL OR s.version = $3
RETURNING value::text AS value, version;
