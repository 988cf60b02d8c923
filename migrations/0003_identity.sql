-- Roles and who has them, passwords, sessions with their refresh tokens, what a key is limited to, settings that are
-- recorded, and the audit trail of all of it.

-- What there is to be permitted. A gateway brings `use_<family>` the first time that a server starts with it.
CREATE TABLE permissions (
    name       text PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9_]{0,80}$'),
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE roles (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name        text NOT NULL UNIQUE CHECK (name ~ '^[a-z][a-z0-9_-]{0,62}$'),
    description text NOT NULL DEFAULT '',
    parent_id   uuid REFERENCES roles,               -- whose permissions it has too
    permissions text[] NOT NULL DEFAULT '{}',        -- of its own; `use_*` stands for every gateway
    seeded      boolean NOT NULL DEFAULT false,
    version     bigint NOT NULL DEFAULT 1,
    created_at  timestamptz NOT NULL DEFAULT now()
);

-- Who has which role, since when and until when. Rows are ended, never deleted: they are the history.
CREATE TABLE assignments (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id     uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    role_id     uuid REFERENCES roles ON DELETE SET NULL,
    role        text NOT NULL,                       -- the name, for when the role is gone
    main        boolean NOT NULL DEFAULT false,      -- the role that lists show of the user; it does not expire
    assigned_by text NOT NULL,
    assigned_at timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz,
    ended_at    timestamptz,
    ended_by    text,
    CHECK (NOT main OR expires_at IS NULL)
);
CREATE UNIQUE INDEX assignments_main ON assignments (user_id) WHERE main AND ended_at IS NULL;
CREATE INDEX assignments_user ON assignments (user_id, assigned_at);
CREATE INDEX assignments_role ON assignments (role_id);

-- What a user holds: for every assignment that was not ended, its role with those above it, and all their permissions.
-- Whether one has expired is for the reader to judge, to whom the moment may still lie ahead.
CREATE FUNCTION grants(of_user uuid) RETURNS jsonb LANGUAGE sql STABLE AS $$
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
               ARRAY(SELECT DISTINCT p FROM held i, unnest(i.permissions) p WHERE i.id = h.id ORDER BY p) AS permissions
        FROM held h GROUP BY h.id
    )
    SELECT COALESCE(jsonb_agg(jsonb_build_object(
        'roles', roles, 'permissions', permissions, 'expires_at', expires_at)), '[]') FROM one
$$;

INSERT INTO permissions (name) VALUES
    ('manage_users'), ('manage_roles'), ('manage_models'), ('view_metrics'),
    ('premium_rate_limits'), ('basic_rate_limits'), ('use_ollama'), ('use_openai'), ('use_anthropic');
INSERT INTO roles (name, description, permissions, seeded) VALUES
    ('admin', 'May do everything.',
     '{manage_models,manage_roles,manage_users,premium_rate_limits,use_*,view_metrics}', true),
    ('premium', 'May use the gateways of the SDKs too.',
     '{premium_rate_limits,use_anthropic,use_ollama,use_openai}', true),
    ('basic', 'May use Ollama''s own API.', '{basic_rate_limits,use_ollama}', true);

-- Users who are there keep what they could do: use every gateway.
INSERT INTO roles (name, description, permissions)
SELECT 'every_gateway', 'What every user might do before there were roles.', '{use_*}'
WHERE EXISTS (SELECT FROM users WHERE role <> 'admin');
INSERT INTO assignments (user_id, role_id, role, main, assigned_by)
SELECT u.id, r.id, r.name, r.name = u.role, 'migration'
FROM users u JOIN roles r ON r.name = u.role OR (r.name = 'every_gateway' AND u.role <> 'admin');
ALTER TABLE users DROP COLUMN role;

ALTER TABLE users
    ADD COLUMN password      text,                   -- argon2id in its encoded form; null: keys only
    ADD COLUMN last_login_at timestamptz,
    ADD COLUMN version       bigint NOT NULL DEFAULT 1;

