"""The API of a gateway: a dialect's mounts and endpoints (Gateway, Route) and the translator of one exchange (Codec).

A codec stands between the client's bytes and the node's, which speak the native Ollama API. It is pure: no I/O, no
clock, no await. The relay feeds it and does everything else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any, ClassVar, Protocol

from parallama.errors import ApiError
from parallama.exchange import Usage
from parallama.gateway.heads import Head as Head
from parallama.gateway.heads import Reply as Reply
from parallama.gateway.heads import ReplyFacts as ReplyFacts
from parallama.immutable import immutable
from parallama.quotas import neutral_headers, quotas_of

API = 1
"""The generation of this API; rises when a gateway written against an older one would break."""


class Use(StrEnum):
    """What a route does: its permission and its class in the accounts (the column `operation`)."""

    CHAT = "chat"
    GENERATE = "generate"
    EMBED = "embed"
    LIST = "list"
    SHOW = "show"
    MANAGE = "manage"
    """Changes what a node has on disk or in its account; needs the permission `manage_models`."""


class Body(Enum):
    """What the relay does with the request's body."""

    NONE = "none"
    JSON = "json"
    """Read whole, bounded by `server.max_body_mb`, and given to `open` as `Inbound.raw`."""
    STREAM = "stream"
    """Piped to the node as it comes, of any size, never held in memory."""


class Models(Protocol):
    """What is known of the models now, without asking a node: those of the nodes, and the aliases of the family.

    Names are the clients': an alias is answered for by its target. They match as Ollama matches them, so that `name`
    is `name:latest`.
    """

    def exists(self, name: str) -> bool:
        """Whether a node has it, or what it is an alias of; True while no node has told its models."""

    def capabilities(self, name: str) -> frozenset[str]:
        """Such as `completion`, `embedding`, `tools`, `thinking`; empty when unknown."""

    def context(self, name: str) -> int | None:
        """Tokens of context with which the model is loaded; None when it is not, or unknown."""

    def longest_context(self, name: str) -> int | None:
        """Tokens of context for which the model was trained, and beyond which it is never loaded; None: unknown."""

    def aliases(self) -> Mapping[str, str]:
        """The family's own names of models, each with the node's name for it."""

    def limited(self) -> bool:
        """Whether there may be models that the caller's key is not for."""

    def usable(self, name: str) -> bool:
        """Whether the caller's key is for it, be it there or not."""

    def tokens(self, name: str, text_bytes: int) -> int:
        """Tokens of a prompt with so many bytes of text: an estimate, by the counts that the model gave for others."""


@dataclass(frozen=True, slots=True)
class Document:
    """What is kept for its owner beyond an exchange, such as an answer that a later request goes on from."""

    id: str
    body: bytes


@immutable
class Inbound:
    """A request as the client sent it."""

    id: str
    """Ours of the exchange: 32 hexadecimal digits, never used twice. What an answer needs of names and random numbers
    is made from it, since a codec has no dice."""
    at: int
    """Unix time in seconds at which it arrived, since a codec has no clock."""
    method: str
    mount: str = ""
    """Where the client found the gateway, such as `/ollama/api`; for answers that name a path of ours."""
    path: str
    """Below the mount, percent-decoded."""
    params: Mapping[str, str]
    """The variables of `Route.path`."""
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """Case-insensitive."""
    raw: bytes
    """The body; empty for Body.NONE and Body.STREAM."""
    models: Models
    default_model: str | None = None
    """For a request to generate or embed that names no model; None: it must name one."""
    documents: Mapping[str, Document] = field(default_factory=dict)
    """Those that the route `wants` and that are kept for the caller, by id. This version keeps none."""


@immutable
class Outbound:
    """A request as the node is to get it."""

    method: str
    path: str
    """On the node, such as `/api/chat`. Tokens are asked for at `/api/chat`, `/api/generate`, `/api/embed` and
    `/api/embeddings` only: what else a route posts to talk or embed cannot be bounded, and is refused to whoever has a
    limit of tokens."""
    model: str | None = None
    """The model as the client named it; None: the request names none. The core resolves it and may write another
    name into `body[model_key]`."""
    target: str | None = None
    """The name by which the node knows the model; set by the core when the family calls it otherwise."""
    model_key: str = "model"
    body: Mapping[str, Any] | None = None
    """What the node is to read, as JSON; None: no body, or the client's stream. The core fills in the parameters of an
    alias, reads there what the exchange can cost (`options.num_predict`, `options.num_ctx`, `format`, the prompt), and
    sets `options.num_predict` where a limit allows less. So fields are spelt as Ollama spells them: a node takes
    `Options` for `options` too, and a body that says both is refused to whoever has a limit of tokens."""
    unasked: Collection[str] = ()
    """Fields of `body` that the codec filled in for a client that said nothing; an alias's defaults go before them."""
    raw: bytes | None = None
    """The very bytes that say `body`, sent for it as long as the core changes nothing."""
    names: Sequence[str] = ()
    """Further model names in the request (a copy's destination, a new model's base), judged like `model`."""
    leaves_node: bool = False
    """The request makes the node call ollama.com or another host; refused unless `models.allow_cloud`."""
    written: bytes | None = None
    """`body` as JSON, once the core has written it."""

    def saying(self, body: Mapping[str, Any], written: bytes | None = None) -> Outbound:
        """The same request with another body, without `raw`; `written`: as for Outbound."""
        return Outbound(  # dataclasses.replace takes three times as long
            method=self.method,
            path=self.path,
            model=self.model,
            target=self.target,
            model_key=self.model_key,
            body=body,
            unasked=self.unasked,
            names=self.names,
            leaves_node=self.leaves_node,
            written=written,
        )


