"""Who has which role, since when and until when; what has ended is kept as the history.

Every change is one transaction, reaches each process through the triggers on the tables (NOTIFY), and is put down to
its actor in the audit trail. What a role permits is the business of roles.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

from parallama.db.pool import Database, Row, plain
from parallama.db.query import load
from parallama.errors import Conflict, Invalid, NotFound
from parallama.identity.actor import SERVER, Actor
from parallama.identity.roles import located_role, named_role
from parallama.identity.users import UserRecord, keeping_an_admin, located

if TYPE_CHECKING:
    from parallama.db.pool import Connection

_SQL = load("assignments")
_LATEST = datetime(9999, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignmentRecord:
    """That a user has, or had, a role. Times are aware UTC."""

    id: UUID
    user_id: UUID
    username: str
    role: str
    """By its name now; the one that it had when it was deleted."""
    main: bool
    """It is the role that lists show of the user, which does not expire."""
    assigned_by: str
    assigned_at: datetime
    expires_at: datetime | None
    """From this moment it gives nothing; None: it does not expire."""
    ended_at: datetime | None
    """When it was taken away; None: it was not."""
    ended_by: str | None

    def state(self, now: datetime) -> str:
        """`ended`, `expired` or `active`."""
        if self.ended_at is not None:
            return "ended"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"


AssignmentRecords = list[AssignmentRecord]


class Assignments:
    """The roles of users. A user is named by name, in whatever case, or by id.

    Methods raise NotFound when there is no such user or assignment, NotAllowed when the role gives more than `actor`
    holds, and when the user is an admin, or `actor`, who is none: roles come with limits. They raise Conflict when no
    active admin would be left, Unavailable when the database does not answer.
    """

    def __init__(
        self, database: Database, actor: Actor = SERVER, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._database, self._actor, self._now = database, actor, now

    async def assign(self, name: str, role: str, *, expires_at: datetime | None = None) -> AssignmentRecord:
        """Give the user a role, until `expires_at` (aware; None: for good).

        Raises Invalid for an unknown role and for a moment that is past, Conflict when the user has the role.
        """
        self._require_future(expires_at)
        async with self._change(name) as (one, user):
            given = await named_role(one, role, self._now(), param="role")
            self._actor.require((), admin=user.admin, what=f"give the role {role}")
            self._actor.require_to_give(given.gives, admin=given.admin, what=f"give the role {role}", until=expires_at)
            if has := await self._live(one, user, role):
                raise _had(has)
            values = (self._actor.name, self._now(), expires_at)
            made = await one.fetchval(_SQL.assign.sql, user.id, given.id, *values)
            if made is None:
                raise Invalid(f"the role {role} was deleted meanwhile", param="role")
            return await self._located(one, user, made)

    async def get(self, name: str, assignment_id: UUID) -> AssignmentRecord:
        """One of the user's assignments, whatever its state."""
        async with self._database.connection() as one:
            return await self._located(one, await located(one, name, self._now()), assignment_id)

    async def change(self, name: str, assignment_id: UUID, *, expires_at: datetime | None) -> AssignmentRecord:
        """Let it expire at another moment (aware; None: never).

        Raises Invalid for a moment that is past, Conflict for the main role and for what has ended or expired.
        """
        self._require_future(expires_at)
        async with self._change(name) as (one, user), keeping_an_admin(one, self._now()):
            record = await self._touch(one, user, assignment_id, "change when somebody loses")
            if record.main:
                raise Conflict(f"{record.role} is the main role of {record.username}, which does not expire")
            if record.expires_at is not None and (expires_at is None or expires_at > record.expires_at):
                await self._require_longer(one, record.role, expires_at)
            await one.execute(_SQL.expire.sql, record.id, expires_at)
            return await self._located(one, user, record.id)

    async def end(self, name: str, assignment_id: UUID) -> AssignmentRecord:
        """Take the role away at once; the record stays. Raises Conflict for what has ended or expired."""
        async with self._change(name) as (one, user), keeping_an_admin(one, self._now()):
            return await self._end(one, user, assignment_id)

    async def remove(self, name: str, role: str) -> AssignmentRecord:
        """Take the role away at once, whichever assignment it comes of. Raises NotFound when the user has it not."""
        async with self._change(name) as (one, user), keeping_an_admin(one, self._now()):
            has = await self._live(one, user, role) if role.isprintable() else None
            if has is None:
                raise NotFound(f"{user.username} does not have the role {role!r}")
            return await self._end(one, user, has.id)

    async def list(
        self, name: str, *, ended: bool = False, after: tuple[datetime, UUID] | None = None, limit: int | None = None
    ) -> AssignmentRecords:
        """The user's roles, oldest first, from the one after that `assigned_at` and `id`, at most `limit` (None: all);
        with `ended` also what has ended or expired."""
        async with self._database.connection() as one:
            user = await located(one, name, self._now())
            place = after or (None, None)
            rows = await one.fetch(_SQL.assignments.sql, user.id, None, None, ended, *place, limit, self._now())
            return [_record(row) for row in rows]

    @asynccontextmanager
    async def _change(self, name: str) -> AsyncIterator[tuple[Connection, UserRecord]]:
        """The user, whose roles nobody else changes meanwhile."""
        async with self._database.change(self._actor.told()) as one:
            user = await located(one, name, self._now())
            self._actor.require_other(user_id=user.id, what="change the roles of a user")
            await one.execute(_SQL.lock_user.sql, user.id)
            yield one, await located(one, str(user.id), self._now())

    async def _touch(self, one: Connection, user: UserRecord, assignment_id: UUID, verb: str) -> AssignmentRecord:
        """The assignment, which the actor may change."""
        record = await self._located(one, user, assignment_id)
        if (state := record.state(self._now())) != "active":
            raise Conflict(f"{record.username}'s role {record.role} has {state} already: assign it again")
        role = await located_role(one, record.role, self._now())
        self._actor.require(role.gives, admin=role.admin or user.admin, what=f"{verb} the role {record.role}")
        return record

    async def _require_longer(self, one: Connection, name: str, until: datetime | None) -> None:
        role = await located_role(one, name, self._now())
        self._actor.require_to_give(role.gives, admin=role.admin, what=f"give the role {name}", until=until)

    async def _end(self, one: Connection, user: UserRecord, assignment_id: UUID) -> AssignmentRecord:
        record = await self._touch(one, user, assignment_id, "take away")
        await one.execute(_SQL.end_assignment.sql, record.id, self._now(), self._actor.name)
        return await self._located(one, user, record.id)

    async def _located(self, one: Connection, user: UserRecord, assignment_id: UUID) -> AssignmentRecord:
        which = (assignment_id, None, True, None, None, 1)
        row = await one.fetchrow(_SQL.assignments.sql, user.id, *which, self._now())
        if row is None:
            raise NotFound(f"{user.username} has no assignment with the id {assignment_id}")
        return _record(row)

    async def _live(self, one: Connection, user: UserRecord, role: str) -> AssignmentRecord | None:
        """The assignment by which the user has the role now; None: they have it not."""
        which = (None, role, False, None, None, 1)
        row = await one.fetchrow(_SQL.assignments.sql, user.id, *which, self._now())
        return None if row is None else _record(row)

    def _require_future(self, expires_at: datetime | None) -> None:
        if expires_at is not None and not self._now() < expires_at < _LATEST:
            raise Invalid("the expiry must lie in the future, before the year 9999", param="expires_at")


def _had(record: AssignmentRecord) -> Conflict:
    how = "for good, as the main role" if record.main else "change its expiry, or end it first"
    return Conflict(f"{record.username} has the role {record.role} already (assignment {record.id}): {how}")


def _record(row: Row) -> AssignmentRecord:
    return AssignmentRecord(**{field.name: plain(row[field.name]) for field in fields(AssignmentRecord)})