ALTER TABLE api_keys
    ADD COLUMN enabled          boolean NOT NULL DEFAULT true,
    ADD COLUMN models           text[],              -- patterns of names of models; null: all
    ADD COLUMN gateways         text[],              -- families; null: all
    ADD COLUMN networks         text[],              -- addresses or CIDR ranges of clients; null: all
    ADD COLUMN priority_ceiling text CHECK (priority_ceiling IN ('low', 'normal', 'high')), -- null: none of its own
    ADD COLUMN previous_digest  bytea UNIQUE CHECK (length(previous_digest) = 32), -- of the secret before a rotation
    ADD COLUMN previous_until   timestamptz,         -- when that one ends
    ADD COLUMN rotated_at       timestamptz,
    ADD COLUMN version          bigint NOT NULL DEFAULT 1;

-- A login, and every refresh token that has come of it.
CREATE TABLE sessions (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id      uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    generation   integer NOT NULL DEFAULT 0,         -- access tokens of an earlier one are dead
    address      text,
    created_at   timestamptz NOT NULL,
    last_used_at timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL,
    revoked_at   timestamptz,
    revoked_for  text CHECK (revoked_for IN ('logout', 'reuse', 'admin', 'password', 'inactive'))
);
CREATE INDEX sessions_user ON sessions (user_id, created_at);

CREATE TABLE refresh_tokens (
    digest     bytea PRIMARY KEY CHECK (length(digest) = 32), -- SHA-256 of the whole token
    session_id uuid NOT NULL REFERENCES sessions ON DELETE CASCADE,
    created_at timestamptz NOT NULL,
    rotated_at timestamptz                            -- null: the live one of its session
);
CREATE INDEX refresh_tokens_session ON refresh_tokens (session_id);

