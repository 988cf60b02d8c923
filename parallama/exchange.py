"""One client request from accept to settle, and the values that it carries.

The Exchange is opened by the account middleware, filled in by authenticate and relay, and ends as one
UsageRecord. Nothing here does I/O.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from struct import iter_unpack
from typing import NamedTuple
from uuid import UUID

from parallama.immutable import maker
from parallama.limits import Limit
from parallama.networks import Networks
from parallama.quotas import Quotas


class Outcome(StrEnum):
    """How an exchange ended."""

    OK = "ok"
    REFUSED = "refused"
    """Answered with a 4xx, by us or by the node; nothing was generated."""
    FAILED = "failed"
    """Broken by the node or by us, before or after the head was sent."""
    CANCELLED = "cancelled"
    """The client left."""


class IdGenerator:
    """UUIDv7 (RFC 9562 section 5.7), strictly rising within one process even when the clock steps back."""

    def __init__(self) -> None:
        self._last = 0
        self._random = _random_numbers()

    def __call__(self) -> UUID:
        # 48 bits of milliseconds and 12 bits of their fraction (RFC 9562 section 6.2, method 3)
        stamp = time.time_ns() * 4096 // 1_000_000
        self._last = stamp = max(stamp, self._last + 1)
        random = next(self._random)
        return UUID(int=(stamp >> 12) << 80 | 0x7 << 76 | (stamp & 0xFFF) << 64 | 0b10 << 62 | random)


def _random_numbers() -> Iterator[int]:
    """Of 62 bits; many at a time, since the system takes as long for one."""
    while True:
        for (number,) in iter_unpack("Q", os.urandom(4096)):
            yield number >> 2


def created_at(exchange_id: UUID) -> float:
    """The moment that a UUIDv7 carries, in Unix seconds, to the millisecond."""
    return (exchange_id.int >> 80) / 1000


EVERY_GATEWAY = "use_*"
"""The permission that stands for `use_<family>` of every gateway."""


class Priority(StrEnum):
    """How soon a request is served among others that wait."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPolicy:
    """What a key is limited to, beyond what its user is; None: no limit of that kind."""

    models: tuple[str, ...] | None = None
    """Patterns of names, for `parallama.gateway.names.matches`; judged on what an alias stands for."""
    gateways: frozenset[str] | None = None
    """Families."""
    networks: Networks | None = None
    """Where its clients may be."""
    priority_ceiling: Priority | None = None
    """The highest priority that its requests may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who is asking, and what they may do at this moment."""

    user_id: UUID
    username: str
    key_id: UUID | None
    """None: a caller with an access token, or an anonymous one where the settings allow that."""
    session_id: UUID | None = None
    """The login that an access token came of; None: a caller with a key, or an anonymous one."""
    admin: bool
    roles: tuple[str, ...] = ()
    """Held now, those above them in the hierarchy too."""
    permissions: frozenset[str] = frozenset()
    policy: KeyPolicy | None = None
    """None: nothing limits the key."""
    ends: Mapping[str, datetime] = field(default_factory=dict, hash=False)
    """Until when they hold the permissions, and the role `admin`, that they hold for a while only."""
    expires_at: datetime | None = None
    """When the key ends, or the secret of it that was used; None: never, and for callers without a key."""
    limits: tuple[Limit, ...] = ()
    """What the user and the key may use in a time, for every gateway and model: all of them count."""

    @property
    def full(self) -> bool:
        """Whether the credential is all that its user is: a login, or a key without limits and without an end."""
        if self.key_id is None:
            return self.session_id is not None
        limited = any(limit.subject == self.key_id for limit in self.limits)
        return self.policy is None and self.expires_at is None and not limited

    def may(self, permission: str) -> bool:
        """Whether the caller holds `permission`. Admins hold all."""
        return self.admin or holds(self.permissions, permission)


def holds(permissions: Collection[str], permission: str) -> bool:
    """Whether `permission` is among `permissions`, or a gateway's when all gateways are."""
    return permission in permissions or (EVERY_GATEWAY in permissions and permission.startswith("use_"))


@dataclass(slots=True, kw_only=True)
class Usage:
    """Tokens of an exchange so far; None means unknown."""

    prompt_tokens: int | None = None
    output_tokens: int | None = None
    final: bool = False
    """True: the node's own counts. False: counted from chunks, an estimate."""


