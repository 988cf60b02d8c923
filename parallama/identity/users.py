"""Users as records: what the commands and the API read and change, and what each user holds.

Every change is one transaction, reaches each process through the triggers on the tables (NOTIFY), and is put down to
its actor in the audit trail. Passwords come hashed.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from parallama.db.pool import TAKEN, Database, Row, plain
from parallama.db.query import load
from parallama.errors import Conflict, Invalid, NotFound, Outdated
from parallama.identity import grants
from parallama.identity.actor import SERVER, Actor

if TYPE_CHECKING:
    from parallama.db.pool import Connection

USERNAME_FORM = "a letter or digit, then at most 62 letters, digits or . _ @ -"

_SQL = load("users")
_USERNAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")


@dataclass(frozen=True, slots=True, kw_only=True)
class UserRecord:
    """A user. The first six fields are what `user list --json` shows, in order."""

    id: UUID
    username: str
    role: str | None
    """The main one; None: its role was deleted."""
    admin: bool
    """By the user's own flag, or by the role `admin` or one below it."""
    active: bool
    """False: nothing that the user has works, neither keys nor tokens."""
    created_at: datetime
    roles: list[str]
    """All that were assigned and hold now, by name."""
    has_password: bool
    """False: the user has keys only."""
    last_login_at: datetime | None
    """None: never."""
    version: int
    """Counts the changes."""