-- What was set since the settings file was written, by its section, over which it stands.
CREATE TABLE settings (
    name       text PRIMARY KEY,
    value      jsonb NOT NULL CHECK (jsonb_typeof(value) = 'object'),
    version    bigint NOT NULL DEFAULT 1,
    updated_at timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE gateways ADD COLUMN version bigint NOT NULL DEFAULT 1;

-- The version of a row counts its changes, so that who would change what somebody else has changed meanwhile is told.
CREATE FUNCTION count_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := OLD.version + 1;
    RETURN NEW;
END $$;
CREATE TRIGGER count_version BEFORE UPDATE OF username, admin, active, password ON users
    FOR EACH ROW EXECUTE FUNCTION count_version();
CREATE TRIGGER count_version BEFORE UPDATE OF digest, description, expires_at, revoked_at, enabled, models, gateways,
    networks, priority_ceiling, previous_digest, previous_until ON api_keys
    FOR EACH ROW EXECUTE FUNCTION count_version();
CREATE TRIGGER count_version BEFORE UPDATE OF name, description, parent_id, permissions ON roles
    FOR EACH ROW EXECUTE FUNCTION count_version();
CREATE TRIGGER count_version BEFORE UPDATE OF settings ON gateways
    FOR EACH ROW EXECUTE FUNCTION count_version();
CREATE TRIGGER count_version BEFORE UPDATE OF value ON settings
    FOR EACH ROW EXECUTE FUNCTION count_version();

-- Every process hears of what it may have cached: "key <digest>", "user <id>", "role <id>", "session <id>",
-- "settings <name>".
CREATE OR REPLACE FUNCTION notify_key() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed bytea;
BEGIN
    FOR changed IN
        SELECT DISTINCT d FROM unnest(ARRAY[OLD.digest, OLD.previous_digest, NEW.digest, NEW.previous_digest]) d
        WHERE d IS NOT NULL
    LOOP
        PERFORM pg_notify('parallama', 'key ' || encode(changed, 'hex'));
    END LOOP;
    RETURN NULL;
END $$;
DROP TRIGGER notify_key ON api_keys;
CREATE TRIGGER notify_key AFTER INSERT OR DELETE OR UPDATE OF user_id, digest, expires_at, revoked_at, enabled, models,
    gateways, networks, priority_ceiling, previous_digest, previous_until ON api_keys
    FOR EACH ROW EXECUTE FUNCTION notify_key();

DROP TRIGGER notify_user ON users;
CREATE TRIGGER notify_user AFTER INSERT OR DELETE OR UPDATE OF username, admin, active ON users
    FOR EACH ROW EXECUTE FUNCTION notify_user();

CREATE FUNCTION notify_assignment() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('parallama', 'user ' || COALESCE(NEW.user_id, OLD.user_id));
    RETURN NULL;
END $$;
CREATE TRIGGER notify_assignment AFTER INSERT OR DELETE OR UPDATE ON assignments
    FOR EACH ROW EXECUTE FUNCTION notify_assignment();

-- "<kind> <column>", for tables of which one column is all there is to tell
CREATE FUNCTION notify_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('parallama', TG_ARGV[0] || ' ' ||
        (CASE TG_OP WHEN 'DELETE' THEN to_jsonb(OLD) ELSE to_jsonb(NEW) END ->> TG_ARGV[1]));
    RETURN NULL;
END $$;
CREATE TRIGGER notify_role AFTER DELETE OR UPDATE ON roles FOR EACH ROW EXECUTE FUNCTION notify_row('role', 'id');
CREATE TRIGGER notify_session AFTER DELETE OR UPDATE OF generation, expires_at, revoked_at ON sessions
    FOR EACH ROW EXECUTE FUNCTION notify_row('session', 'id');
CREATE TRIGGER notify_settings AFTER INSERT OR DELETE OR UPDATE ON settings
    FOR EACH ROW EXECUTE FUNCTION notify_row('settings', 'name');

-- The audit trail: a row for every change, written by the change itself, whoever makes it.
CREATE TABLE audit (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor      text NOT NULL,
    actor_id   uuid,                                  -- null: no user
    via        text NOT NULL,                         -- api, login, command, server, sql
    request_id uuid,
    address    text,
    action     text NOT NULL,                         -- such as user.create, key.change, assignment.delete
    target     text NOT NULL,                         -- the id of what was changed
    name       text,                                  -- its name
    username   text,                                  -- whose it is
    before     jsonb,                                 -- of a change only what has changed; secrets masked
    after      jsonb
);
CREATE INDEX audit_target ON audit (target, id);
CREATE INDEX audit_actor ON audit (lower(actor), id);

CREATE FUNCTION audit_is_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit trail is append-only';
END $$;
CREATE TRIGGER audit_is_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION audit_is_kept();

-- Without what nobody may read: values under names that say so, and the user part of URLs.
CREATE FUNCTION masked(document jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE jsonb_typeof(document)
        WHEN 'object' THEN (
            SELECT COALESCE(jsonb_object_agg(key, CASE
                WHEN key ~* '(secret|password|token|api_key|digest)$' AND value <> 'null' THEN '"********"'
                ELSE masked(value) END), '{}')
            FROM jsonb_each(document))
        WHEN 'array' THEN (
            SELECT COALESCE(jsonb_agg(masked(value) ORDER BY place), '[]')
            FROM jsonb_array_elements(document) WITH ORDINALITY AS element (value, place))
        WHEN 'string' THEN to_jsonb(regexp_replace(document #>> '{}', '://[^/@\s]+@', '://********@'))
        ELSE document END
$$;

-- audited(kind, columns that tell nothing): who does it is in the setting parallama.actor, a JSON object, for as long as
-- the transaction lasts.
CREATE FUNCTION audited() RETURNS trigger LANGUAGE plpgsql AS $$
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
        COALESCE(whole ->> 'username', whole ->> 'name', whole ->> 'role', whole ->> 'hint'),
        -- of what goes with a deleted user, the name is in the row of the user's end, which is written before
        COALESCE(whole ->> 'username', (SELECT u.username FROM users u WHERE u.id = (whole ->> 'user_id')::uuid),
            (SELECT a.username FROM audit a WHERE a.target = whole ->> 'user_id' ORDER BY a.id DESC LIMIT 1)),
        masked(old_row), masked(new_row));
    RETURN NULL;
END $$;
CREATE TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON users
    FOR EACH ROW EXECUTE FUNCTION audited('user', 'version,last_login_at');
CREATE TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON api_keys
    FOR EACH ROW EXECUTE FUNCTION audited('key', 'version,last_used_at');
CREATE TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON roles
    FOR EACH ROW EXECUTE FUNCTION audited('role', 'version');
CREATE TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON assignments
    FOR EACH ROW EXECUTE FUNCTION audited('assignment', 'role_id');
CREATE TRIGGER audited AFTER INSERT OR UPDATE ON sessions
    FOR EACH ROW EXECUTE FUNCTION audited('session', 'last_used_at');
CREATE TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON gateways
    FOR EACH ROW EXECUTE FUNCTION audited('gateway', 'version,updated_at');
CREATE TRIGGER audited AFTER INSERT OR UPDATE OR DELETE ON settings
    FOR EACH ROW EXECUTE FUNCTION audited('settings', 'version,updated_at');
