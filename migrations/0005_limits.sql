-- Limits: how much users, keys and the holders of roles may use in a time.

CREATE TABLE limits (
    id                uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id           uuid REFERENCES users ON DELETE CASCADE,
    key_id            uuid REFERENCES api_keys ON DELETE CASCADE,
    role_id           uuid REFERENCES roles ON DELETE CASCADE, -- a template for all who have the role
    gateway           text NOT NULL CHECK (gateway = '*' OR gateway ~ '^[a-z][a-z0-9_]{0,62}$'),
    model             text CHECK (model <> ''),                -- a pattern of names; null: any
    meter             text NOT NULL
        CHECK (meter IN ('requests', 'prompt_tokens', 'output_tokens', 'total_tokens', 'concurrency')),
    period            text NOT NULL CHECK (period IN ('minute', 'hour', 'day', 'month', 'now')),
    amount            bigint NOT NULL CHECK (amount BETWEEN 0 AND 9007199254740991), -- 2^53 - 1: exact in JSON and Lua
    admission         text NOT NULL DEFAULT 'strict' CHECK (admission IN ('strict', 'estimate')),
    outage            text NOT NULL DEFAULT 'closed' CHECK (outage IN ('closed', 'open')),
    max_output_tokens bigint CHECK (max_output_tokens BETWEEN 1 AND 9007199254740991), -- null: the setting
    version           bigint NOT NULL DEFAULT 1,
    updated_at        timestamptz NOT NULL DEFAULT now(),
    CHECK (num_nonnulls(user_id, key_id, role_id) = 1),
    CHECK ((period = 'now') = (meter = 'concurrency'))
);
CREATE UNIQUE INDEX limits_scope ON limits
    (COALESCE(user_id, key_id, role_id), gateway, COALESCE(model, ''), meter, period);
