"""Users and their API keys as records: what the commands read and change.

Every change reaches each process through the triggers on the tables (NOTIFY). Nothing is cached and no key is
judged here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from parallama.db.pool import Database, Row
from parallama.db.query import load
from parallama.identity import keys

ROLES = ("admin", "premium", "basic")
USERNAME_FORM = "a letter or digit, then at most 62 letters, digits or . _ @ -"
MAX_DESCRIPTION = 200
"""Characters."""

_USERS = load("users")
_KEYS = load("api_keys")
_USERNAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")


class AccountError(Exception):
    """A user or key record that cannot be had or made; the message names it and says what would be right.

    AccountError
     ├── Invalid      a value that no record may have
     ├── NameTaken    another user has the name
     └── Unknown      no such user or key
    """


class Invalid(AccountError):
    """A value that no record may have."""


class NameTaken(AccountError):
    """Another user has the name, in whatever case."""


class Unknown(AccountError):
    """No such user or key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserRecord:
    """A user. The fields are what `user list --json` shows, in order."""

    id: UUID
    username: str
    role: str
    admin: bool
    """By the user's own flag or by the role `admin`."""
    active: bool
    """False: none of the user's keys works."""
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """An API key without its secret. Times are aware UTC."""

    id: UUID
    user_id: UUID
    username: str
    hint: str
    description: str
    created_at: datetime
    expires_at: datetime | None
    """None: never."""
    revoked_at: datetime | None
    """None: not revoked."""
    last_used_at: datetime | None
    """None: never used. Written every few seconds."""

    def state(self, now: datetime) -> str:
        """`revoked`, `expired` or `active`; an active key of an inactive user does not work either."""
        if self.revoked_at is not None:
            return "revoked"
        expired = self.expires_at is not None and self.expires_at <= now
        return "expired" if expired else "active"


class Accounts:
    """The records of users and keys. A user is named by name, in whatever case, or by id.

    Methods raise Unavailable when the database does not answer, Unknown when the user or key does not exist.
    """

    def __init__(self, database: Database, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._database = database
        self._now = now

    async def create_user(self, name: str, role: str = "basic", admin: bool = False) -> UserRecord:
        """Make an active user without keys. Raises Invalid for a bad name or role, NameTaken."""
        _require_name(name)
        _require_role(role)
        row = await self._database.fetchrow(_USERS.create_user, name, role, admin)
        if row is None:
            raise NameTaken(f"the user name {name} is taken (names are compared without case)")
        return _user(row)

    async def ensure_user(self, name: str) -> None:
        """Make a basic user unless there is one of that name; an existing one stays as it is."""
        _require_name(name)
        await self._database.execute(_USERS.ensure_user, name)

    async def users(self, role: str | None = None) -> list[UserRecord]:
        """Every user, or those of one role, by name. Raises Invalid for an unknown role."""
        if role is not None:
            _require_role(role)
        return [_user(row) for row in await self._database.fetch(_USERS.users, role)]

    async def user(self, name: str) -> UserRecord:
        """The user of that name or id."""
        row, user_id = None, _as_id(name)
        if user_id is not None:
            row = await self._database.fetchrow(_USERS.user_by_id, user_id)
        elif _USERNAME.fullmatch(name):
            row = await self._database.fetchrow(_USERS.user_by_name, name)
        if row is None:
            raise _no_user(name)
        return _user(row)

    async def update_user(
        self, name: str, *, role: str | None = None, admin: bool | None = None, active: bool | None = None
    ) -> UserRecord:
        """Change what is not None; the user as it then is. Raises Invalid for an unknown role."""
        if role is not None:
            _require_role(role)
        user = await self.user(name)
        row = await self._database.fetchrow(_USERS.update_user, user.id, role, admin, active)
        if row is None:
            raise _no_user(name)
        return _user(row)

    async def delete_user(self, name: str) -> None:
        """Delete the user with all keys; what the user has used stays on record."""
        user = await self.user(name)
        if not await self._database.execute(_USERS.delete_user, user.id):
            raise _no_user(name)

    async def create_key(
        self, name: str, description: str = "", expires_at: datetime | None = None
    ) -> tuple[str, KeyRecord]:
        """A new key of the user: its text, which cannot be had again, and its record.

        `expires_at` is aware, None for never. Raises Invalid for a moment that is past, or a bad description.
        """
        _require_description(description)
        if expires_at is not None and expires_at <= self._now():
            raise Invalid("the expiry of a new key must lie in the future")
        user, key = await self.user(name), keys.new_key()
        made = (user.id, keys.digest(key), keys.hint(key), description, expires_at)
        row = await self._database.fetchrow(_KEYS.create_key, *made)
        if row is None:
            raise _no_user(name)
        return key, await self.key(row["id"])

    async def keys(self, name: str, *, ended: bool = False) -> list[KeyRecord]:
        """The user's keys, oldest first; with `ended` also those that are revoked or expired."""
        user = await self.user(name)
        return [_key(row) for row in await self._database.fetch(_KEYS.keys_of_user, user.id, ended)]

    async def key(self, key_id: UUID) -> KeyRecord:
        """The key of that id."""
        row = await self._database.fetchrow(_KEYS.key, key_id)
        if row is None:
            raise _no_key(key_id)
        return _key(row)

    async def revoke(self, key_id: UUID) -> None:
        """End a key for good; its record stays. Revoking it again changes nothing."""
        if not await self._database.execute(_KEYS.revoke_key, key_id):
            raise _no_key(key_id)

    async def revoke_all(self, name: str) -> int:
        """End every key of the user; how many were not revoked before."""
        user = await self.user(name)
        return await self._database.execute(_KEYS.revoke_keys_of_user, user.id)

    async def delete_key(self, key_id: UUID) -> None:
        """Delete a key with its record; what was used with it stays on record."""
        if not await self._database.execute(_KEYS.delete_key, key_id):
            raise _no_key(key_id)


def _user(row: Row) -> UserRecord:
    return UserRecord(**{f.name: _plain(row[f.name]) for f in fields(UserRecord)})


def _key(row: Row) -> KeyRecord:
    return KeyRecord(**{f.name: _plain(row[f.name]) for f in fields(KeyRecord)})


def _plain(value: Any) -> Any:
    # asyncpg has a UUID class of its own, which orjson refuses
    return UUID(int=value.int) if isinstance(value, UUID) else value


def _no_user(name: str) -> Unknown:
    return Unknown(f"there is no user {name!r}")


def _no_key(key_id: UUID) -> Unknown:
    return Unknown(f"there is no key with the id {key_id}")


def _as_id(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _require_name(name: str) -> None:
    if not _USERNAME.fullmatch(name):
        raise Invalid(f"{name!r} is no user name: it must be {USERNAME_FORM}")
    if _as_id(name) is not None:
        raise Invalid(f"{name!r} is no user name: it reads as an id")


def _require_role(role: str) -> None:
    if role not in ROLES:
        raise Invalid(f"there is no role {role!r}: it must be one of {', '.join(ROLES)}")


def _require_description(text: str) -> None:
    if len(text) > MAX_DESCRIPTION or not text.isprintable():
        raise Invalid(f"a description must be one line of at most {MAX_DESCRIPTION} characters")
