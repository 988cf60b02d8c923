"""Sessions: a login, and the refresh tokens that come of it one after the other (RFC 9700 section 4.14.2).

A token is good once. Its second use means that somebody else has it, and ends the session, except in the first seconds,
when it means that an answer was lost or that two asked at once. Only digests are stored. No password is judged here.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from parallama.background import beside
from parallama.config import AuthSettings
from parallama.db.pool import Database, Row, plain
from parallama.db.query import Query, load
from parallama.errors import NotAuthenticated, NotFound, Unavailable
from parallama.identity import keys
from parallama.identity.actor import Actor
from parallama.identity.users import located, require_over

REFRESH_PATTERN = r"rt_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}"
"""For secret scanners: as an API key, with another prefix."""

REUSE_GRACE_S = 10
"""Seconds in which a token that was rotated is only refused."""

_TOKEN = re.compile(REFRESH_PATTERN)
_SQL = load("sessions")
_BATCH = 1000
"""Sessions that are deleted in one statement."""

_log = logging.getLogger("parallama.auth")


class Opened(NamedTuple):
    """A new session."""

    refresh_token: str
    """The only time that it can be seen."""
    session_id: UUID
    generation: int


class Rotated(NamedTuple):
    """A session whose refresh token was used."""

    user_id: UUID
    session_id: UUID
    generation: int
    refresh_token: str
    """The next one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRecord:
    """A session. Times are aware UTC."""

    id: UUID
    user_id: UUID
    username: str
    address: str | None
    """Where the login came from; None: unknown."""
    created_at: datetime
    last_used_at: datetime
    """When its refresh token was last rotated."""
    expires_at: datetime
    """Refreshing does not put it off."""
    revoked_at: datetime | None
    """None: not revoked."""
    revoked_for: str | None
    """`logout`, `reuse`, `admin`, `password` or `inactive`."""