class Codec(ABC):
    """Translates one exchange. For each outbound in turn the relay calls begin, feed for every chunk, and finish; once
    something has gone wrong, fail. A begin that follows no finish means that another node has been asked the same."""

    outbounds: Sequence[Outbound] = ()
    """Sent one after another on one lease; () needs no node, `reply` and `finish()` are then the whole answer."""
    reply: Head = Head(200)
    """The client's head where there is none of a node to go by."""
    streams: bool = False
    """False: one document, held by the relay until it is whole (or too large to hold), so that a failure can still
    become an error status. Read before `begin`, for heartbeats, and after it; from the first byte that goes out an
    answer stays what it is."""
    heartbeat: bytes = b""
    """Sent from time to time while a stream waits for its node; b"": none. The first one commits the client to
    `reply`, so that whatever goes wrong later is told by `fail`."""
    end_user: str | None = None
    """Whom the client serves, if it says so: a name of its own for the accounts; at most 128 characters are kept."""
    ignored: Sequence[str] = ()
    """Parameters that the client sent and that change nothing here; named in the log of the request."""
    keeps: Sequence[Document] = ()
    """To be stored for the caller, read after the last `finish`. This version stores none."""
    failed: ApiError | None = None
    """Set when the node reported a failure inside an answer that passes unchanged: the client has been told, the
    exchange is booked as failed."""
    context: int | None = None
    """Tokens of context that the model had for the answer; None: unknown. Read after the last byte."""
    context_full: bool | None = None
    """Whether the model's context was full at the end, so that the node cut the prompt or the answer; None: unknown.
    Read after the last byte."""

    def __init__(self) -> None:
        self._usage = Usage()

    @property
    def usage(self) -> Usage:
        """Tokens so far, read at any time; an estimate may be made when asked for."""
        return self._usage

    def resolved(self, outbounds: Sequence[Outbound]) -> None:
        """Take what the core made of `outbounds`: with targets of aliases, defaults, forced values, and the output that
        limits leave. Called before `begin`, only where something has changed, and perhaps again before another node is
        asked. A codec that passes a node's bytes on writes the client's name of the model back in place of the
        target."""
        self.outbounds = outbounds

    def begin(self, head: Head) -> Head:
        """The client's head for the node's. Errors of the node come here too, with their status. The head of the first
        outbound's answer counts."""
        return self.reply

    @abstractmethod
    def feed(self, chunk: bytes) -> bytes:
        """The client's bytes for the node's next bytes, cut anywhere. May raise UpstreamFailed."""

    def finish(self) -> bytes:
        """The last bytes of the answer to one outbound, whose body the node has ended cleanly. Raises UpstreamFailed
        when it lacks its end; while `streams` is False any ApiError may be raised."""
        return b""

    def fail(self, error: ApiError) -> bytes:
        """The last bytes after `error` broke a stream whose head had gone out; b"" where the dialect cannot say it."""
        return b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One endpoint of a gateway."""

    method: str
    path: str
    """Below the mount, with `{name}` for a variable segment."""
    use: Use
    open: Callable[[Inbound], Codec]
    """Once per exchange; raises BadRequest."""
    body: Body = Body.JSON
    endpoint: str = ""
    """The name of its switch in `gateways.<family>.endpoints`, where several routes may share one; empty: `use`."""
    wants: Callable[[Inbound], Sequence[str]] | None = None
    """The ids of the caller's documents that `open` needs; asked before it. Raises BadRequest."""

    @property
    def switch(self) -> str:
        """The name of its switch."""
        return self.endpoint or self.use.value


@dataclass(frozen=True, slots=True)
class NoOptions:
    """For a gateway without options."""


class Gateway(ABC):
    """A dialect, or a part of one."""

    name: ClassVar[str]
    """The family: key in the settings and toggles, label in the metrics, permission `use_<name>`. Several classes of
    one plugin may share it."""
    api: ClassVar[int] = API
    paths: ClassVar[tuple[str, ...]]
    """The mounts, the canonical one first, such as ("/ollama/api", "/api")."""
    required_header: ClassVar[str] = ""
    """A header without which a request is not for this gateway although its path is: then it is for whoever has a
    mount above, such as `/v1` for `/v1/models`. Empty: every request is."""
    roles: ClassVar[tuple[str, ...]] = ()
    """The seeded roles that receive the permission of the family."""
    Options: ClassVar[type] = NoOptions
    """A dataclass or pydantic model; the settings below `gateways.<name>` are validated against it."""

    def __init__(self, options: Any = None) -> None:
        """Called at start, and again when the options of the family have changed: exchanges under way keep the gateway
        that they began with. Raises ConfigError for options that cannot work together."""
        self.options = options if options is not None else self.Options()

    @abstractmethod
    def routes(self) -> Sequence[Route]:
        """The endpoints. Called once for each gateway that is made; their methods and paths never change."""

    @abstractmethod
    def render_error(self, error: ApiError) -> Reply:
        """`error` as this dialect's clients expect it. The core adds Retry-After, x-should-retry, Allow and the ids."""

    def headers(self, facts: ReplyFacts) -> Mapping[str, str]:
        """Further headers of every answer, in this dialect's names."""
        return {}

    def rate_limits(self, facts: ReplyFacts) -> Mapping[str, str]:
        """Headers that tell `facts.quotas`, in this dialect's names; asked for answers and errors where there are some.
        As it is, `RateLimit-Policy` and `RateLimit`, which are in no dialect's way."""
        return neutral_headers(quotas_of(facts.quotas), facts.at)
