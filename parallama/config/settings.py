"""The settings, frozen and typed: one class a section, a docstring under each field.

Where their values come from is resolve.py's. Times are seconds unless the name says otherwise.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from parallama.config.values import (
    Count,
    CountOrNone,
    ForwardedHeader,
    Label,
    Network,
    NodeUrl,
    OptionalHeader,
    OptionalPath,
    Options,
    Port,
    PostgresUrl,
    RedisUrl,
    Seconds,
    SecondsOrNone,
    SigningSecret,
    Text,
    TimeZone,
    WebOrigin,
    Weights,
)


class Section(BaseModel):
    """Refuses unknown keys and later changes."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
        validate_default=True,
    )


class ServerSettings(Section):
    """Where clients are heard, and for how long."""

    host: Text = "127.0.0.1"
    """Address or name to listen on; 0.0.0.0 hears every IPv4 network."""
    port: Port = 8000
    """TCP port, 0 to 65535; 0 takes any that is free."""
    drain_s: SecondsOrNone = 30.0
    """Seconds that exchanges in flight may still take when the server stops; 0: they are cut at once."""
    max_body_mb: Count = 64
    """Largest request body, in MiB; a longer one is answered 413. Uploads of blobs are not bounded."""
    keepalive_s: SecondsOrNone = 75.0
    """Seconds that an idle client connection stays open; 0: it is closed after each answer."""
    head_s: Seconds = 30.0
    """Longest time in seconds from the first byte of a request to the end of its head."""
    trusted_proxies: tuple[Network, ...] = ()
    """Addresses or CIDR ranges of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed; of all others they
    are ignored."""
    cors_origins: tuple[WebOrigin, ...] = ()
    """Origins, such as https://chat.example.org, whose pages browsers may let ask here; none: those of no other
    origin. There is no wildcard."""


class DatabaseSettings(Section):
    """PostgreSQL, and how long it may take."""

    url: PostgresUrl = None
    """postgresql://user:password@host:port/database; none: a private PostgreSQL in the state directory."""
    url_file: OptionalPath = None
    """A file that holds the URL instead, closed to others (mode 0600 or 0640)."""
    pool_size: Count = 10
    """Most connections that one process opens."""
    connect_s: Seconds = 5.0
    """Longest wait in seconds for a new connection."""
    acquire_s: Seconds = 0.5
    """Longest wait in seconds for a free connection of the pool; then clients get 503."""
    command_s: Seconds = 5.0
    """Longest time in seconds that one statement may take."""
    recycle_s: SecondsOrNone = 300.0
    """Seconds after which an idle connection is closed; 0: never."""


class RedisSettings(Section):
    """Redis, where several gateways count together what is used; none: each counts for itself, in memory."""

    url: RedisUrl = None
    """redis://:password@host:port/0, rediss:// or unix://; none: there is no Redis."""
    url_file: OptionalPath = None
    """A file that holds the URL instead, closed to others (mode 0600 or 0640)."""


class AuthSettings(Section):
    """How callers prove who they are."""

    jwt_secret: SigningSecret = None
    """The key that signs access tokens, at least 32 random bytes; none: one is made in the state directory. Several
    processes need the same one."""
    jwt_secret_file: OptionalPath = None
    """A file that holds that key instead, closed to others (mode 0600 or 0640)."""
    jwt_previous_secret: SigningSecret = None
    """The key before it, with which tokens are still verified: set it for `access_token_s` after a change."""
    jwt_previous_secret_file: OptionalPath = None
    """A file that holds that key instead, closed to others (mode 0600 or 0640)."""
    access_token_s: Count = 1800
    """Seconds that an access token is valid."""
    refresh_token_s: Count = 2_592_000
    """Seconds after a login at which its refresh tokens end, however often they were rotated; 30 days."""
    token_cleanup_s: Count = 3600
    """Seconds between two deletions of sessions that ended `token_keep_s` ago."""
    token_keep_s: CountOrNone = 604_800
    """Seconds that ended sessions are kept; 7 days."""
    refresh_attempts: Count = 5
    """Most uses of one refresh token in 60 seconds; then they are answered 429."""
    registration: bool = False
    """Whether anybody may make an account for themselves, of the role basic."""
    min_password_length: Annotated[int, Field(ge=8, le=128)] = 8
    """Fewest characters of a new password."""
    key_header: OptionalHeader = None
    """A further request header that carries a key, besides Authorization and x-api-key; none: only those."""
    cache_entries: Count = 10_000
    """Keys whose callers are remembered; the least recently used goes first."""
    grace_s: SecondsOrNone = 300.0
    """Seconds that remembered keys stay valid while the database cannot be heard."""
    allow_anonymous: bool = False
    """Whether callers without a key become the user `anonymous` instead of being refused."""


class NodeSettings(Section):
    """One Ollama server."""

    name: Label
    """What it is called in reports, metrics and logs: 1 to 63 of a-z, 0-9, '.', '_', '-'."""
    url: NodeUrl
    """http:// or https:// with host, port and an optional path prefix; no user, no password, no query."""
    connect_s: Seconds = 5.0
    """Longest wait in seconds for a connection."""
    first_byte_s: Seconds = 600.0
    """Longest wait in seconds for the first byte of an answer; models take long to load."""
    idle_s: Seconds = 600.0
    """Longest silence in seconds within an answer, or within a request that the node takes; a pull is silent
    while it verifies what it has loaded."""
    total_s: SecondsOrNone = 0.0
    """Longest time in seconds for a whole exchange; 0: no limit."""
    max_connections: CountOrNone = 0
    """Most connections at once, health checks apart; 0: no limit."""
    probe_s: Seconds = 10.0
    """Seconds between two looks at the node's health and models."""


