"""Roles and permissions over HTTP: `/admin/v1/roles`, `/admin/v1/permissions`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

from pydantic import Field

from parallama.admin.api import PREFIX, Call, Operation, Page, Paging, Shape
from parallama.admin.guards import needs
from parallama.admin.values import Name, name_after, page_of
from parallama.db.pool import Database
from parallama.errors import Conflict, NotFound, Outdated
from parallama.identity.roles import MAX_DESCRIPTION, RoleRecord, Roles

_ROLES = f"{PREFIX}/roles"
_ROLE = f"{_ROLES}/{{role}}"

Description = Annotated[str, Field(max_length=MAX_DESCRIPTION)]
Permissions = Annotated[tuple[Name, ...], Field(max_length=200)]


class NewRole(Shape):
    """A role to be."""

    name: Name
    """1 to 63 of a-z, 0-9, '_' and '-', a letter first."""
    description: Description = ""
    """What it is for."""
    parent: Name | None = None
    """The role whose permissions it has too; null: none."""
    permissions: Permissions = ()
    """Of its own; `use_*` stands for every gateway."""


class RoleChange(Shape):
    """What to change of a role; what is not named stays as it is."""

    name: Name = Field(default_factory=str)
    """Its new name."""
    description: Description = ""
    """What it is for."""
    parent: Name | None = None
    """The role whose permissions it has too; null: none."""
    permissions: Permissions = ()
    """All of its own, in place of those it has."""
    add_permissions: Permissions = ()
    """Of its own, beside those it has."""
    remove_permissions: Permissions = ()
    """Of its own, no longer."""


class Deletion(Shape):
    """How a role is deleted."""

    cascade: bool = False
    """Whether also one that users have, who lose it, or that has roles below it, which lose their parent."""


@dataclass(frozen=True, slots=True)
class Known:
    """What there is to be permitted."""

    permissions: Sequence[str]


def role_operations(database: Database) -> list[Operation]:
    """List, create, read, change and delete roles, and list permissions."""
    guard, roles = needs("manage_roles"), _Roles(database)
    on = partial(Operation, tag="roles", guard=guard)
    return [
        on(name="list_roles", method="GET", path=_ROLES, summary="Roles, by name.",
           run=roles.list, query=Paging, answer=Page[RoleRecord]),
        on(name="create_role", method="POST", path=_ROLES, summary="Make a role.",
           run=roles.create, body=NewRole, answer=RoleRecord, status=201, errors=(NotFound, Conflict)),
        on(name="get_role", method="GET", path=_ROLE, summary="A role.",
           run=roles.get, answer=RoleRecord, errors=(NotFound,)),
        on(name="update_role", method="PATCH", path=_ROLE, summary="Change a role.",
           run=roles.update, body=RoleChange, answer=RoleRecord, versioned=True,
           errors=(NotFound, Conflict, Outdated)),
        on(name="delete_role", method="DELETE", path=_ROLE, summary="Delete a role.",
           guard=replace(guard, gives=False), run=roles.delete, query=Deletion, versioned=True,
           errors=(NotFound, Conflict, Outdated)),
        on(name="list_permissions", method="GET", path=f"{PREFIX}/permissions", summary="Permissions that there are.",
           run=roles.permissions, answer=Known),
    ]  # fmt: skip


class _Roles:
    def __init__(self, database: Database) -> None:
        self._database = database

    def _records(self, call: Call) -> Roles:
        return Roles(self._database, call.actor)

    async def list(self, call: Call) -> Page[RoleRecord]:
        query: Paging = call.query
        records = await self._records(call).list(after=name_after(query.cursor), limit=query.limit + 1)
        return page_of(records, query, lambda role: (role.name,))

    async def create(self, call: Call) -> RoleRecord:
        new: NewRole = call.body
        return await self._records(call).create(
            new.name, permissions=new.permissions, parent=new.parent, description=new.description
        )

    async def get(self, call: Call) -> RoleRecord:
        return await self._records(call).get(call.path["role"])

    async def update(self, call: Call) -> RoleRecord:
        changes = call.body.model_dump(exclude_unset=True)
        return await self._records(call).update(call.path["role"], changes=changes, version=call.version)

    async def delete(self, call: Call) -> None:
        await self._records(call).delete(call.path["role"], cascade=call.query.cascade, version=call.version)

    async def permissions(self, call: Call) -> Known:
        return Known(await self._records(call).permissions())