UserRecords = list[UserRecord]


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a login is judged by."""

    user_id: UUID
    username: str
    active: bool
    password: str | None
    """argon2id in its encoded form; None: the user cannot log in."""


class Holding(NamedTuple):
    """What a user may do at a moment, or what a role gives."""

    permissions: frozenset[str]
    admin: bool
    """True: everything, whatever `permissions` are."""


class Users:
    """The records of users. A user is named by name, in whatever case, or by id.

    Methods raise NotFound when there is no such user, NotAllowed when `actor` would touch somebody who may more or hand
    out more than they hold, Outdated when the user has not the `version` asked for, Conflict when no active admin would
    be left, Unavailable when the database does not answer.
    """

    def __init__(
        self, database: Database, actor: Actor = SERVER, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._database, self._actor, self._now = database, actor, now

    async def create(
        self, name: str, *, role: str = "basic", admin: bool = False, password_hash: str | None = None
    ) -> UserRecord:
        """Make an active user without keys. Raises Invalid for a bad name or role, Conflict for a taken name."""
        _require_name(name)
        async with self._change() as one:
            gives = await _role(one, role)
            self._actor.require_to_give(
                gives.permissions, admin=admin or gives.admin, what=f"make a user of the role {role}"
            )
            made = await one.fetchval(_SQL.create_user.sql, name, admin, password_hash)
            if made is None:
                raise _taken(name)
            await self._assign(one, made, role)
            return await located(one, str(made), self._now())

    async def ensure(self, name: str) -> None:
        """Make a basic user unless there is one of that name; an existing one stays as it is."""
        _require_name(name)
        async with self._change() as one:
            await one.execute(_SQL.ensure_user.sql, name)

    async def get(self, name: str) -> UserRecord:
        """The user of that name or id."""
        async with self._database.connection() as one:
            return await located(one, name, self._now())

    async def permissions_of(self, user_id: UUID) -> Holding:
        """What the user may do now."""
        async with self._database.connection() as one:
            return await held(one, user_id, self._now())

    async def update(
        self,
        name: str,
        *,
        username: str | None = None,
        role: str | None = None,
        admin: bool | None = None,
        active: bool | None = None,
        version: int | None = None,
    ) -> UserRecord:
        """Change what is not None; the user as it then is. A `role` becomes the main one, others stay.

        Who is no longer active loses all sessions. Raises Invalid for a bad name or role, Conflict for a name that is
        taken.
        """
        if username is not None:
            _require_name(username)
        async with self._change() as one, keeping_an_admin(one, self._now()):
            user = await self._touch(one, name, version, "change")
            if admin:
                self._actor.require_to_give((), admin=True, what="make an admin")
            await _update(one, user.id, username, admin, active)
            if role is not None and role != user.role:
                await self._give(one, user.id, role)
            if active is False:
                await one.execute(_SQL.end_sessions.sql, user.id, self._now(), "inactive")
            return await located(one, str(user.id), self._now())

    async def set_password(self, name: str, password_hash: str | None, *, version: int | None = None) -> UserRecord:
        """Give the user another password, None for none, and end all sessions."""
        async with self._change() as one:
            user = await self._touch(one, name, version, "change the password of")
            await one.execute(_SQL.set_password.sql, user.id, password_hash)
            await one.execute(_SQL.end_sessions.sql, user.id, self._now(), "password")
            return await located(one, str(user.id), self._now())

    async def delete(self, name: str, *, version: int | None = None) -> None:
        """Delete the user with all keys and sessions; what the user has used stays on record."""
        async with self._change() as one, keeping_an_admin(one, self._now()):
            user = await self._touch(one, name, version, "delete")
            await one.execute(_SQL.delete_user.sql, user.id)

    async def password_of(self, username: str) -> Credentials | None:
        """What a login as `username` is judged by; None: there is no such user."""
        if not _USERNAME.fullmatch(username):
            return None
        row = await self._database.fetchrow(_SQL.credentials, username)
        return None if row is None else Credentials(**{**row, "user_id": UUID(int=row["user_id"].int)})

    async def logged_in(self, user_id: UUID, rehashed: str | None, *, instead_of: str | None = None) -> None:
        """Note a login. A password that was `rehashed` takes the place of `instead_of`, the encoded one that was
        verified, unless that was changed meanwhile; sessions stay."""
        async with self._change() as one:
            if rehashed is not None:
                await one.execute(_SQL.rehash_password.sql, user_id, rehashed, instead_of)
            await one.execute(_SQL.mark_login.sql, user_id, self._now())

    async def list(
        self, role: str | None = None, *, active: bool | None = None, after: str | None = None, limit: int | None = None
    ) -> UserRecords:
        """Users by name: who hold `role`, who are `active` or not, whose name comes after `after`, which is in lower
        case; at most `limit`. None: all. Raises Invalid for an unknown role."""
        async with self._database.connection() as one:
            if role is not None:
                await _role(one, role)
            if after is not None and not _USERNAME.fullmatch(after):
                raise Invalid(f"{after!r} is no user name: no part of the list begins there")
            return [_record(row) for row in await one.fetch(_SQL.users.sql, role, active, after, limit, self._now())]

    @asynccontextmanager
    async def _change(self) -> AsyncIterator[Connection]:
        async with self._database.change(self._actor.told()) as one:
            yield one

    async def _touch(self, one: Connection, name: str, version: int | None, verb: str) -> UserRecord:
        """The user, held for the change, whom the actor may change."""
        await one.execute(_SQL.lock_user.sql, *_places(name))
        user = await located(one, name, self._now())
        await require_over(one, self._actor, user, self._now(), f"{verb} the user {user.username}")
        if version not in (None, user.version):
            raise Outdated(f"the user {user.username} was changed meanwhile: it is at version {user.version}")
        return user

    async def _give(self, one: Connection, user_id: UUID, role: str) -> None:
        """Make it the main role, when the actor may."""
        gives = await _role(one, role)
        self._actor.require_to_give(gives.permissions, admin=gives.admin, what=f"give the role {role}")
        self._actor.require_other(user_id=user_id, what="change the main role of a user")
        await one.execute(_SQL.end_main_role.sql, user_id, role, self._now(), self._actor.name)
        await self._assign(one, user_id, role)

    async def _assign(self, one: Connection, user_id: UUID, role: str) -> None:
        if not await one.fetchval(_SQL.assign_main_role.sql, user_id, role, self._actor.name, self._now()):
            raise Invalid(f"the role {role} was deleted meanwhile")


async def located(one: Connection, name: str, now: datetime) -> UserRecord:
    """The user of that name or id. Raises NotFound."""
    row = await one.fetchrow(_SQL.user.sql, *_places(name), now)
    if row is None:
        raise NotFound(f"there is no user {name!r}")
    return _record(row)


async def held(one: Connection, user_id: UUID, now: datetime) -> Holding:
    """What the user may do at `now`. Raises NotFound."""
    row = await one.fetchrow(_SQL.held.sql, user_id)
    if row is None:
        raise NotFound(f"there is no user {str(user_id)!r}")
    found = grants.held(grants.parse(row["grants"]), now)
    return Holding(found.permissions, row["admin"] or found.admin)


async def require_over(one: Connection, actor: Actor, user: UserRecord, now: datetime, what: str) -> None:
    """Raise NotAllowed when the user may more than the actor, who would do `what`."""
    theirs = await held(one, user.id, now)
    actor.require(theirs.permissions, admin=theirs.admin, what=what)


@asynccontextmanager
async def keeping_an_admin(one: Connection, now: datetime) -> AsyncIterator[None]:
    """Raise Conflict when the changes of the block leave no active admin where there was one, or none but such whose
    role expires where there was one for good."""
    had = await one.fetchval(_SQL.admins_left.sql, now)
    yield
    if had:
        await one.execute(_SQL.lock_admins.sql)
        left = await one.fetchval(_SQL.admins_left.sql, now)
        if left < had:
            which = "admin whose role does not expire" if left else "active admin"
            raise Conflict(f"no {which} would be left: make another admin first")


async def _role(one: Connection, name: str) -> Holding:
    """What the role gives. Raises Invalid when there is none of that name."""
    row = await one.fetchrow(_SQL.role_grants.sql, name) if name.isprintable() else None
    if row is None:
        known = [known["name"] for known in await one.fetch(_SQL.role_names.sql)]
        raise Invalid(f"there is no role {name!r}: it must be one of {', '.join(known)}", param="role")
    return Holding(frozenset(row["permissions"]), row["admin"])


async def _update(
    one: Connection, user_id: UUID, username: str | None, admin: bool | None, active: bool | None
) -> None:
    try:
        await one.execute(_SQL.update_user.sql, user_id, username, admin, active)
    except TAKEN as error:
        raise _taken(str(username)) from error


def _record(row: Row) -> UserRecord:
    return UserRecord(**{f.name: plain(row[f.name]) for f in fields(UserRecord)})


def _taken(name: str) -> Conflict:
    return Conflict(f"the user name {name} is taken (names are compared without case)")


def _places(name: str) -> tuple[UUID | None, str | None]:
    """The id or the name that `name` can be."""
    user_id = _as_id(name)
    return user_id, name if user_id is None and _USERNAME.fullmatch(name) else None


def _as_id(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _require_name(name: str) -> None:
    if not _USERNAME.fullmatch(name):
        raise Invalid(f"that is no user name: it must be {USERNAME_FORM}", param="username")
    if _as_id(name) is not None:
        raise Invalid("that is no user name: it reads as an id", param="username")
