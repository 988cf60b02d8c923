"""API keys as records: what the commands and the API read and change, and what a key is limited to.

Every change is one transaction, reaches each process through the triggers on the table (NOTIFY), and is put down to
its actor in the audit trail. No key is judged here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from parallama.config.values import network
from parallama.db.pool import Database, Row, plain
from parallama.db.query import load
from parallama.errors import Conflict, Invalid, NotFound, Outdated
from parallama.exchange import Priority
from parallama.identity import keys
from parallama.identity.actor import SERVER, Actor
from parallama.identity.users import UserRecord, located, require_over

if TYPE_CHECKING:
    from parallama.db.pool import Connection

MAX_DESCRIPTION = 200
"""Characters."""
MAX_PATTERN = 256
"""Characters of a pattern of models' names."""
MAX_GRACE_S = 30 * 86_400
"""Longest time for which the secret before a rotation stays valid."""

_SQL = load("api_keys")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLimits:
    """What a key is limited to, beyond what its user may; None: no limit of that kind, none listed: nothing at all."""

    models: Sequence[str] | None = None
    """Names, or patterns as in a shell, such as `llama3*`."""
    gateways: Sequence[str] | None = None
    """Families, such as `openai`."""
    networks: Sequence[str] | None = None
    """Addresses or CIDR ranges of clients."""
    priority_ceiling: str | None = None
    """`low`, `normal` or `high`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """An API key without its secret. Times are aware UTC; the limits are those of KeyLimits."""

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
    enabled: bool
    """False: it does not work until it is enabled again."""
    models: list[str] | None
    gateways: list[str] | None
    networks: list[str] | None
    priority_ceiling: str | None
    rotated_at: datetime | None
    """When it got its secret of now; None: as it was made."""
    previous_until: datetime | None
    """Until when the secret before that works too; None: there is none."""
    version: int
    """Counts the changes."""

    def state(self, now: datetime) -> str:
        """`revoked`, `expired`, `disabled` or `active`; an active key of an inactive user does not work either."""
        if self.revoked_at is not None:
            return "revoked"
        if self.expires_at is not None and self.expires_at <= now:
            return "expired"
        return "active" if self.enabled else "disabled"


KeyRecords = list[KeyRecord]

_CHANGEABLE = ("description", "expires_at", "enabled", "models", "gateways", "networks", "priority_ceiling")


class ApiKeys:
    """The records of keys. A user is named by name, in whatever case, or by id; a key by its id, with `of` only when it
    is that user's.

    Methods raise NotFound when there is no such user or key, NotAllowed when its user may more than `actor`, Outdated
    when the key has not the `version` asked for, Unavailable when the database does not answer.
    """

    def __init__(
        self, database: Database, actor: Actor = SERVER, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._database, self._actor, self._now = database, actor, now

    async def create(
        self,
        name: str,
        *,
        description: str = "",
        expires_at: datetime | None = None,
        limits: KeyLimits = KeyLimits(),
    ) -> tuple[str, KeyRecord]:
        """A new key of the user: its text, which cannot be had again, and its record.

        `expires_at` is aware, None for never. Raises Invalid for a moment that is past, a bad description or limit.
        """
        wanted = self._checked({"description": description, "expires_at": expires_at, **asdict(limits)})
        key = keys.new_key()
        async with self._change() as one:
            await _require_families(one, wanted["gateways"])
            user = await self._owner(one, name, "make a key for")
            made = await one.fetchval(
                _SQL.create_key.sql,
                *(user.id, keys.digest(key), keys.hint(key), description, self._now(), expires_at),
                *(wanted[limit] for limit in ("models", "gateways", "networks", "priority_ceiling")),
            )
            if made is None:
                raise NotFound(f"there is no user {name!r}")
            return key, await _key(one, made)

    async def get(self, key_id: UUID, *, of: UUID | None = None) -> KeyRecord:
        """The key of that id."""
        async with self._database.connection() as one:
            return await _key(one, key_id, of)

    async def update(
        self, key_id: UUID, *, changes: Mapping[str, Any], version: int | None = None, of: UUID | None = None
    ) -> KeyRecord:
        """Set what `changes` names: `description`, `expires_at`, `enabled`, those of KeyLimits; the key as it then is.

        Raises Invalid for a value that no key may have.
        """
        wanted = self._checked(changes)
        async with self._change() as one:
            await _require_families(one, wanted.get("gateways"))
            key = replace(await self._touch(one, key_id, version, of, "change"), **wanted)
            await one.execute(_SQL.update_key.sql, key_id, *(getattr(key, name) for name in _CHANGEABLE))
            return await _key(one, key_id)

    async def rotate(self, key_id: UUID, *, grace_s: float, of: UUID | None = None) -> tuple[str, KeyRecord]:
        """Give the key another secret: its text, which cannot be had again, and its record.

        The secret so far stays valid for `grace_s`, 0 for not at all; one from a rotation before that ends at once.
        Raises Invalid for a grace time beyond bounds, Conflict for a key that is revoked or expired.
        """
        if not 0 <= grace_s <= MAX_GRACE_S:
            raise Invalid(f"the grace time must be 0 to {MAX_GRACE_S} seconds", param="grace_s")
        text, now = keys.new_key(), self._now()
        until = now + timedelta(seconds=grace_s) if grace_s else None
        async with self._change() as one:
            key = await self._touch(one, key_id, None, of, "rotate")
            if (state := key.state(now)) in ("revoked", "expired"):
                raise Conflict(f"the key {key.hint} is {state}: make a new one")
            await one.execute(_SQL.rotate_key.sql, key_id, keys.digest(text), keys.hint(text), now, until)
            return text, await _key(one, key_id)

    async def revoke(self, key_id: UUID, version: int | None = None, of: UUID | None = None) -> KeyRecord:
        """End a key for good, both its secrets; its record stays. Revoking it again changes nothing."""
        async with self._change() as one:
            await self._touch(one, key_id, version, of, "revoke")
            await one.execute(_SQL.revoke_key.sql, key_id, self._now())
            return await _key(one, key_id)

    async def revoke_all(self, name: str) -> int:
        """End every key of the user; how many were not revoked before."""
        async with self._change() as one:
            user = await self._owner(one, name, "revoke the keys of")
            return int((await one.execute(_SQL.revoke_keys_of_user.sql, user.id, self._now())).split()[-1])

    async def delete(self, key_id: UUID, version: int | None = None, of: UUID | None = None) -> None:
        """Delete a key with its record; what was used with it stays on record."""
        async with self._change() as one:
            await self._touch(one, key_id, version, of, "delete")
            await one.execute(_SQL.delete_key.sql, key_id)

    async def list(
        self,
        name: str | None = None,
        *,
        ended: bool = False,
        after: tuple[datetime, UUID] | None = None,
        limit: int | None = None,
    ) -> KeyRecords:
        """Keys, oldest first, at most `limit`: those of the user, None for all users'; with `ended` also those that are
        revoked or expired; `after` the key that was made then and has that id."""
        async with self._database.connection() as one:
            user_id = None if name is None else (await located(one, name, self._now())).id
            found = await one.fetch(_SQL.keys.sql, user_id, ended, *(after or (None, None)), limit, self._now())
            return [_record(row) for row in found]

    @asynccontextmanager
    async def _change(self) -> AsyncIterator[Connection]:
        async with self._database.change(self._actor.told()) as one:
            yield one

    async def _owner(self, one: Connection, name: str, what: str) -> UserRecord:
        """The user, for whose keys the actor may do `what`."""
        user = await located(one, name, self._now())
        await require_over(one, self._actor, user, self._now(), f"{what} the user {user.username}")
        return user

    async def _touch(self, one: Connection, key_id: UUID, version: int | None, of: UUID | None, verb: str) -> KeyRecord:
        """The key, held for the change, which the actor may make."""
        await one.execute(_SQL.lock_key.sql, key_id)
        key = await _key(one, key_id, of)
        await self._owner(one, str(key.user_id), f"{verb} a key of")
        if version not in (None, key.version):
            raise Outdated(f"the key {key.hint} was changed meanwhile: it is at version {key.version}")
        return key

    def _checked(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """The changes, with networks in their usual form. Raises Invalid."""
        for name, value in changes.items():
            if name not in _CHANGEABLE:
                raise Invalid(f"a key has no {name} to change: only {', '.join(_CHANGEABLE)}", param=name)
            if name == "expires_at" and value is not None and value <= self._now():
                raise Invalid("the expiry of a key must lie in the future", param="expires_at")
        _require_description(changes.get("description", ""))
        return dict(changes) | _checked_limits(changes)


async def _require_families(one: Connection, families: Sequence[str] | None) -> None:
    """Raise Invalid for a family that no server has ever had."""
    known = [row["family"] for row in await one.fetch(_SQL.families.sql)] if families else []
    for family in families or ():
        if family not in known:
            raise Invalid(f"there is no gateway {family!r}: it must be one of {', '.join(known)}", param="gateways")


async def _key(one: Connection, key_id: UUID, of: UUID | None = None) -> KeyRecord:
    row = await one.fetchrow(_SQL.key.sql, key_id)
    if row is None or of not in (None, row["user_id"]):
        raise NotFound(f"there is no key with the id {key_id}")
    return _record(row)


def _record(row: Row) -> KeyRecord:
    return KeyRecord(**{f.name: plain(row[f.name]) for f in fields(KeyRecord)})


def _checked_limits(changes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: check(changes[name]) for name, check in _CHECKS.items() if changes.get(name) is not None}


def _models(patterns: Sequence[str]) -> list[str]:
    for pattern in patterns:
        if not pattern.strip() or len(pattern) > MAX_PATTERN or not pattern.isprintable():
            raise Invalid(f"a pattern of models must be 1 to {MAX_PATTERN} printable characters", param="models")
    return list(patterns)


def _networks(texts: Sequence[str]) -> list[str]:
    try:
        return list(map(network, texts))
    except ValueError as error:
        raise Invalid(f"each of the networks {error}", param="networks") from None


def _priority(name: str) -> str:
    if name not in list(Priority):
        raise Invalid(f"priority_ceiling must be one of {', '.join(Priority)}", param="priority_ceiling")
    return str(name)


_CHECKS: Mapping[str, Callable[[Any], Any]] = {
    "models": _models,
    "gateways": list,
    "networks": _networks,
    "priority_ceiling": _priority,
}


def _require_description(text: str) -> None:
    if len(text) > MAX_DESCRIPTION or not text.isprintable():
        raise Invalid(f"a description must be one line of at most {MAX_DESCRIPTION} characters", param="description")
