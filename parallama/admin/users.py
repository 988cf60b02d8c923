"""Users over HTTP: `/admin/v1/users`. What may be changed by whom is for the records to judge."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Annotated

from pydantic import Field, StrictBool

from parallama.admin.api import PREFIX, Call, Operation, Page, Paging, Shape
from parallama.admin.guards import needs
from parallama.admin.values import Name, name_after, page_of
from parallama.config.settings import AuthSettings
from parallama.db.pool import Database
from parallama.errors import Conflict, NotFound, Outdated, Unavailable
from parallama.identity.passwords import MAX_PASSWORD, Passwords, require_password
from parallama.identity.users import UserRecord, Users

USERS = f"{PREFIX}/users"
USER = f"{USERS}/{{name}}"

GUARD = needs("manage_users")
TAKING = replace(GUARD, gives=False)
"""The same, for what only takes something away."""

Password = Annotated[str, Field(min_length=1, max_length=MAX_PASSWORD)]


class ListUsers(Paging):
    """Which users."""

    role: Name | None = None
    """Only those who hold it."""
    active: bool | None = None
    """Only those that are, or are not."""


class NewUser(Shape):
    """A user to be."""

    username: Name
    """A letter or digit, then at most 62 letters, digits or . _ @ -; no two differ by case alone."""
    role: Name = "basic"
    """Their main role."""
    admin: StrictBool = False
    """Whether they may do everything."""
    password: Password | None = None
    """For logins; none: they have keys only."""


class UserChange(Shape):
    """What to change of a user; what is not named stays as it is."""

    username: Name = Field(default_factory=str)
    """Their new name."""
    role: Name = Field(default_factory=str)
    """Their new main role, in place of the one they have."""
    admin: StrictBool = Field(default_factory=bool)
    """Whether they may do everything."""
    active: StrictBool = Field(default_factory=bool)
    """False: their keys and tokens are refused, and their sessions end."""
    password: Password | None = None
    """For logins; null: none any more. Their sessions end."""


def user_operations(database: Database, passwords: Passwords, auth: AuthSettings) -> list[Operation]:
    """List, create, read, change and delete users."""
    on, one = partial(Operation, tag="users", guard=GUARD), _Users(database, passwords, auth)
    return [
        on(name="list_users", method="GET", path=USERS, summary="Users, by name.",
           run=one.list, query=ListUsers, answer=Page[UserRecord]),
        on(name="create_user", method="POST", path=USERS, summary="Make a user.",
           run=one.create, body=NewUser, answer=UserRecord, status=201, errors=(NotFound, Conflict, Unavailable)),
        on(name="get_user", method="GET", path=USER, summary="A user, by name or id.",
           run=one.get, answer=UserRecord, errors=(NotFound,)),
        on(name="update_user", method="PATCH", path=USER, summary="Change a user.",
           run=one.update, body=UserChange, answer=UserRecord, versioned=True,
           errors=(NotFound, Conflict, Outdated, Unavailable)),
        on(name="delete_user", method="DELETE", path=USER, summary="Delete a user with their keys; usage is kept.",
           guard=TAKING, run=one.delete, versioned=True, errors=(NotFound, Conflict, Outdated)),
    ]  # fmt: skip


class _Users:
    def __init__(self, database: Database, passwords: Passwords, auth: AuthSettings) -> None:
        self._database, self._passwords, self._auth = database, passwords, auth

    def _records(self, call: Call) -> Users:
        return Users(self._database, call.actor)

    async def _hashed(self, password: str | None, username: str) -> str | None:
        if password is None:
            return None
        require_password(password, username, self._auth.min_password_length)
        return await self._passwords.hash(password)

    async def list(self, call: Call) -> Page[UserRecord]:
        query: ListUsers = call.query
        records = await self._records(call).list(
            query.role, active=query.active, after=name_after(query.cursor), limit=query.limit + 1
        )
        return page_of(records, query, lambda user: (user.username.lower(),))

    async def create(self, call: Call) -> UserRecord:
        new: NewUser = call.body
        password_hash = await self._hashed(new.password, new.username)
        return await self._records(call).create(
            new.username, role=new.role, admin=new.admin, password_hash=password_hash
        )

    async def get(self, call: Call) -> UserRecord:
        return await self._records(call).get(call.path["name"])

    async def update(self, call: Call) -> UserRecord:
        records, changes = self._records(call), call.body.model_dump(exclude_unset=True)
        user, version = await records.get(call.path["name"]), call.version
        sets_password = "password" in changes
        password_hash = await self._hashed(changes.pop("password", None), changes.get("username", user.username))
        if changes or not sets_password:
            user = await records.update(user.username, **changes, version=version)
            version = None if version is None else user.version
        return await records.set_password(user.username, password_hash, version=version) if sets_password else user

    async def delete(self, call: Call) -> None:
        await self._records(call).delete(call.path["name"], version=call.version)
