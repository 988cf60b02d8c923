"""Roles as records: what they permit, which one stands above which, and the permissions that gateways bring.

Every change is one transaction, reaches each process through the triggers on the tables (NOTIFY), and is put down to
its actor in the audit trail. Who has a role is the business of assignments.py.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from parallama.db.pool import Database, Row
from parallama.db.query import load
from parallama.errors import Conflict, Invalid, NotFound, Outdated
from parallama.exchange import EVERY_GATEWAY
from parallama.identity.actor import SERVER, Actor
from parallama.identity.grants import ADMIN
from parallama.identity.users import keeping_an_admin

if TYPE_CHECKING:
    from parallama.db.pool import Connection

ROLE_FORM = "a small letter, then at most 62 small letters, digits or _ -"
MAX_DESCRIPTION = 200
"""Characters."""

_SQL = load("roles")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleRecord:
    """A role."""

    name: str
    description: str
    parent: str | None
    """The role above it, whose permissions it has too."""
    permissions: list[str]
    """Its own, sorted; `use_*` stands for every gateway."""
    inherited: list[str]
    """Those of all roles above it, sorted."""
    seeded: bool
    """It is there from the beginning, and cannot be renamed or deleted."""
    users: int
    """How many hold it now; those who hold a role below it do not count."""
    created_at: datetime
    version: int
    """Counts the changes."""


RoleRecords = list[RoleRecord]


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """A role as changes see it."""

    id: UUID
    record: RoleRecord
    above: frozenset[str]
    """The names of all roles above it."""

    @property
    def gives(self) -> frozenset[str]:
        """All that its holders are permitted by it."""
        return frozenset(self.record.permissions) | frozenset(self.record.inherited)

    @property
    def admin(self) -> bool:
        """Whether its holders may do everything."""
        return ADMIN in self.above or self.record.name == ADMIN


class Roles:
    """The records of roles.

    Methods raise NotFound when there is no such role, NotAllowed when it gives more than `actor` holds, or when `actor`
    has it, is no admin and would be limited otherwise by the change, Outdated when it has not the `version` asked for,
    Conflict when no active admin would be left, Unavailable when the database does not answer.
    """

    def __init__(
        self, database: Database, actor: Actor = SERVER, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._database, self._actor, self._now = database, actor, now

    async def get(self, name: str) -> RoleRecord:
        """The role of that name."""
        async with self._database.connection() as one:
            return (await located_role(one, name, self._now())).record

    async def permissions(self) -> list[str]:
        """All that a role can have, sorted, `use_*` among them."""
        async with self._database.connection() as one:
            return await _permissions(one)

    async def create(
        self, name: str, *, permissions: Iterable[str] = (), parent: str | None = None, description: str = ""
    ) -> RoleRecord:
        """Make a role. Raises Invalid for a bad name or description and an unknown permission or parent, Conflict for a
        name that is taken."""
        _require_name(name)
        _require_description(description)
        async with self._change() as one:
            own, above = await _known(one, permissions), await self._parent(one, parent)
            self._require(above.gives.union(own) if above else own, above is not None and above.admin, "make", name)
            parent_id = above and above.id
            if await one.fetchval(_SQL.create_role.sql, name, description, parent_id, own) is None:
                raise _taken(name)
            return (await located_role(one, name, self._now())).record

    async def update(self, name: str, *, changes: Mapping[str, Any], version: int | None = None) -> RoleRecord:
        """Change `name`, `description`, `parent` (None: none), `permissions`, or some of those with `add_permissions`
        and `remove_permissions`; the role as it then is.

        Raises Invalid as `create` does, Conflict for a name that is taken, for a parent that is below the role, for the
        role admin, and for another name of a seeded role.
        """
        async with self._change() as one, keeping_an_admin(one, self._now()):
            role = await self._touch(one, name, version, "change")
            new = _changed(role.record, changes)
            if (new.name, new.parent) != (name, role.record.parent):
                self._require_not_held(name, "change the name of, or what is above,")
            own = await _known(one, new.permissions)
            above = await self._parent(one, new.parent)
            _require_no_circle(role, above)
            gives = above.gives.union(own) if above else own
            self._actor.require_to_give(gives, admin=above is not None and above.admin, what=f"change the role {name}")
            await _write(one, role, replace(new, permissions=own), above)
            return (await located_role(one, new.name, self._now())).record

    async def delete(self, name: str, *, cascade: bool = False, version: int | None = None) -> None:
        """Delete a role. Raises Conflict for a seeded one, and for one that somebody holds or that is a parent: with
        `cascade` it is taken from all of them."""
        async with self._change() as one, keeping_an_admin(one, self._now()):
            role = await self._touch(one, name, version, "delete")
            self._require_not_held(name, "delete")
            if role.record.seeded:
                raise Conflict(f"the role {name} cannot be deleted: it is there from the beginning")
            if not cascade:
                await _require_unused(one, role)
            await one.execute(_SQL.lock_holders.sql, role.id)
            await one.execute(_SQL.end_role.sql, role.id, name, self._now(), self._actor.name)
            await one.execute(_SQL.orphan.sql, role.id)
            await one.execute(_SQL.delete_role.sql, role.id)

    async def list(self, *, after: str | None = None, limit: int | None = None) -> RoleRecords:
        """Roles by name, from the one after the name `after`, at most `limit`. None: all."""
        if after is not None and not _NAME.fullmatch(after):
            raise Invalid(f"{after!r} is no name of a role: no part of the list begins there")
        async with self._database.connection() as one:
            return [_role(row).record for row in await one.fetch(_SQL.roles.sql, None, after, limit, self._now())]

    @asynccontextmanager
    async def _change(self) -> AsyncIterator[Connection]:
        async with self._database.change(self._actor.told()) as one:
            await one.execute(_SQL.lock_roles.sql)
            yield one

    async def _touch(self, one: Connection, name: str, version: int | None, verb: str) -> Role:
        """The role, which the actor may change."""
        role = await located_role(one, name, self._now())
        self._require(role.gives, role.admin, verb, name)
        if name == ADMIN:
            raise Conflict("the role admin cannot be changed or deleted: make a role of your own")
        if version not in (None, role.record.version):
            raise Outdated(f"the role {name} was changed meanwhile: it is at version {role.record.version}")
        return role

    def _require(self, gives: Iterable[str], admin: bool, verb: str, name: str) -> None:
        self._actor.require(frozenset(gives), admin=admin, what=f"{verb} the role {name}")

    def _require_not_held(self, name: str, verb: str) -> None:
        """The limits of the actor hang on it."""
        self._actor.require_other(role=name, what=f"{verb} the role {name}")

    async def _parent(self, one: Connection, name: str | None) -> Role | None:
        return None if name is None else await named_role(one, name, self._now(), param="parent")


async def seed_gateway_permissions(database: Database, families: Mapping[str, Sequence[str]]) -> None:
    """Make `use_<family>` of each family of gateways known, and give it to the seeded roles named there.

    Only what is new is given: what an admin has taken from a role since is not given back. Raises Unavailable.
    """
    receivers = {f"use_{family}": roles for family, roles in families.items()}
    async with database.change(SERVER.told()) as one:
        new = await one.fetch(_SQL.add_permissions.sql, sorted(receivers))
        if new:
            await one.execute(_SQL.lock_roles.sql)
        for row in new:
            await one.execute(_SQL.give.sql, row["name"], list(receivers[row["name"]]))


async def located_role(one: Connection, name: str, now: datetime) -> Role:
    """The role of that name. Raises NotFound."""
    row = await one.fetchrow(_SQL.roles.sql, name, None, 1, now) if _NAME.fullmatch(name) else None
    if row is None:
        raise NotFound(f"there is no role {name!r}")
    return _role(row)


async def named_role(one: Connection, name: str, now: datetime, *, param: str) -> Role:
    """The role that the field `param` of a request names. Raises Invalid."""
    try:
        return await located_role(one, name, now)
    except NotFound as error:
        known = ", ".join(row["name"] for row in await one.fetch(_SQL.roles.sql, None, None, None, now))
        raise Invalid(f"{error}: it must be one of {known}", param=param) from error


def _role(row: Row) -> Role:
    record = RoleRecord(**{field.name: row[field.name] for field in fields(RoleRecord)})
    sorts = replace(record, permissions=sorted(record.permissions), inherited=sorted(record.inherited))
    return Role(id=UUID(int=row["id"].int), record=sorts, above=frozenset(row["above"]))


def _changed(role: RoleRecord, changes: Mapping[str, Any]) -> RoleRecord:
    """The role with `changes`; its permissions may be unknown ones. Raises Invalid, Conflict."""
    new = replace(role, **{key: changes[key] for key in ("name", "description", "parent") if key in changes})
    if new.name != role.name and role.seeded:
        raise Conflict(f"the role {role.name} cannot be renamed: it is there from the beginning")
    _require_name(new.name)
    _require_description(new.description)
    own = {*changes.get("permissions", role.permissions), *changes.get("add_permissions", ())}
    return replace(new, permissions=sorted(own.difference(changes.get("remove_permissions", ()))))


async def _write(one: Connection, role: Role, new: RoleRecord, above: Role | None) -> None:
    if await one.fetchval(_SQL.is_taken.sql, new.name, role.id):
        raise _taken(new.name)
    values = (new.name, new.description, above and above.id, new.permissions)
    await one.execute(_SQL.update_role.sql, role.id, *values)


async def _permissions(one: Connection) -> list[str]:
    return sorted([EVERY_GATEWAY, *(row["name"] for row in await one.fetch(_SQL.permissions.sql))])


async def _known(one: Connection, permissions: Iterable[str]) -> list[str]:
    """`permissions` sorted, each once. Raises Invalid for one that there is not."""
    asked, known = sorted(set(permissions)), await _permissions(one)
    for name in asked:
        if name not in known:
            raise Invalid(f"there is no permission {name!r}: it must be one of {', '.join(known)}", param="permissions")
    return asked


def _require_no_circle(role: Role, above: Role | None) -> None:
    name = role.record.name
    if above and (above.record.name == name or name in above.above):
        raise Conflict(f"the role {name} cannot be below {above.record.name}, which is itself or below it")


async def _require_unused(one: Connection, role: Role) -> None:
    children = [row["name"] for row in await one.fetch(_SQL.children.sql, role.id)]
    if children:
        raise Conflict(
            f"the role {role.record.name} is the parent of {', '.join(children)}: cascade takes it from them"
        )
    if role.record.users:
        raise Conflict(f"the role {role.record.name} is held (users: {role.record.users}): cascade takes it from them")


def _taken(name: str) -> Conflict:
    return Conflict(f"there is a role {name} already")


def _require_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise Invalid(f"{name!r} is no name of a role: it must be {ROLE_FORM}", param="name")


def _require_description(text: str) -> None:
    if len(text) > MAX_DESCRIPTION or not text.isprintable():
        raise Invalid(f"a description must be one line of at most {MAX_DESCRIPTION} characters", param="description")
