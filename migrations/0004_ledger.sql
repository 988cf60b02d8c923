-- Sums of usage by the hour, which reports read; single rows are kept for some days only.

-- An hour of the deployment's clock, which need not be one of UTC. Where there was no key, model or node, it is empty.
CREATE TABLE usage_hours (
    hour          timestamptz NOT NULL,
    user_id       uuid NOT NULL,
    username      text NOT NULL,
    key_id        uuid NOT NULL,   -- all zeros: an access token, or nobody
    gateway       text NOT NULL,
    model         text NOT NULL,   -- the one served, else the one asked for
    node          text NOT NULL,
    requests      bigint NOT NULL,
    ok            bigint NOT NULL,
    failed        bigint NOT NULL,
    cancelled     bigint NOT NULL,
    refused       bigint NOT NULL,
    estimated     bigint NOT NULL, -- of the requests
    prompt_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    duration_ms   double precision NOT NULL,
    ttft_ms       double precision NOT NULL,
    ttft_count    bigint NOT NULL, -- of the requests: those with a first byte
    PRIMARY KEY (hour, user_id, username, key_id, gateway, model, node)
);
CREATE INDEX usage_hours_user ON usage_hours (lower(username), hour);

-- The hour of the clock in `zone` in which a moment lies. Counted back from the moment: where a clock is put back, two
-- hours have the same name.
CREATE FUNCTION usage_hour(moment timestamptz, zone text) RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT moment - (moment AT TIME ZONE zone - date_trunc('hour', moment AT TIME ZONE zone))
$$;

-- Drop the partitions of the days before the UTC day of `moment`, oldest first; their number. Waits for no reader for
-- longer than the session's lock_timeout.
CREATE FUNCTION usage_forget(moment timestamptz) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    name text;
    dropped integer := 0;
BEGIN
    FOR name IN
        SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
        WHERE inhparent = 'usage'::regclass AND relname < 'usage_' || to_char(moment AT TIME ZONE 'UTC', 'YYYYMMDD')
        ORDER BY relname
    LOOP
        EXECUTE format('DROP TABLE %I', name);
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END $$;

INSERT INTO usage_hours
SELECT usage_hour(created_at, 'UTC'), user_id, username, COALESCE(key_id, '00000000-0000-0000-0000-000000000000'),
    gateway, COALESCE(model, model_asked, ''), COALESCE(node, ''),
    count(*), count(*) FILTER (WHERE outcome = 'ok'), count(*) FILTER (WHERE outcome = 'failed'),
    count(*) FILTER (WHERE outcome = 'cancelled'), count(*) FILTER (WHERE outcome = 'refused'),
    count(*) FILTER (WHERE estimated), COALESCE(sum(prompt_tokens), 0), COALESCE(sum(output_tokens), 0),
    sum(duration_ms), COALESCE(sum(ttft_ms), 0), count(ttft_ms)
FROM usage
GROUP BY 1, 2, 3, 4, 5, 6, 7;
