"""Logging in: from a name and a password to tokens, and from one refresh token to the next.

Whoever tries too often is stopped before anything is verified. Of a failed login nobody learns, neither from the words
nor from the time that it takes, whether there is such a user. Without HTTP.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from parallama.config import AuthSettings
from parallama.db.pool import Database
from parallama.errors import Conflict, NotAllowed, NotAuthenticated, Unavailable
from parallama.identity import keys
from parallama.identity.access import ANONYMOUS
from parallama.identity.actor import Actor
from parallama.identity.passwords import Passwords, require_password
from parallama.identity.sessions import Opened, Sessions
from parallama.identity.throttle import Limit, LoginThrottle, place_of, require_room
from parallama.identity.tokens import AccessTokens
from parallama.identity.users import Credentials, Users

_WINDOW_S = 60
_FAILED_REFRESHES, _REGISTRATIONS = 30, 10
"""Most of a place in the window."""
_NEW_ROLE = "basic"

_log = logging.getLogger("parallama.auth")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """What a login or a refresh gives."""

    access_token: str
    refresh_token: str
    """Good once, for the next pair."""
    token_type: str = "bearer"  # noqa: S105 - RFC 6750
    expires_in: int
    """Seconds that the access token is good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """A user who made their own account."""

    user_id: UUID
    username: str
    role: str
    refresh_token: str


class _From(NamedTuple):
    """Where a request comes from."""

    address: str | None
    request_id: UUID | None

    def actor(self, name: str = "nobody", user_id: UUID | None = None) -> Actor:
        return Actor(name=name, via="login", user_id=user_id, request_id=self.request_id, address=self.address)

    def log(self, level: int, message: str, **told: object) -> None:
        """A line without what the client has written, but for names of users that there are."""
        fields = {"remote": self.address, "request_id": self.request_id, **told}
        _log.log(level, message, extra={"fields": {name: str(value) for name, value in fields.items() if value}})


class Logins:
    """Logins, refreshes, logouts and registrations. `passwords` must be running.

    Methods raise OverLimit for whoever tries too often, Unavailable when the database does not answer or too many
    passwords wait to be verified. `address` is the client's, None unknown; `request_id` is for the audit trail.
    """

    def __init__(
        self,
        database: Database,
        auth: AuthSettings,
        passwords: Passwords,
        tokens: AccessTokens,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database, self._auth, self._passwords, self._tokens = database, auth, passwords, tokens
        self._now = now
        self._tries = LoginThrottle(monotonic)
        self._uses = Limit(auth.refresh_attempts, _WINDOW_S, monotonic)
        self._failures = Limit(_FAILED_REFRESHES, _WINDOW_S, monotonic)
        self._registrations = Limit(_REGISTRATIONS, _WINDOW_S, monotonic)

    async def login(self, username: str, password: str, address: str | None, request_id: UUID | None = None) -> Tokens:
        """A session for whoever knows the password. Raises NotAuthenticated, code `invalid_credentials`, alike for a
        wrong password, an unknown user, and one who is inactive or has none."""
        whence = _From(address, request_id)
        self._tries.begin(username, address)
        try:
            user, opened = await self._verified(username, password, whence)
        except Unavailable:
            self._tries.undo(username, address)
            raise
        finally:
            self._tries.ended(address)
        self._tries.succeeded(username, address)
        whence.log(logging.INFO, "login", user=user.username, session=opened.session_id)
        return self._pair(user.user_id, opened.session_id, opened.generation, opened.refresh_token)

    async def _verified(self, username: str, password: str, whence: _From) -> tuple[Credentials, Opened]:
        user = await Users(self._database, now=self._now).password_of(username)
        stored = user.password if user is not None and user.active else None
        verdict = await self._passwords.verify(stored, password)
        if user is None or not verdict.ok:
            whence.log(logging.WARNING, "login failed", user=user and user.username)
            raise _refused()
        rehashed = await self._passwords.hash(password) if verdict.rehash else None
        actor = whence.actor(user.username, user.user_id)
        opened = await self._open(user.user_id, whence.address, actor, stored)
        await Users(self._database, actor, now=self._now).logged_in(user.user_id, rehashed, instead_of=stored)
        return user, opened

    async def _open(self, user_id: UUID, address: str | None, actor: Actor, password: str | None) -> Opened:
        try:
            return await self._sessions(actor).open(user_id, address, password=password)
        except NotAuthenticated:
            # the password was changed, or the user deactivated, while it was verified
            raise _refused() from None

    async def register(
        self, username: str, password: str, address: str | None, request_id: UUID | None = None
    ) -> Registered:
        """A new user of the role basic, logged in. Raises NotAllowed, code `registration_closed`, unless
        `auth.registration`; Invalid for a bad name or a weak password; Conflict for a name that is taken."""
        if not self._auth.registration:
            raise NotAllowed("registration is closed: ask an admin for an account", code="registration_closed")
        whence = _From(address, request_id)
        self._once(self._registrations, place_of(address), "registrations")
        if username.lower() == ANONYMOUS:
            raise Conflict(f"the user name {username} is taken: callers without a credential are called so")
        require_password(password, username, self._auth.min_password_length)
        encoded = await self._passwords.hash(password)
        users = Users(self._database, whence.actor(), now=self._now)
        made = await users.create(username, role=_NEW_ROLE, password_hash=encoded)
        opened = await self._open(made.id, address, whence.actor(made.username, made.id), encoded)
        whence.log(logging.INFO, "registered", user=made.username)
        token = opened.refresh_token
        return Registered(user_id=made.id, username=made.username, role=_NEW_ROLE, refresh_token=token)

    async def refresh(self, token: str, address: str | None, request_id: UUID | None = None) -> Tokens:
        """The next pair of a session. Raises NotAuthenticated as `Sessions.rotate` does."""
        whence, place = _From(address, request_id), place_of(address)
        require_room(self._failures.wait_s(place), "refresh tokens that are not valid")
        self._once(self._uses, keys.digest(token), "uses of this refresh token")
        try:
            rotated = await self._sessions(whence.actor()).rotate(token)
        except Unavailable:
            self._uses.take_back(keys.digest(token))
            raise
        except NotAuthenticated as refusal:
            if refusal.code != "already_rotated":
                self._failures.count(place)
            whence.log(logging.WARNING, "refresh failed", reason=refusal.code)
            raise
        return self._pair(*rotated)

    async def logout(self, token: str, address: str | None, request_id: UUID | None = None) -> None:
        """End the session of a refresh token; an unknown one ends nothing."""
        await self._sessions(_From(address, request_id).actor()).revoke_by_token(token)

    def _sessions(self, actor: Actor) -> Sessions:
        return Sessions(self._database, actor, self._auth, self._now)

    def _once(self, limit: Limit, key: object, what: str) -> None:
        """One use, or OverLimit."""
        require_room(limit.wait_s(key), what)
        limit.count(key)

    def _pair(self, user_id: UUID, session_id: UUID, generation: int, refresh_token: str) -> Tokens:
        access = self._tokens.issue(user_id, session_id, generation)
        return Tokens(access_token=access, refresh_token=refresh_token, expires_in=self._tokens.lifetime_s)


def _refused() -> NotAuthenticated:
    return NotAuthenticated("wrong user name or password", code="invalid_credentials")
