"""API keys over HTTP: those of any user at `/admin/v1/users/{name}/keys`, and the caller's own at `/me/keys`.

Both are the same operations on the keys of an owner; they differ in who the owner is, and in who is let in.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated
from uuid import UUID

from pydantic import Field, StrictBool, model_validator

from parallama.admin.api import PREFIX, Call, Operation, Page, Shape
from parallama.admin.guards import Guard
from parallama.admin.users import GUARD, TAKING, USER
from parallama.admin.values import Moment, Part, after, id_of, page_of, stands
from parallama.db.pool import Database
from parallama.errors import Conflict, NotFound, Outdated
from parallama.exchange import Priority
from parallama.identity.api_keys import MAX_DESCRIPTION, MAX_GRACE_S, MAX_PATTERN, ApiKeys, KeyLimits, KeyRecord
from parallama.identity.users import UserRecord, Users

Some = Annotated[tuple[Annotated[str, Field(min_length=1, max_length=MAX_PATTERN)], ...], Field(max_length=100)]

Description = Annotated[str, Field(max_length=MAX_DESCRIPTION)]


class Limits(Shape):
    """What a key is limited to."""

    models: Some | None = None
    """Patterns of the names of models, such as `qwen3:*`, that it may use; null: all; none in the list: none."""
    gateways: Some | None = None
    """Families of gateways, such as `openai`, that it may use; null: all."""
    networks: Some | None = None
    """Addresses or CIDR ranges where its clients may be; null: anywhere."""
    priority_ceiling: Priority | None = None
    """The highest priority that its requests may have; null: none of its own."""


class NewKeyOf(Limits):
    """A key to be."""

    description: Description = ""
    """What it is for."""
    expires_at: Moment | None = None
    """When it ends; null: never."""
    expires_in_days: Annotated[int, Field(ge=1, le=36_500, strict=True)] | None = None
    """The same, counted from now."""

    @model_validator(mode="after")
    def _one_end(self) -> NewKeyOf:
        if self.expires_at is not None and self.expires_in_days is not None:
            raise ValueError("give expires_at or expires_in_days, not both")
        return self

    def ends(self, now: datetime) -> datetime | None:
        """When the key ends; None: never."""
        return self.expires_at if self.expires_in_days is None else now + timedelta(days=self.expires_in_days)


class KeyChange(Limits):
    """What to change of a key; what is not named stays as it is."""

    description: Description = ""
    """What it is for."""
    expires_at: Moment | None = None
    """When it ends; null: never."""
    enabled: StrictBool = True
    """False: it is refused until it is enabled again."""


class Rotation(Shape):
    """How the secret of a key is changed."""

    grace_s: Annotated[int, Field(ge=0, le=MAX_GRACE_S, strict=True)] = 86_400
    """Seconds for which the old secret is good too; 0: it ends at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey(KeyRecord):
    """A key with its secret, which is shown this once."""

    key: str
    """What clients send."""


@dataclass(frozen=True, slots=True)
class Revoked:
    """How many were revoked."""

    revoked: int