def checked(usage: Usage) -> Usage:
    """What a codec has counted, if it can be so. Raises ValueError."""
    for count in (usage.prompt_tokens, usage.output_tokens):
        if count is not None and not (type(count) is int and 0 <= count < 2**63):
            raise ValueError("a count of tokens must be a whole number from 0, or None")
    return usage


class UsageRecord(NamedTuple):
    """One row of the table `usage`; the fields are its columns, in order."""

    id: UUID
    created_at: float
    """The moment of its id, in Unix seconds: a datetime takes many times as long to be made and written."""
    user_id: UUID
    username: str
    key_id: UUID | None
    gateway: str
    operation: str
    model_asked: str | None
    model: str | None
    """What was served, as the node was asked for it; None: no node was asked."""
    node: str | None
    prompt_tokens: int | None
    output_tokens: int | None
    estimated: bool
    ttft_ms: float | None
    """From accept to the first byte of the answer's body; None: there was none."""
    duration_ms: float
    status: int
    """The true status, also where a 200 had gone out before the failure; 499: the client left."""
    outcome: str
    error: str | None
    streamed: bool
    request_bytes: int
    response_bytes: int
    """Bytes of the answer's body that were handed to the client's connection."""
    context_full: bool | None
    client_request_id: str | None
    end_user: str | None
    """Whom the client serves, in its own words."""
    charged_at: float | None
    """When its limits were charged, by the clock of whoever counts, in Unix seconds; None: nothing was reserved."""


_row = maker(UsageRecord)


@dataclass(slots=True, kw_only=True)
class Exchange:
    """One client request, from accept to settle."""

    id: UUID
    client_request_id: str | None
    gateway: str
    operation: str = "unknown"
    started: float = field(default_factory=time.monotonic)
    caller: Caller | None = None
    model_asked: str | None = None
    model: str | None = None
    node: str | None = None
    usage: Usage = field(default_factory=Usage)
    first_byte: float | None = None
    """Monotonic; when the first byte of the answer's body went out."""
    status: int = 500
    outcome: Outcome = Outcome.FAILED
    error: str | None = None
    """A code of ours with a few words, never text of the node or of the client."""
    streamed: bool = False
    stalled: bool = False
    """The client was cut off because it did not take its answer."""
    request_bytes: int = 0
    response_bytes: int = 0
    context_full: bool | None = None
    end_user: str | None = None
    ignored: Sequence[str] = ()
    """Parameters of the request that changed nothing."""
    quotas: Quotas | None = None
    """What is left of the limits that concern it, its own part taken away; None: nothing limits it."""
    charged_at: float | None = None
    """As UsageRecord has it."""
    prompt_estimate: int | None = None
    """Tokens that its prompts probably have; None: no limit concerns it."""
    output_bound: int | None = None
    """Most tokens that its answers may have together; None: no limit counts them."""
    closed: bool = False
    """Whether its row is written: nothing changes it any more."""

    @property
    def first_byte_s(self) -> float | None:
        """Seconds from accept to the first byte of the answer's body; None: there was none."""
        return None if self.first_byte is None else self.first_byte - self.started

    def record(self, now: float, coming: int = 0, prompt_tokens: int | None = None) -> UsageRecord:
        """The row of this exchange as it stands at `now` (monotonic seconds), or will when the last `coming` bytes of
        its answer have left; `prompt_tokens`: as long as nobody has counted them. Needs a caller."""
        caller, usage, started, first_byte = self.caller, self.usage, self.started, self.first_byte
        output_tokens = usage.output_tokens
        if caller is None:
            raise ValueError("an exchange without a caller has no row")
        if coming and first_byte is None:
            first_byte = now
        if usage.prompt_tokens is not None:
            prompt_tokens = usage.prompt_tokens
        # in the order of the fields: by their names it would take three times as long
        return _row(
            (
                self.id,
                created_at(self.id),
                caller.user_id,
                caller.username,
                caller.key_id,
                self.gateway,
                self.operation,
                self.model_asked,
                self.model,
                self.node,
                prompt_tokens,
                output_tokens,
                not usage.final and (prompt_tokens is not None or output_tokens is not None),
                None if first_byte is None else (first_byte - started) * 1000,
                (now - started) * 1000,
                self.status,
                self.outcome._value_,  # `value` is a function
                self.error,
                self.streamed,
                self.request_bytes,
                self.response_bytes + coming,
                self.context_full,
                self.client_request_id,
                self.end_user,
                self.charged_at,
            )
        )
