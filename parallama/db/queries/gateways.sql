-- name: gateways()
-- Every family for which something was set; the settings as text.
SELECT name, settings::text AS settings, version, updated_at FROM gateways ORDER BY name;

-- name: lock_gateways()
-- Keep others from changing one, be there a row or none, until the transaction ends.
SELECT pg_advisory_xact_lock(hashtext('parallama gateways'));

-- name: gateway(name)
SELECT settings::text AS settings, version FROM gateways WHERE name = $1;

-- name: set_gateway(name, settings)
INSERT INTO gateways (name, settings) VALUES ($1, $2::text::jsonb)
ON CONFLICT (name) DO UPDATE SET settings = EXCLUDED.settings, updated_at = now()
RETURNING version;