Owner = Callable[[Call], Awaitable[UserRecord]]
"""Whose keys a call is about. Raises ApiError when they are not the caller's to see, or to change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owned:
    """A collection of keys."""

    path: str
    noun: str
    """In the names of the operations."""
    tag: str
    guard: Guard
    taking: Guard
    """For what only takes something away."""
    read: Owner
    change: Owner


def key_operations(database: Database) -> list[Operation]:
    """What there is to do with the keys of any user."""

    async def owner(call: Call) -> UserRecord:
        return await Users(database, call.actor).get(call.path["name"])

    owned = Owned(path=f"{USER}/keys", noun="key", tag="keys", guard=GUARD, taking=TAKING, read=owner, change=owner)
    revoke_all = Operation(
        name="revoke_keys",
        method="POST",
        path=f"{owned.path}/revoke",
        tag=owned.tag,
        summary="Revoke all keys of a user.",
        guard=TAKING,
        run=_Keys(database, owned).revoke_all,
        answer=Revoked,
        errors=(NotFound,),
    )
    find = Operation(
        name="find_key",
        method="GET",
        path=f"{PREFIX}/keys/{{id}}",
        tag=owned.tag,
        summary="A key, whosever it is.",
        guard=GUARD,
        run=_Keys(database, owned).find,
        answer=KeyRecord,
        errors=(NotFound,),
    )
    return [*operations_on(database, owned), revoke_all, find]


def operations_on(database: Database, owned: Owned) -> list[Operation]:
    """List, create, read, change, rotate, revoke and delete the keys of a collection."""
    noun, every, one = owned.noun, owned.path, f"{owned.path}/{{id}}"
    on, keys = partial(Operation, tag=owned.tag, guard=owned.guard), _Keys(database, owned)
    return [
        on(name=f"list_{noun}s", method="GET", path=every, summary="Keys, the oldest first.",
           run=keys.list, query=Part, answer=Page[KeyRecord], errors=(NotFound,)),
        on(name=f"create_{noun}", method="POST", path=every, summary="Make a key; its secret is shown this once.",
           run=keys.create, body=NewKeyOf, answer=NewKey, status=201, errors=(NotFound,)),
        on(name=f"get_{noun}", method="GET", path=one, summary="A key.",
           run=keys.get, answer=KeyRecord, errors=(NotFound,)),
        on(name=f"update_{noun}", method="PATCH", path=one, summary="Change a key.",
           run=keys.update, body=KeyChange, answer=KeyRecord, versioned=True, errors=(NotFound, Conflict, Outdated)),
        on(name=f"delete_{noun}", method="DELETE", path=one, summary="Delete a key for good.",
           guard=owned.taking, run=keys.delete, versioned=True, errors=(NotFound, Outdated)),
        on(name=f"rotate_{noun}", method="POST", path=f"{one}/rotate",
           summary="Give a key a new secret, which is shown this once.",
           run=keys.rotate, body=Rotation, answer=NewKey, errors=(NotFound, Conflict)),
        on(name=f"revoke_{noun}", method="POST", path=f"{one}/revoke", summary="Revoke a key at once and for ever.",
           guard=owned.taking, run=keys.revoke, answer=KeyRecord, versioned=True, errors=(NotFound, Outdated)),
    ]  # fmt: skip


class _Keys:
    def __init__(self, database: Database, owned: Owned) -> None:
        self._database, self._owned = database, owned

    def _records(self, call: Call) -> ApiKeys:
        return ApiKeys(self._database, call.actor)

    async def list(self, call: Call) -> Page[KeyRecord]:
        query: Part = call.query
        owner = await self._owned.read(call)
        records = await self._records(call).list(
            str(owner.id), ended=query.ended, after=after(query.cursor), limit=query.limit + 1
        )
        return page_of(records, query, lambda key: stands(key.created_at, key.id))

    async def create(self, call: Call) -> NewKey:
        new: NewKeyOf = call.body
        owner = await self._owned.change(call)
        limits = KeyLimits(**new.model_dump(include=set(Limits.model_fields)))
        text, record = await self._records(call).create(
            str(owner.id), description=new.description, expires_at=new.ends(datetime.now(UTC)), limits=limits
        )
        return _shown(text, record)

    async def get(self, call: Call) -> KeyRecord:
        owner = await self._owned.read(call)
        return await self._records(call).get(_id(call), of=owner.id)

    async def find(self, call: Call) -> KeyRecord:
        return await self._records(call).get(_id(call))

    async def update(self, call: Call) -> KeyRecord:
        owner, changes = await self._owned.change(call), call.body.model_dump(exclude_unset=True)
        return await self._records(call).update(_id(call), changes=changes, version=call.version, of=owner.id)

    async def delete(self, call: Call) -> None:
        owner = await self._owned.change(call)
        await self._records(call).delete(_id(call), version=call.version, of=owner.id)

    async def rotate(self, call: Call) -> NewKey:
        owner = await self._owned.change(call)
        return _shown(*await self._records(call).rotate(_id(call), grace_s=call.body.grace_s, of=owner.id))

    async def revoke(self, call: Call) -> KeyRecord:
        owner = await self._owned.change(call)
        return await self._records(call).revoke(_id(call), version=call.version, of=owner.id)

    async def revoke_all(self, call: Call) -> Revoked:
        owner = await self._owned.change(call)
        return Revoked(await self._records(call).revoke_all(str(owner.id)))


def _id(call: Call) -> UUID:
    return id_of(call.path["id"], "key")


def _shown(text: str, record: KeyRecord) -> NewKey:
    return NewKey(key=text, **{field.name: getattr(record, field.name) for field in fields(record)})
