"""Limits over HTTP: `/admin/v1/limits`. Whom one may limit is for the records to judge.

A deletion needs a full credential too: a lesser one could lift the limit that it is itself under.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from parallama.admin.api import PREFIX, Call, Operation, Page, Paging, Shape, place_of
from parallama.admin.users import GUARD, USER
from parallama.admin.values import Name, id_of, page_of
from parallama.db.pool import Database
from parallama.errors import Conflict, NotFound, Outdated
from parallama.identity.api_keys import MAX_PATTERN
from parallama.identity.limits import Limits
from parallama.identity.terms import MAX_AMOUNT, Change, LimitRecord, Subject, place
from parallama.limits import EVERY

_LIMITS = f"{PREFIX}/limits"
_LIMIT = f"{_LIMITS}/{{id}}"

Amount = Annotated[int, Field(ge=0, le=MAX_AMOUNT, strict=True)]
MaxOutput = Annotated[int, Field(ge=1, le=MAX_AMOUNT, strict=True)]
Meter = Literal["requests", "prompt_tokens", "output_tokens", "total_tokens", "concurrency"]
Period = Literal["minute", "hour", "day", "month", "now"]
Admission = Literal["strict", "estimate"]
Outage = Literal["closed", "open"]
Pattern = Annotated[str, Field(min_length=1, max_length=MAX_PATTERN)]


class WhoseLimits(Shape):
    """Whose limits: one of the three."""

    user: Name | None = None
    """A name or id."""
    key: UUID | None = None
    """An id."""
    role: Name | None = None
    """A name; its limits are those of each user who has it."""

    def subject(self) -> Subject:
        """Raises Invalid unless exactly one is given."""
        return Subject(user=self.user, key=self.key, role=self.role)


class LimitsOfGateway(WhoseLimits):
    """Whose limits, and of which gateway."""

    gateway: Name | None = None
    """A family; `*`: those that all gateways share; none: all."""


class InForce(Shape):
    """Of which requests."""

    gateway: Name | None = None
    """Those to this family; none: all."""


class ListLimits(Paging, LimitsOfGateway):
    """Which limits: of one user, key or role, or without them all."""


class LimitTerms(Shape):
    """How a limit is kept."""

    admission: Admission = "strict"
    """`strict`: a request is let in when all is left that it may cost; `estimate`: when what it probably costs is."""
    outage: Outage = "closed"
    """While nobody can count: `closed`, requests are refused; `open`, they are let through."""
    max_output_tokens: MaxOutput | None = None
    """Most tokens of one answer, where the limit counts them; null: that of the settings."""


class NewLimit(WhoseLimits, LimitTerms):
    """A limit to be."""

    gateway: Name = EVERY
    """A family; `*`: counted over all of them."""
    model: Pattern | None = None
    """A pattern of names of models, such as `qwen3:*`; null: any."""
    meter: Meter
    """What is counted."""
    period: Period
    """`minute`: the last 60 seconds; `hour`, `day`, `month`: of the calendar; `now`: for concurrency."""
    amount: Amount
    """0: nothing at all."""


class LimitChange(LimitTerms):
    """What to change of a limit; what is not named stays as it is."""

    amount: Amount = 0
    """0: nothing at all."""


class LimitSetting(Shape):
    """What to make of the limit of a meter and period; what is not named stays, or gets the default of a new limit."""

    meter: Meter
    """What is counted."""
    period: Period
    """In which time."""
    amount: Amount | None
    """0: nothing at all; null: there is to be no limit."""
    admission: Admission = Field(default_factory=lambda: "strict")
    """As of a new limit."""
    outage: Outage = Field(default_factory=lambda: "closed")
    """As of a new limit."""
    max_output_tokens: MaxOutput | None = Field(default_factory=lambda: None)
    """As of a new limit."""


class LimitSettings(WhoseLimits):
    """Limits of one gateway and model to make, change and take away, all or none."""

    gateway: Name = EVERY
    """A family; `*`: counted over all of them."""
    model: Pattern | None = None
    """A pattern of names of models, such as `qwen3:*`; null: any."""
    limits: Annotated[tuple[LimitSetting, ...], Field(max_length=100)]
    """Those that are not named stay as they are."""


@dataclass(frozen=True, slots=True)
class SomeLimits:
    """Limits, each with whose it is."""

    limits: Sequence[LimitRecord]


@dataclass(frozen=True, slots=True)
class Deleted:
    """How many were deleted."""

    deleted: int


def limit_operations(database: Database) -> list[Operation]:
    """List, create, set, read, change, delete and reset limits, and tell which are in force."""
    on, limits = partial(Operation, tag="limits", guard=GUARD), _Limits(database)
    return [
        on(name="list_limits", method="GET", path=_LIMITS, summary="Limits, by whose they are.",
           run=limits.list, query=ListLimits, answer=Page[LimitRecord], errors=(NotFound,)),
        on(name="create_limit", method="POST", path=_LIMITS, summary="Limit a user, a key or those who have a role.",
           run=limits.create, body=NewLimit, answer=LimitRecord, status=201, errors=(NotFound, Conflict)),
        on(name="set_limits", method="PATCH", path=_LIMITS, summary="Make, change and take away several limits.",
           run=limits.set, body=LimitSettings, answer=SomeLimits, errors=(NotFound, Conflict)),
        on(name="reset_limits", method="DELETE", path=_LIMITS, summary="Take all limits of somebody away.",
           run=limits.reset, query=LimitsOfGateway, answer=Deleted, errors=(NotFound,)),
        on(name="get_limit", method="GET", path=_LIMIT, summary="A limit.",
           run=limits.get, answer=LimitRecord, errors=(NotFound,)),
        on(name="update_limit", method="PATCH", path=_LIMIT, summary="Change a limit.",
           run=limits.update, body=LimitChange, answer=LimitRecord, versioned=True, errors=(NotFound, Outdated)),
        on(name="delete_limit", method="DELETE", path=_LIMIT, summary="Take a limit away.",
           run=limits.delete, versioned=True, errors=(NotFound, Outdated)),
        on(name="limits_of_user", method="GET", path=f"{USER}/limits",
           summary="What is in force for a user, and whose limit each is.",
           run=limits.of_user, query=InForce, answer=SomeLimits, errors=(NotFound,)),
        on(name="limits_of_key", method="GET", path=f"{PREFIX}/keys/{{id}}/limits",
           summary="What is in force for a key, and whose limit each is.",
           run=limits.of_key, query=InForce, answer=SomeLimits, errors=(NotFound,)),
        on(name="limits_of_role", method="GET", path=f"{PREFIX}/roles/{{role}}/limits",
           summary="What a role gives, and whose limit each is.",
           run=limits.of_role, query=InForce, answer=SomeLimits, errors=(NotFound,)),
    ]  # fmt: skip


class _Limits:
    def __init__(self, database: Database) -> None:
        self._database = database

    def _records(self, call: Call) -> Limits:
        return Limits(self._database, call.actor)

    async def list(self, call: Call) -> Page[LimitRecord]:
        query: ListLimits = call.query
        subject = query.subject() if query.user or query.key or query.role else None
        records = await self._records(call).list(
            subject, gateway=query.gateway, after=place_of(query.cursor, *[str] * 5), limit=query.limit + 1
        )
        return page_of(records, query, place)

    async def create(self, call: Call) -> LimitRecord:
        new: NewLimit = call.body
        terms = new.model_dump(exclude={"user", "key", "role"})
        return await self._records(call).create(new.subject(), **terms)

    async def set(self, call: Call) -> SomeLimits:
        body: LimitSettings = call.body
        changes = [_change(one) for one in body.limits]
        return SomeLimits(
            await self._records(call).set(body.subject(), changes, gateway=body.gateway, model=body.model)
        )

    async def reset(self, call: Call) -> Deleted:
        query: LimitsOfGateway = call.query
        return Deleted(await self._records(call).reset(query.subject(), gateway=query.gateway))

    async def of_user(self, call: Call) -> SomeLimits:
        return await self._in_force(call, Subject(user=call.path["name"]))

    async def of_key(self, call: Call) -> SomeLimits:
        return await self._in_force(call, Subject(key=id_of(call.path["id"], "key")))

    async def of_role(self, call: Call) -> SomeLimits:
        return await self._in_force(call, Subject(role=call.path["role"]))

    async def _in_force(self, call: Call, subject: Subject) -> SomeLimits:
        return SomeLimits(await self._records(call).effective(subject, gateway=call.query.gateway))

    async def get(self, call: Call) -> LimitRecord:
        return await self._records(call).get(_id(call))

    async def update(self, call: Call) -> LimitRecord:
        changes = call.body.model_dump(exclude_unset=True)
        return await self._records(call).update(_id(call), changes=changes, version=call.version)

    async def delete(self, call: Call) -> None:
        await self._records(call).delete(_id(call), version=call.version)


def _change(setting: LimitSetting) -> Change:
    terms = setting.model_dump(exclude_unset=True, exclude={"meter", "period"})
    return Change(setting.meter, setting.period, terms)


def _id(call: Call) -> UUID:
    return id_of(call.path["id"], "limit")
