-- What was set for a gateway family since the settings file was written, over which it stands; and whom a client serves.

ALTER TABLE usage ADD COLUMN end_user text; -- in the words of the client, which may be anything

CREATE TABLE gateways (
    name       text PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9_]{0,62}$'),
    settings   jsonb NOT NULL CHECK (jsonb_typeof(settings) = 'object'),
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- Every process hears "gateway <name>" on the channel "parallama" and reads the table again.
CREATE FUNCTION notify_gateway() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('parallama', 'gateway ' || COALESCE(NEW.name, OLD.name));
    RETURN NULL;
END $$;
CREATE TRIGGER notify_gateway AFTER INSERT OR DELETE OR UPDATE ON gateways
    FOR EACH ROW EXECUTE FUNCTION notify_gateway();