CREATE INDEX limits_user ON limits (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX limits_key ON limits (key_id) WHERE key_id IS NOT NULL;
CREATE INDEX limits_role ON limits (role_id) WHERE role_id IS NOT NULL;

-- Limits with whose they are: the name of the user, the id of the key, or the name of the role. `holder` is its id.
CREATE VIEW limit_records AS
    SELECT l.id, u.username AS "user", l.key_id AS key, r.name AS role, l.gateway, l.model, l.meter, l.period, l.amount,
           l.admission, l.outage, l.max_output_tokens, l.updated_at, l.version,
           COALESCE(l.user_id, l.key_id, l.role_id) AS holder
    FROM limits l LEFT JOIN users u ON u.id = l.user_id LEFT JOIN roles r ON r.id = l.role_id;

-- All limits of one user, key or role, in a fixed order.
CREATE FUNCTION limits_of(subject uuid) RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT COALESCE(jsonb_agg(jsonb_build_object(
        'gateway', gateway, 'model', model, 'meter', meter, 'period', period, 'amount', amount, 'subject', subject,
        'strict', admission = 'strict', 'open', outage = 'open', 'max_output_tokens', max_output_tokens
    ) ORDER BY gateway, model, meter, period), '[]')
    FROM limits WHERE COALESCE(user_id, key_id, role_id) = subject
$$;

-- What a user holds, with the limits of each role beside its name.
CREATE OR REPLACE FUNCTION grants(of_user uuid) RETURNS jsonb LANGUAGE sql STABLE AS $$
    WITH RECURSIVE held AS (
        SELECT a.id, a.expires_at, r.id AS role_id, r.name, r.parent_id, r.permissions, ARRAY[r.id] AS path
        FROM assignments a JOIN roles r ON r.id = a.role_id
        WHERE a.user_id = of_user AND a.ended_at IS NULL
        UNION ALL
        SELECT h.id, h.expires_at, r.id, r.name, r.parent_id, r.permissions, h.path || r.id
        FROM held h JOIN roles r ON r.id = h.parent_id
        WHERE r.id <> ALL (h.path)
    ), one AS (
        SELECT h.id, min(h.expires_at) AS expires_at,
               array_agg(h.name ORDER BY cardinality(h.path)) AS roles,
               jsonb_agg(limits_of(h.role_id) ORDER BY cardinality(h.path)) AS limits,
               ARRAY(SELECT DISTINCT p FROM held i, unnest(i.permissions) p WHERE i.id = h.id ORDER BY p) AS permissions
        FROM held h GROUP BY h.id
    )
    SELECT COALESCE(jsonb_agg(jsonb_build_object(
        'roles', roles, 'limits', limits, 'permissions', permissions, 'expires_at', expires_at)), '[]') FROM one
$$;

CREATE TRIGGER count_version BEFORE UPDATE OF amount, admission, outage, max_output_tokens ON limits
    FOR EACH ROW EXECUTE FUNCTION count_version();

-- Every process drops what it has cached of those whose limit it is.
CREATE FUNCTION notify_limit() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    told text;
BEGIN
    FOR told IN
        SELECT 'user ' || id FROM unnest(ARRAY[OLD.user_id, NEW.user_id]) id WHERE id IS NOT NULL
        UNION SELECT 'role ' || id FROM unnest(ARRAY[OLD.role_id, NEW.role_id]) id WHERE id IS NOT NULL
        UNION SELECT 'key ' || encode(d, 'hex') FROM api_keys k, unnest(ARRAY[k.digest, k.previous_digest]) d
        WHERE k.id IN (OLD.key_id, NEW.key_id) AND d IS NOT NULL
    LOOP
        PERFORM pg_notify('parallama', told);
    END LOOP;
    RETURN NULL;
END $$;
CREATE TRIGGER notify_limit AFTER INSERT OR DELETE OR UPDATE ON limits
    FOR EACH ROW EXECUTE FUNCTION notify_limit();

-- What the audit trail calls a limit: the role or key that has it, and what it counts. Null: the row is none. What goes
-- with a deleted role or key has its name from the row of that one's end, which is written before.
CREATE FUNCTION limit_name(whole jsonb) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN whole ? 'meter' THEN concat_ws(' ',
        COALESCE(
            (SELECT r.name FROM roles r WHERE r.id = (whole ->> 'role_id')::uuid),
            (SELECT k.hint FROM api_keys k WHERE k.id = (whole ->> 'key_id')::uuid),
            (SELECT a.name FROM audit a WHERE a.target IN (whole ->> 'role_id', whole ->> 'key_id')
             ORDER BY a.id DESC LIMIT 1)),
        whole ->> 'gateway', whole ->> 'model', whole ->> 'meter', whole ->> 'period') END
$$;

-- As before, and of limits too: a limit of a key is its user's.
CREATE OR REPLACE FUNCTION audited() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    who     jsonb := COALESCE(NULLIF(current_setting('parallama.actor', true), ''), '{}')::jsonb;
    untold  text[] := string_to_array(TG_ARGV[1], ',');
    old_row jsonb;
    new_row jsonb;
    whole   jsonb;
BEGIN
    IF TG_OP <> 'INSERT' THEN old_row := to_jsonb(OLD) - untold; END IF;
    IF TG_OP <> 'DELETE' THEN new_row := to_jsonb(NEW) - untold; END IF;
    whole := COALESCE(new_row, old_row);
    IF TG_OP = 'UPDATE' THEN
        SELECT jsonb_object_agg(key, old_row -> key), jsonb_object_agg(key, value) INTO old_row, new_row
        FROM jsonb_each(new_row) WHERE value IS DISTINCT FROM old_row -> key;
        IF new_row IS NULL THEN RETURN NULL; END IF;
    END IF;
    INSERT INTO audit (actor, actor_id, via, request_id, address, action, target, name, username, before, after)
    VALUES (
        COALESCE(who ->> 'name', session_user), (who ->> 'user_id')::uuid, COALESCE(who ->> 'via', 'sql'),
        (who ->> 'request_id')::uuid, who ->> 'address',
        TG_ARGV[0] || CASE TG_OP WHEN 'INSERT' THEN '.create' WHEN 'UPDATE' THEN '.change' ELSE '.delete' END,
        COALESCE(whole ->> 'id', whole ->> 'name'),
        COALESCE(whole ->> 'username', whole ->> 'name', whole ->> 'role', whole ->> 'hint', limit_name(whole)),
        -- of what goes with a deleted user, the name is in the row of the user's end, which is written before
        COALESCE(whole ->> 'username', (SELECT u.username FROM users u WHERE u.id = (whole ->> 'user_id')::uuid),
            (SELECT u.username FROM api_keys k JOIN users u ON u.id = k.user_id
             WHERE k.id = (whole ->> 'key_id')::uuid),
            (SELECT a.username FROM audit a WHERE a.target IN (whole ->> 'user_id', whole ->> 'key_id')
             ORDER BY a.id DESC LIMIT 1)),
        masked(old_row), masked(new_row));
    RETURN NULL;
END $$;
CREATE TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON limits
    FOR EACH ROW EXECUTE FUNCTION audited('limit', 'version,updated_at');
