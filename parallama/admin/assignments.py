"""Which roles a user has had over HTTP: `/admin/v1/users/{name}/roles`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from uuid import UUID

from parallama.admin.api import Call, Operation, Page, Shape
from parallama.admin.guards import needs
from parallama.admin.users import USER
from parallama.admin.values import Moment, Name, Part, after, id_of, page_of, stands
from parallama.db.pool import Database
from parallama.errors import Conflict, NotFound
from parallama.identity.assignments import AssignmentRecord, Assignments

_ROLES = f"{USER}/roles"
_ONE = f"{_ROLES}/{{id}}"


class NewAssignment(Shape):
    """A role that a user is given beside their main one."""

    role: Name
    """Its name."""
    expires_at: Moment | None = None
    """When it ends, to the second; null: never."""


class AssignmentChange(Shape):
    """When a user loses a role."""

    expires_at: Moment | None
    """When it ends; null: never."""


def assignment_operations(database: Database) -> list[Operation]:
    """List, create, read, change and end what roles a user has."""
    guard, held = needs("manage_roles"), _Held(database)
    on = partial(Operation, tag="assignments", guard=guard)
    return [
        on(name="list_assignments", method="GET", path=_ROLES, summary="Roles of a user, the oldest first.",
           run=held.list, query=Part, answer=Page[AssignmentRecord], errors=(NotFound,)),
        on(name="assign_role", method="POST", path=_ROLES, summary="Give a user a role.",
           run=held.assign, body=NewAssignment, answer=AssignmentRecord, status=201, errors=(NotFound, Conflict)),
        on(name="get_assignment", method="GET", path=_ONE, summary="One role that a user has or had.",
           run=held.get, answer=AssignmentRecord, errors=(NotFound,)),
        on(name="change_assignment", method="PATCH", path=_ONE, summary="Change when a user loses a role.",
           run=held.change, body=AssignmentChange, answer=AssignmentRecord, errors=(NotFound, Conflict)),
        on(name="end_assignment", method="DELETE", path=_ONE, summary="Take a role from a user; the history stays.",
           guard=replace(guard, gives=False), run=held.end, errors=(NotFound, Conflict)),
    ]  # fmt: skip


class _Held:
    def __init__(self, database: Database) -> None:
        self._database = database

    def _records(self, call: Call) -> Assignments:
        return Assignments(self._database, call.actor)

    async def list(self, call: Call) -> Page[AssignmentRecord]:
        query: Part = call.query
        records = await self._records(call).list(
            call.path["name"], ended=query.ended, after=after(query.cursor), limit=query.limit + 1
        )
        return page_of(records, query, lambda held: stands(held.assigned_at, held.id))

    async def assign(self, call: Call) -> AssignmentRecord:
        new: NewAssignment = call.body
        return await self._records(call).assign(call.path["name"], new.role, expires_at=new.expires_at)

    async def get(self, call: Call) -> AssignmentRecord:
        return await self._records(call).get(call.path["name"], _id(call))

    async def change(self, call: Call) -> AssignmentRecord:
        return await self._records(call).change(call.path["name"], _id(call), expires_at=call.body.expires_at)

    async def end(self, call: Call) -> None:
        await self._records(call).end(call.path["name"], _id(call))


def _id(call: Call) -> UUID:
    return id_of(call.path["id"], "assignment")
