"""Limits as records: what the commands and the API read and change, and which of them are in force for whom.

Every change is one transaction, reaches each process through the triggers on the table (NOTIFY), and is put down to
its actor in the audit trail. Nothing is counted here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from parallama.db.pool import Database, Row, plain
from parallama.db.query import load
from parallama.errors import Conflict, Invalid, NotFound, Outdated
from parallama.exchange import holds
from parallama.identity import grants
from parallama.identity.actor import SERVER, Actor
from parallama.identity.roles import located_role
from parallama.identity.terms import (
    DEFAULTS,
    TERMS,
    Change,
    LimitRecord,
    LimitRecords,
    Subject,
    checked_gateway,
    checked_scope,
    checked_terms,
    kept,
    told,
)
from parallama.identity.users import held, located, require_over
from parallama.limits import EVERY, Counter, Limit, Scope, of_user, template

if TYPE_CHECKING:
    from parallama.db.pool import Connection

_SQL = load("limits")
_RESETS = load("resets")


class _Holder(NamedTuple):
    """Who has limits; one is not None."""

    user_id: UUID | None = None
    key_id: UUID | None = None
    role_id: UUID | None = None

    @property
    def id(self) -> UUID:
        return next(id for id in self if id is not None)


class Limits:
    """The records of limits.

    Methods raise NotFound when there is no such limit, user, key or role, NotAllowed when who would be limited may more
    than `actor`, or is `actor` and no admin, Invalid for what no limit may be, Outdated when it has not the `version`
    asked for, Unavailable when the database does not answer.
    """

    def __init__(
        self, database: Database, actor: Actor = SERVER, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._database, self._actor, self._now = database, actor, now

    async def get(self, limit_id: UUID) -> LimitRecord:
        """The limit of that id."""
        async with self._database.connection() as one:
            return await _limit(one, limit_id)

    async def create(
        self, subject: Subject, meter: str, period: str, *, gateway: str = EVERY, model: str | None = None, **terms: Any
    ) -> LimitRecord:
        """Make a limit; `terms` as in Change, `amount` among them. Raises Conflict when there is one of that scope."""
        given = checked_terms(terms)
        async with self._change() as one:
            scope = await _scope(one, gateway, model, meter, period)
            return await _limit(one, await _create(one, await self._held(one, subject), scope, given))

    async def set(
        self, subject: Subject, changes: Iterable[Change], *, gateway: str = EVERY, model: str | None = None
    ) -> LimitRecords:
        """Make, change and take away limits of one gateway and model, all or none; those that there then are."""
        async with self._change() as one:
            holder = await self._held(one, subject)
            for meter, period, terms in changes:
                scope = await _scope(one, gateway, model, meter, period)
                await _put(one, holder, scope, checked_terms(terms))
            left = map(_record, await one.fetch(_SQL.limits.sql, holder.id, gateway, *[None] * 6))
            return [record for record in left if record.model == kept(model)]

    async def update(self, limit_id: UUID, *, changes: Mapping[str, Any], version: int | None = None) -> LimitRecord:
        """Set what `changes` names: `amount`, `admission`, `outage`, `max_output_tokens`; the limit as it then is."""
        given = checked_terms(changes)
        if given.get("amount", 0) is None:
            raise Invalid("a limit has an amount: delete it to take it away", param="amount")
        async with self._change() as one:
            await _update(one, await self._touch(one, limit_id, version), given)
            return await _limit(one, limit_id)

    async def delete(self, limit_id: UUID, *, version: int | None = None) -> None:
        """Take a limit away: what a role has of the same scope is in force again."""
        async with self._change() as one:
            await self._touch(one, limit_id, version)
            await one.execute(_SQL.delete_limit.sql, limit_id)

    async def reset(self, subject: Subject, *, gateway: str | None = None) -> int:
        """Take all limits of the subject away, or those of one gateway; how many they were."""
        async with self._change() as one:
            checked_gateway(await _families(one), gateway)
            holder = await self._held(one, subject)
            return int((await one.execute(_SQL.delete_limits.sql, holder.id, gateway)).split()[-1])

    async def reset_counts(self, subject: Subject, *, gateway: str | None = None, model: str | None = None) -> int:
        """What was used counts as nothing from now on, as far as it is known to the database; of how many users and
        keys. Of a role: of everybody who has it. `gateway` and `model`: only for limits of that one (`*`: of those that
        all gateways share), and of that pattern; None: for all."""
        async with self._change() as one:
            checked_gateway(await _families(one), gateway)
            holder = await self._held(one, subject)
            whose = [holder.id]
            if holder.role_id is not None:
                whose = [row["user_id"] for row in await one.fetch(_SQL.holders.sql, holder.role_id, self._now())]
            await one.execute(_RESETS.supersede.sql, whose, gateway, kept(model))
            await one.execute(_RESETS.create.sql, whose, gateway, kept(model))
            return len(whose)

    async def list(
        self,
        subject: Subject | None = None,
        *,
        gateway: str | None = None,
        after: tuple[str, ...] | None = None,
        limit: int | None = None,
    ) -> LimitRecords:
        """Limits by whose they are, at most `limit`: of one subject, of one gateway; None: of all. `after` the one
        that `place` tells of."""
        if not all(part.isprintable() for part in after or ()):
            raise Invalid("no limit has such a place in the list: leave the cursor out to begin again", param="cursor")
        async with self._database.connection() as one:
            checked_gateway(await _families(one), gateway)
            holder = None if subject is None else (await self._located(one, subject)).id
            rows = await one.fetch(_SQL.limits.sql, holder, gateway, *(after or [None] * 5), limit)
            return [_record(row) for row in rows]

    async def effective(self, subject: Subject, *, gateway: str | None = None) -> LimitRecords:
        """What is in force now for the subject, or for its requests to one gateway. Each is told with whose limit it
        is: a user has those of roles, a key also those of its user, a role those of the roles above it."""
        async with self._database.connection() as one:
            checked_gateway(await _families(one), gateway)
            found = await self._in_force(one, await self._located(one, subject))
            rows = await one.fetch(_SQL.limits_of.sql, [limit.subject for limit in found])
        counters = {limit.counter for limit in found}
        records = [_record(row) for row in rows if Counter(plain(row["holder"]), _record(row).scope) in counters]
        return [record for record in records if gateway is None or record.gateway in (gateway, EVERY)]

    async def gateways(self, user_id: UUID) -> Sequence[str]:
        """Those that the user may use now."""
        async with self._database.connection() as one:
            may = await held(one, user_id, self._now())
            return [name for name in await _families(one) if may.admin or holds(may.permissions, f"use_{name}")]

    async def _in_force(self, one: Connection, holder: _Holder) -> tuple[Limit, ...]:
        if holder.role_id is not None:
            rows = await one.fetch(_SQL.template.sql, holder.role_id)
            return tuple(template(grants.limits(row["limits"]) for row in rows).values())
        user_id = holder.user_id or await _owner(one, holder.key_id)
        row = await one.fetchrow(_SQL.held_limits.sql, user_id, holder.key_id)
        assert row is not None
        holding = grants.held(grants.parse(row["grants"]), self._now())
        return (*of_user(grants.limits(row["own"]), holding.rules), *grants.limits(row["key"]))

    @asynccontextmanager
    async def _change(self) -> AsyncIterator[Connection]:
        async with self._database.change(self._actor.told()) as one:
            yield one

    async def _located(self, one: Connection, subject: Subject) -> _Holder:
        if subject.user is not None:
            return _Holder(user_id=(await located(one, subject.user, self._now())).id)
        if subject.role is not None:
            return _Holder(role_id=(await located_role(one, subject.role, self._now())).id)
        assert subject.key is not None
        await _owner(one, subject.key)
        return _Holder(key_id=subject.key)

    async def _held(self, one: Connection, subject: Subject) -> _Holder:
        """Who is to be limited, which the actor may do; it is not deleted before the change is made."""
        holder = await self._located(one, subject)
        for query, id in zip((_SQL.hold_user, _SQL.hold_key, _SQL.hold_role), holder, strict=True):
            if id is not None and await one.fetchval(query.sql, id) is None:
                raise NotFound(f"{subject} was deleted meanwhile")
        await self._require_over(one, subject)
        return holder

    async def _require_over(self, one: Connection, subject: Subject) -> None:
        if subject.role is not None:
            role = await located_role(one, subject.role, self._now())
            self._actor.require_other(role=subject.role, what=f"limit {subject}")
            return self._actor.require(role.gives, admin=role.admin, what=f"limit {subject}")
        user = await located(one, subject.user or str(await _owner(one, subject.key)), self._now())
        self._actor.require_other(user_id=user.id, what=f"limit {subject}")
        await require_over(one, self._actor, user, self._now(), f"limit {subject}")
        return None

    async def _touch(self, one: Connection, limit_id: UUID, version: int | None) -> LimitRecord:
        """The limit, held for the change, which the actor may make."""
        await one.execute(_SQL.lock_limit.sql, limit_id)
        limit = await _limit(one, limit_id)
        await self._require_over(one, Subject(user=limit.user, key=limit.key, role=limit.role))
        if version not in (None, limit.version):
            raise Outdated(f"the limit was changed meanwhile: it is at version {limit.version}")
        return limit


async def _owner(one: Connection, key_id: UUID | None) -> UUID:
    """Whose key it is. Raises NotFound."""
    user_id: UUID | None = await one.fetchval(_SQL.owner.sql, key_id)
    if user_id is None:
        raise NotFound(f"there is no key with the id {key_id}")
    return user_id


async def _scope(one: Connection, gateway: str, model: str | None, meter: str, period: str) -> Scope:
    return checked_scope(await _families(one), gateway, model, meter, period)


async def _families(one: Connection) -> list[str]:
    return [row["name"] for row in await one.fetch(_SQL.families.sql)]


async def _put(one: Connection, holder: _Holder, scope: Scope, terms: Mapping[str, Any]) -> None:
    found = await one.fetchval(_SQL.find_limit.sql, holder.id, *scope)
    if terms.get("amount", 0) is None:
        await one.execute(_SQL.delete_limit.sql, found)
    elif found is not None:
        await _update(one, await _limit(one, found), terms)
    else:
        await _create(one, holder, scope, terms)


async def _create(one: Connection, holder: _Holder, scope: Scope, terms: Mapping[str, Any]) -> UUID:
    if terms.get("amount") is None:
        raise Invalid(f"there is no limit of {told(scope)} yet: give its amount", param="amount")
    whole = {**DEFAULTS, **terms}
    made: UUID | None = await one.fetchval(_SQL.create_limit.sql, *holder, *scope, *(whole[name] for name in TERMS))
    if made is None:
        raise Conflict(f"there is a limit of {told(scope)} already: change that one")
    return made


async def _update(one: Connection, limit: LimitRecord, terms: Mapping[str, Any]) -> None:
    await one.execute(_SQL.update_limit.sql, limit.id, *(terms.get(name, getattr(limit, name)) for name in TERMS))


async def _limit(one: Connection, limit_id: UUID) -> LimitRecord:
    row = await one.fetchrow(_SQL.limit.sql, limit_id)
    if row is None:
        raise NotFound(f"there is no limit with the id {limit_id}")
    return _record(row)


def _record(row: Row) -> LimitRecord:
    return LimitRecord(**{f.name: plain(row[f.name]) for f in fields(LimitRecord)})