class RelaySettings(Section):
    """How an exchange passes through."""

    hold_kb: CountOrNone = 1024
    """One-document answers are held up to this size in KiB before their head goes out, so that a failing
    node is still an error status; 0: they are not held."""
    stall_s: Seconds = 30.0
    """Longest time in seconds that an answer waits for a client that takes none of it; then the client is cut off."""
    backlog_mb: Count = 96
    """Most MiB of streams that may wait for their clients, all together; then whoever lags most is cut off."""
    heartbeat_after_s: SecondsOrNone = 15.0
    """Seconds that a stream of events waits for its node before a first heartbeat, which makes it a 200 whatever
    happens then; 0: there are none."""
    heartbeat_s: Seconds = 15.0
    """Seconds between two heartbeats."""
    body_s: Seconds = 60.0
    """Longest silence in seconds while a request body is read."""
    body_min_kb_s: CountOrNone = 1
    """Fewest KiB a second that a request body may bring while it is waited for, once `body_s` has passed; 0: any."""
    body_total_s: SecondsOrNone = 600.0
    """Longest time in seconds for a whole request body; 0: no limit. Uploads of blobs have none."""
    forward_headers: tuple[ForwardedHeader, ...] = ("accept", "content-type", "traceparent", "tracestate")
    """The client's headers that reach a node; all others stay here. Names that speak of the connection, of
    keys or of where the client is are refused."""


class ModelsSettings(Section):
    """Which models may be used at all."""

    allow_cloud: bool = False
    """Whether requests may leave the node for Ollama's cloud: names with `:cloud` or `-cloud`, web search."""


class DiscoverySettings(Section):
    """What `GET /discovery` tells anybody who asks."""

    enabled: bool = True
    """Whether it is there at all; without it the path answers 404."""
    cache_s: SecondsOrNone = 60.0
    """Seconds for which an answer is given again; 0: each is made anew."""


class UsageSettings(Section):
    """How usage is kept: journals in the state directory, from there rows in the database."""

    flush_ms: Count = 200
    """Milliseconds between two writes of the rows that wait."""
    journal_mb: Count = 512
    """MiB that the journals may take while the database does not answer; beyond it requests are answered 503."""
    sync_ms: Count = 100
    """Milliseconds after which what the journal says is on the disk itself: a power cut loses no more than that."""
    strict: bool = False
    """Whether it has to be there before the client has the last of its answer."""
    storage_days: CountOrNone = 30
    """Days for which single rows are kept; 0: for ever. Sums by the hour are kept for ever."""


class LimitsSettings(Section):
    """What requests may cost where a limit counts it."""

    max_output_tokens: Count = 4096
    """Most tokens of one answer where they are counted, unless the limit says otherwise."""
    image_tokens: Count = 4096
    """Most tokens that one image of a request may have; what they have had counts in the end."""
    weights: Weights = {}
    """So many tokens count for one of the model, by pattern of its name, such as llama3*; the first that fits counts,
    and 1 without one."""


class LogsSettings(Section):
    """What is logged, and where."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severity that is written."""
    directory: OptionalPath = None
    """A directory for one file a topic; none: everything goes to stderr."""
    max_mb: Count = 10
    """Size in MiB at which a file is set aside and a new one begun."""
    backups: CountOrNone = 3
    """Files set aside that are kept, each topic; 0: none."""


class Settings(Section):
    """All of them, as they are in force."""

    server: ServerSettings = ServerSettings()
    """Where clients are heard, and for how long."""
    database: DatabaseSettings = DatabaseSettings()
    """PostgreSQL, and how long it may take."""
    redis: RedisSettings = RedisSettings()
    """Redis, where several gateways count together what is used; none: each counts for itself, in memory."""
    auth: AuthSettings = AuthSettings()
    """How callers prove who they are."""
    nodes: tuple[NodeSettings, ...] = (NodeSettings(name="ollama", url="http://127.0.0.1:11434"),)
    """The Ollama servers; exactly one in this version."""
    relay: RelaySettings = RelaySettings()
    """How an exchange passes through."""
    models: ModelsSettings = ModelsSettings()
    """Which models may be used at all."""
    gateways: Options = {}
    """Options of each gateway family, by its name; the gateway checks them."""
    discovery: DiscoverySettings = DiscoverySettings()
    """What `GET /discovery` tells anybody who asks."""
    usage: UsageSettings = UsageSettings()
    """How usage rows reach the database."""
    limits: LimitsSettings = LimitsSettings()
    """What requests may cost where a limit counts it."""
    logs: LogsSettings = LogsSettings()
    """What is logged, and where."""
    timezone: TimeZone = "UTC"
    """IANA name of the zone whose calendar days and hours reports use."""

    @field_validator("nodes")
    @classmethod
    def _one_node(cls, nodes: tuple[NodeSettings, ...]) -> tuple[NodeSettings, ...]:
        names = [node.name for node in nodes]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"must have a name of its own for each node; more than one is called {', '.join(twice)}")
        if len(nodes) != 1:
            raise ValueError(f"must have exactly one node in this version, not {len(nodes)}")
        return nodes

    @model_validator(mode="after")
    def _keys_stay_here(self) -> Self:
        header = self.auth.key_header
        if header and header in self.relay.forward_headers:
            raise ValueError(
                f"auth.key_header and relay.forward_headers both name {header}: keys must not reach a node"
            )
        return self
