-- Users, their API keys, and one usage row for every exchange.

CREATE TABLE users (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    username   text NOT NULL CHECK (username ~ '^[A-Za-z0-9][A-Za-z0-9._@-]{0,62}$'),
    role       text NOT NULL DEFAULT 'basic',
    admin      boolean NOT NULL DEFAULT false,
    active     boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX users_username ON users (lower(username));

CREATE TABLE api_keys (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id      uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    digest       bytea NOT NULL UNIQUE CHECK (length(digest) = 32), -- SHA-256 of the whole key
    hint         text NOT NULL,                                     -- its first and last characters, to tell keys apart
    description  text NOT NULL DEFAULT '',
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz
);
CREATE INDEX api_keys_user ON api_keys (user_id);

-- Every process listens on the channel "parallama" and drops what it has cached of the named row.
-- The payload is "key <digest in hex>" or "user <id>".
CREATE FUNCTION notify_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('parallama', 'key ' || encode(COALESCE(NEW.digest, OLD.digest), 'hex'));
    RETURN NULL;
END $$;
CREATE TRIGGER notify_key AFTER INSERT OR DELETE OR UPDATE OF user_id, digest, expires_at, revoked_at ON api_keys
    FOR EACH ROW EXECUTE FUNCTION notify_key();

CREATE FUNCTION notify_user() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('parallama', 'user ' || COALESCE(NEW.id, OLD.id));
    RETURN NULL;
END $$;
CREATE TRIGGER notify_user AFTER INSERT OR DELETE OR UPDATE ON users
    FOR EACH ROW EXECUTE FUNCTION notify_user();

-- One row an exchange. Partitioned by day of the UUIDv7 id, so that a day is dropped whole; names are copied in and
-- nothing refers to it, so that rows outlive users, keys and nodes.
CREATE TABLE usage (
    id                uuid PRIMARY KEY,
    created_at        timestamptz NOT NULL,
    user_id           uuid NOT NULL,
    username          text NOT NULL,
    key_id            uuid,
    gateway           text NOT NULL,
    operation         text NOT NULL,
    model_asked       text,
    model             text,
    node              text,
    prompt_tokens     bigint CHECK (prompt_tokens >= 0),
    output_tokens     bigint CHECK (output_tokens >= 0),
    estimated         boolean NOT NULL,
    ttft_ms           double precision,
    duration_ms       double precision NOT NULL,
    status            smallint NOT NULL,
    outcome           text NOT NULL CHECK (outcome IN ('ok', 'refused', 'failed', 'cancelled')),
    error             text,
    streamed          boolean NOT NULL,
    request_bytes     bigint NOT NULL,
    response_bytes    bigint NOT NULL,
    context_full      boolean,
    client_request_id text
) PARTITION BY RANGE (id);
CREATE INDEX usage_user ON usage (lower(username), id);

-- The smallest UUIDv7 of a moment.
CREATE FUNCTION usage_floor(moment timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT (lpad(to_hex(floor(extract(epoch FROM moment) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

-- Make the partition of each UTC day from the day of `first` to that of `last`. Attached after it is made: that waits
-- for no reader and no writer of the table, as CREATE TABLE ... PARTITION OF does. The days are counted as timestamps
-- without a zone, because the session's zone may lack a midnight.
CREATE FUNCTION usage_partitions(first timestamptz, last timestamptz) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    day timestamp;
    name text;
BEGIN
    FOR day IN SELECT generate_series(date_trunc('day', first AT TIME ZONE 'UTC'), last AT TIME ZONE 'UTC', '1 day') LOOP
        name := 'usage_' || to_char(day, 'YYYYMMDD');
        CONTINUE WHEN to_regclass(name) IS NOT NULL;
        EXECUTE format('CREATE TABLE %I (LIKE usage INCLUDING ALL)', name);
        EXECUTE format(
            'ALTER TABLE usage ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', name,
            usage_floor(day AT TIME ZONE 'UTC'), usage_floor((day + interval '1 day') AT TIME ZONE 'UTC'));
    END LOOP;
END $$;