class Sessions:
    """The sessions. A user is named by name, in whatever case, or by id.

    Methods raise Unavailable when the database does not answer; those that name a user NotFound when there is none,
    NotAllowed when `actor` would end the sessions of somebody who may more.
    """

    def __init__(
        self,
        database: Database,
        actor: Actor,
        auth: AuthSettings,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._database, self._actor, self._auth, self._now = database, actor, auth, now

    async def open(self, user_id: UUID, address: str | None, *, password: str | None = None) -> Opened:
        """A session of the user, for `auth.refresh_token_s`.

        Raises NotAuthenticated when the user is no longer active or their encoded password no longer is `password`
        (None: whatever it is).
        """
        token, now = new_token(), self._now()
        ends_at = now + timedelta(seconds=self._auth.refresh_token_s)
        async with self._database.change(self._actor.told()) as one:
            row = await one.fetchrow(_SQL.open.sql, user_id, password, address, now, ends_at, keys.digest(token))
        if row is None:
            raise NotAuthenticated("the user was changed meanwhile: log in again")
        return Opened(token, plain(row["id"]), row["generation"])

    async def rotate(self, token: str) -> Rotated:
        """Use a refresh token.

        Raises NotAuthenticated: for one that was rotated up to REUSE_GRACE_S ago with the code `already_rotated`, for
        one that was rotated before that after its session has been revoked.
        """
        digest, next_token, now = _digest(token), new_token(), self._now()
        row = await self._database.fetchrow(_SQL.rotate, digest, keys.digest(next_token), now)
        if row is None:
            raise await self._refusal(digest, now)
        return Rotated(plain(row["user_id"]), plain(row["id"]), row["generation"], next_token)

    async def _refusal(self, digest: bytes, now: datetime) -> NotAuthenticated:
        row = await self._database.fetchrow(_SQL.rotated_at, digest, now)
        if row is None:
            return _not_valid()
        if now - row["rotated_at"] <= timedelta(seconds=REUSE_GRACE_S):
            return NotAuthenticated("the refresh token was just used: use the new one", code="already_rotated")
        await self._revoke_by(digest, "reuse")
        return _not_valid()

    async def revoke_by_token(self, token: str) -> None:
        """End the session that a refresh token is of, be it the newest or not. An unknown one ends nothing."""
        if well_formed(token):
            await self._revoke_by(keys.digest(token), "logout")

    async def _revoke_by(self, digest: bytes, reason: str) -> None:
        async with self._database.change(self._actor.told()) as one:
            row = await one.fetchrow(_SQL.revoke_by_token.sql, digest, self._now(), reason)
        if row is not None:
            told = {"session": str(row["id"]), "user_id": str(row["user_id"]), "reason": reason}
            level = logging.WARNING if reason == "reuse" else logging.INFO
            _log.log(level, "session revoked", extra={"fields": told | _whence(self._actor)})

    async def list(
        self, name: str, *, ended: bool = False, after: tuple[datetime, UUID] | None = None, limit: int | None = None
    ) -> list[SessionRecord]:
        """The user's sessions, oldest first, at most `limit`, those after that (created_at, id); with `ended` those too
        that are revoked or have expired."""
        now, begin = self._now(), after or (None, None)
        async with self._database.connection() as one:
            user = await located(one, name, now)
            rows = await one.fetch(_SQL.sessions.sql, user.id, ended, now, *begin, limit)
        return [_record(row) for row in rows]

    async def revoke(self, name: str, session_id: UUID) -> None:
        """End a session of the user; one that has ended stays as it is. Raises NotFound."""
        if not await self._change(name, "end a session of", _SQL.revoke, session_id):
            raise NotFound(f"the user {name} has no session with the id {session_id}")

    async def revoke_all(self, name: str) -> int:
        """End every session of the user; how many were alive."""
        return await self._change(name, "end the sessions of", _SQL.revoke_all)

    async def rotate_tokens(self, name: str) -> int:
        """End the access tokens of every session of the user, but not the sessions; how many of these are alive."""
        return await self._change(name, "end the access tokens of", _SQL.rotate_tokens)

    async def _change(self, name: str, verb: str, query: Query, *which: Any) -> int:
        """Run a statement of (*which, id of the user, now); the rows that it changed."""
        now = self._now()
        async with self._database.change(self._actor.told()) as one:
            user = await located(one, name, now)
            await require_over(one, self._actor, user, now, f"{verb} the user {user.username}")
            return int((await one.execute(query.sql, *which, user.id, now)).split()[-1])

    async def cleanup(self) -> int:
        """Delete the sessions that ended `auth.token_keep_s` ago, with their tokens; how many there were."""
        before, deleted = self._now() - timedelta(seconds=self._auth.token_keep_s), 0
        while gone := await self._database.execute(_SQL.clean_up, before, _BATCH):
            deleted += gone
        return deleted

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Sessions]:
        """Clean up at the beginning of the block, and every `auth.token_cleanup_s` in it."""
        async with beside(self._clean_always(), "sessions: clean-up"):
            yield self

    async def _clean_always(self) -> None:
        while True:
            try:
                if deleted := await self.cleanup():
                    _log.info("sessions cleaned up", extra={"fields": {"deleted": deleted}})
            except Unavailable:
                _log.warning("ended sessions stay for now: the database does not answer")
            await asyncio.sleep(self._auth.token_cleanup_s)


def new_token() -> str:
    """A refresh token that nobody has: 53 ASCII characters."""
    body = "rt_" + keys.new_key()[len(keys.PREFIX) :].partition("_")[0]
    return f"{body}_{keys.checksum(body)}"


def well_formed(text: str) -> bool:
    """Whether `text` has the shape and the checksum of a refresh token; says nothing of whether it is good."""
    body, _, check = text.rpartition("_")
    return _TOKEN.fullmatch(text) is not None and keys.checksum(body) == check


def _digest(token: str) -> bytes:
    if not well_formed(token):
        raise _not_valid()
    return keys.digest(token)


def _not_valid() -> NotAuthenticated:
    return NotAuthenticated("the refresh token is not valid: log in again")


def _whence(actor: Actor) -> dict[str, str]:
    places = {"remote": actor.address, "request_id": actor.request_id}
    return {name: str(value) for name, value in places.items() if value is not None}


def _record(row: Row) -> SessionRecord:
    values = {f.name: row[f.name] for f in fields(SessionRecord)}
    return SessionRecord(**values | {"id": plain(row["id"]), "user_id": plain(row["user_id"])})
