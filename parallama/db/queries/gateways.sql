-- name: gateways()
-- Every family for which something was set; the settings as text.
SELECT name, settings::text AS settings, updated_at FROM gateways ORDER BY name;

-- name: lock_gateway(name)
-- Make the row if there is none, and keep others from changing it until the transaction ends.
INSERT INTO gateways (name, settings) VALUES ($1, '{}')
ON CONFLICT (name) DO UPDATE SET name = EXCLUDED.name
RETURNING settings::text AS settings;

-- name: set_gateway(name, settings)
INSERT INTO gateways (name, settings) VALUES ($1, $2::text::jsonb)
ON CONFLICT (name) DO UPDATE SET settings = EXCLUDED.settings, updated_at = now();

-- name: delete_gateway(name)
DELETE FROM gateways WHERE name = $1;
