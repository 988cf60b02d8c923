-- Counts of limits that were reset, and who is told that counts are to be summed anew.

-- What had been used when counts were reset, which limits count no more. Sums and rows stay as they are.
CREATE TABLE limit_resets (
    id       uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id  uuid REFERENCES users ON DELETE CASCADE,
    key_id   uuid REFERENCES api_keys ON DELETE CASCADE,
    gateway  text,                   -- for limits of this one, or of '*', alone; null: for all
    model    text,                   -- for limits of this pattern alone; null: for all
    reset_at timestamptz NOT NULL DEFAULT now(),
    used     jsonb NOT NULL,         -- by hour, key, gateway and model, as the sums had it
    rows     uuid[] NOT NULL,        -- of the last minutes, that were there
    CHECK (num_nonnulls(user_id, key_id) = 1)
);
CREATE INDEX limit_resets_subject ON limit_resets (COALESCE(user_id, key_id));

-- Every process sums the counts of a user or key anew: "counts <id>" when a limit has changed, "reset <id>".
CREATE FUNCTION notify_counts() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    subject uuid;
BEGIN
    FOR subject IN
        SELECT id FROM unnest(ARRAY[OLD.user_id, NEW.user_id, OLD.key_id, NEW.key_id]) id WHERE id IS NOT NULL GROUP BY id
    LOOP
        PERFORM pg_notify('parallama', TG_ARGV[0] || ' ' || subject);
    END LOOP;
    RETURN NULL;
END $$;
CREATE TRIGGER notify_counts AFTER INSERT ON limit_resets FOR EACH ROW EXECUTE FUNCTION notify_counts('reset');
-- while a key has no limit of a scope nothing is counted in it
CREATE TRIGGER notify_counts AFTER INSERT OR DELETE OR UPDATE ON limits
    FOR EACH ROW EXECUTE FUNCTION notify_counts('counts');

-- As before, and of resets too.
CREATE OR REPLACE FUNCTION limit_name(whole jsonb) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN whole ?| '{meter,reset_at}' THEN concat_ws(' ',
        COALESCE(
            (SELECT r.name FROM roles r WHERE r.id = (whole ->> 'role_id')::uuid),
            (SELECT k.hint FROM api_keys k WHERE k.id = (whole ->> 'key_id')::uuid),
            (SELECT a.name FROM audit a WHERE a.target IN (whole ->> 'role_id', whole ->> 'key_id')
             ORDER BY a.id DESC LIMIT 1)),
        whole ->> 'gateway', whole ->> 'model', whole ->> 'meter', whole ->> 'period') END
$$;
CREATE TRIGGER audited AFTER INSERT ON limit_resets
    FOR EACH ROW EXECUTE FUNCTION audited('limit_reset', 'used,rows');
