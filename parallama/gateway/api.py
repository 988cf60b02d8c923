"""The API of a gateway: a dialect's mounts and endpoints (Gateway, Route) and the translator of one exchange (Codec).

A codec stands between the client's bytes and the node's, which speak the native Ollama API. It is pure: no I/O, no
clock, no await. The relay feeds it and does everything else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Any, ClassVar, Protocol

from parallama.errors import ApiError
from parallama.exchange import Usage

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
    """What is known of the nodes' models now, without asking them. Names match as Ollama matches them."""

    def exists(self, name: str) -> bool: ...
    def capabilities(self, name: str) -> frozenset[str]:
        """Such as `completion`, `embedding`, `tools`, `thinking`; empty when unknown."""
        ...

    def context(self, name: str) -> int | None:
        """Tokens of context with which the model is loaded; None when it is not, or unknown."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbound:
    """A request as the client sent it."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Outbound:
    """A request as the node is to get it."""

    method: str
    path: str
    """On the node, such as `/api/chat`."""
    model: str | None = None
    """The model as the client named it; None: the request names none. The core resolves it and may write another
    name into `body[model_key]`."""
    model_key: str = "model"
    body: Mapping[str, Any] | None = None
    """What the node is to read, as JSON; None: no body, or the client's stream."""
    raw: bytes | None = None
    """The very bytes that say `body`, sent for it as long as the core changes nothing."""
    names: Sequence[str] = ()
    """Further model names in the request (a copy's destination, a new model's base), judged like `model`."""
    leaves_node: bool = False
    """The request makes the node call ollama.com or another host; refused unless `models.allow_cloud`."""


@dataclass(frozen=True, slots=True)
class Head:
    """The head of an answer: the node's, or the one for the client."""

    status: int
    headers: Sequence[tuple[str, str]] = ()
    reason: str | None = None
    """None: the standard phrase of the status."""

    def header(self, name: str) -> str:
        """The first value of `name`, which must be lower-case; empty when there is none."""
        return next((value for key, value in self.headers if key.lower() == name), "")


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer, such as an error."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyFacts:
    """What the head of an answer may tell of the exchange."""

    request_id: str
    node: str | None
    model: str | None


class Codec(ABC):
    """Translates one exchange. The relay calls begin once per outbound, feed for every chunk, then finish or fail."""

    outbounds: Sequence[Outbound] = ()
    """Sent one after another on one lease; () needs no node, `reply` and `finish()` are then the whole answer."""
    reply: Head = Head(200)
    """The client's head where there is none of a node to go by."""
    streams: bool = False
    """False: one document, held by the relay until it is whole (or too large to hold), so that a failure can still
    become an error status. Read after `begin`."""
    failed: ApiError | None = None
    """Set when the node reported a failure inside an answer that passes unchanged: the client has been told, the
    exchange is booked as failed."""
    context_full: bool | None = None
    """Whether the model's context was full at the end, so that the node cut the prompt or the answer; None: unknown.
    Read after the last byte."""

    def __init__(self) -> None:
        self._usage = Usage()

    @property
    def usage(self) -> Usage:
        """Tokens so far, read at any time; an estimate may be made when asked for."""
        return self._usage

    def begin(self, head: Head) -> Head:
        """The client's head for the node's. Errors of the node come here too, with their status."""
        return self.reply

    @abstractmethod
    def feed(self, chunk: bytes) -> bytes:
        """The client's bytes for the node's next bytes, cut anywhere. May raise UpstreamFailed."""

    def finish(self) -> bytes:
        """The last bytes: the node's body has ended cleanly. Raises UpstreamFailed when it lacks its end; while
        `streams` is False any ApiError may be raised."""
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
    roles: ClassVar[tuple[str, ...]] = ()
    """The seeded roles that receive the permission of the family."""
    Options: ClassVar[type] = NoOptions
    """A dataclass or pydantic model; the settings below `gateways.<name>` are validated against it."""

    def __init__(self, options: Any = None) -> None:
        self.options = options if options is not None else self.Options()

    @abstractmethod
    def routes(self) -> Sequence[Route]:
        """The endpoints. Called once at start."""

    @abstractmethod
    def render_error(self, error: ApiError) -> Reply:
        """`error` as this dialect's clients expect it. The core adds Retry-After, Allow and the ids."""

    def headers(self, facts: ReplyFacts) -> Mapping[str, str]:
        """Further headers of every answer, in this dialect's names."""
        return {}
