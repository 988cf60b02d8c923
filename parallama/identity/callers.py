"""Who is asking: the headers of a request to a Caller, from a bounded cache that NOTIFY keeps true.

The hot path, a credential seen before, touches neither the database nor the event loop. Judges identity only; what a
caller may do is asked of the Caller.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar
from uuid import UUID

from parallama.config import AuthSettings
from parallama.db.pool import Database
from parallama.db.query import load
from parallama.errors import NotAllowed, NotAuthenticated
from parallama.exchange import Caller
from parallama.identity import keys, refusals
from parallama.identity.access import ANONYMOUS, SETTING, AuthRecords
from parallama.identity.credentials import Accepted, accepted, claims_of, credential
from parallama.identity.last_use import LastUse
from parallama.identity.recent import Recent
from parallama.identity.refusals import Refusal, RefusedHere
from parallama.identity.standing import Standing, Verdict, judge, of_anonymous, of_key, of_session
from parallama.identity.tokens import AccessTokens, Claims
from parallama.identity.users import Users
from parallama.networks import within

_QUERIES = load("callers")
_NOTHING = b""
"""Stands for the digest of a caller without a credential."""
_LOOK_UP_S = 1.0

T = TypeVar("T")

_log = logging.getLogger("parallama.auth")


class Listening(Protocol):
    """What a listener for NOTIFY tells."""

    @property
    def lost_since(self) -> float | None:
        """Monotonic seconds at which messages may have begun to be missed; None: none is missed."""
        ...


@dataclass(slots=True)
class _Known:
    """A credential that was looked up, and what that came to when it was last judged."""

    standing: Standing
    verdict: Verdict


class Callers:
    """Turns headers into Callers. Give `on_change` and `on_reset` to the listener; use inside `running()`.

    While the listener is lost, what is cached counts for `auth.grace_s` from the loss; then every use waits for the
    database, and shares the answer with whoever asks the same meanwhile. Without `tokens` no access token is accepted.
    """

    def __init__(
        self,
        database: Database,
        auth: AuthSettings,
        listener: Listening,
        tokens: AccessTokens | None = None,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
        flush_s: float = 5.0,
        on_lapse: Callable[[UUID], None] = lambda _: None,
    ) -> None:
        """`on_lapse` hears of a user whose limits are others since a role has expired: nobody else tells of that."""
        self._database, self._listener, self._tokens = database, listener, tokens
        self._now, self._monotonic, self._grace_s = now, monotonic, auth.grace_s
        self._records = AuthRecords(database, auth)
        self._accepted: Accepted | None = None
        self._known: Recent[bytes, _Known] = Recent(auth.cache_entries)
        self._unknown: Recent[bytes, Refusal] = Recent(auth.cache_entries)
        self._used = LastUse(database, auth.cache_entries, flush_s)
        self._on_lapse = on_lapse
        self._generation = 0
        self._asking: dict[tuple[object, int], asyncio.Task[Any]] = {}
        """By what is asked for, which is a digest or the settings, and generation: who asks for the same at the same
        time asks once."""

    async def identify(
        self,
        headers: Mapping[str, str],
        address: str | None = None,
        request: Callable[[], Mapping[str, object]] = dict,
    ) -> Caller:
        """The caller of a request with these headers (a mapping without case) from a client at `address`. A cached
        credential never suspends.

        Raises NotAuthenticated, and NotAllowed for a key that is not for that address; both are logged with what
        `request` then tells of it. Raises Unavailable when the database is needed and does not answer.
        """
        try:
            return await self._identify(headers, address)
        except (NotAuthenticated, NotAllowed) as refused:
            fields = getattr(refused, "fields", {"reason": "access_token"})
            _log.warning("authentication failed", extra={"fields": {**fields, **request()}})
            raise

    async def _identify(self, headers: Mapping[str, str], address: str | None) -> Caller:
        trusted = self._trusted()
        where = (self._accepted if trusted else None) or await self._look_up_accepted(_LOOK_UP_S)
        text = credential(headers, where)
        digest = _NOTHING if text is None else keys.digest(text)
        if trusted and (known := self._known.use(digest)) is not None:
            return self._admit(known, text, address)
        claims = None if text is None else claims_of(text, self._tokens)
        if trusted and (refusal := self._unknown.use(digest)) is not None:
            raise refusal.of(None if claims else text)
        return self._admit(await self._look_up(digest, text, claims), text, address)

    def size(self) -> tuple[int, int]:
        """Known and unknown credentials that are cached; each at most `auth.cache_entries`."""
        return len(self._known), len(self._unknown)

    def on_change(self, kind: str, changed: str) -> None:
        """Forget what is cached of a `key` (its digest in hex), a `user` or a `session` (their id), all who may hold a
        `role`, and `settings auth`; ignore other kinds."""
        self._generation += 1
        if kind == "key":
            self._forget_digest(bytes.fromhex(changed))
        elif kind == "user":
            user_id = UUID(changed)
            self._forget(lambda caller: caller.user_id == user_id)
            self._unknown.pop(_NOTHING, None)
        elif kind == "session":
            session_id = UUID(changed)
            self._forget(lambda caller: caller.session_id == session_id)
        elif kind == "role":
            self._known.clear()
        elif (kind, changed) == ("settings", SETTING):
            self._accepted = None

    def on_reset(self) -> None:
        """Forget all: changes may have been missed."""
        self._generation += 1
        self._accepted = None
        self._known.clear()
        self._unknown.clear()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Callers]:
        """Make the anonymous user where callers may be it, and write the last use of keys every `flush_s`."""
        try:
            if (await self._look_up_accepted(None)).anonymous:
                await Users(self._database).ensure(ANONYMOUS)
            async with self._used.running():
                yield self
        finally:
            for asking in self._asking.values():
                asking.cancel()

    def _forget_digest(self, digest: bytes) -> None:
        self._known.pop(digest, None)
        self._unknown.pop(digest, None)

    def _forget(self, concerned: Callable[[Caller], bool]) -> None:
        for digest in [d for d, known in self._known.items() if concerned(known.standing.caller)]:
            del self._known[digest]

    def _trusted(self) -> bool:
        lost = self._listener.lost_since
        return lost is None or self._monotonic() - lost < self._grace_s

    async def _look_up_accepted(self, limit_s: float | None) -> Accepted:
        generation = self._generation
        access = await self._once(SETTING, lambda: self._records.get(limit_s=limit_s))
        where = accepted(access.header_name, anonymous=access.allow_unauthenticated)
        if generation == self._generation:
            self._accepted = where
        return where

    async def _look_up(self, digest: bytes, text: str | None, claims: Claims | None) -> _Known:
        generation = self._generation
        standing = await self._once(digest, lambda: self._standing(digest, text, claims))
        current = generation == self._generation
        if isinstance(standing, Refusal):
            if current:
                self._unknown.put(digest, standing)
            raise standing.of(None if claims else text)
        known = _Known(standing, judge(standing, self._now()))
        if current:
            self._known.put(digest, known)
        return known

    async def _once(self, what: object, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """As `ask` says, which goes on when who asked first has left: others may wait for it."""
        key = (what, self._generation)
        asking: asyncio.Task[T] | None = self._asking.get(key)
        if asking is None:
            self._asking[key] = asking = asyncio.get_running_loop().create_task(ask(), name="look-up")
            asking.add_done_callback(lambda _: self._asking.pop(key))
            asking.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(asking)

    async def _standing(self, digest: bytes, text: str | None, claims: Claims | None) -> Standing | Refusal:
        ask = self._database.fetchrow
        if text is None:
            row = await ask(_QUERIES.caller_by_name, ANONYMOUS, limit_s=_LOOK_UP_S)
            return of_anonymous(row) if row else refusals.NO_ANONYMOUS
        if claims is not None:
            row = await ask(_QUERIES.caller_by_session, claims.session_id, limit_s=_LOOK_UP_S)
            return of_session(row, claims) if row else refusals.UNKNOWN_SESSION
        row = await ask(_QUERIES.caller_by_digest, digest, limit_s=_LOOK_UP_S)
        return of_key(row) if row else refusals.UNKNOWN_KEY

    def _admit(self, known: _Known, text: str | None, address: str | None) -> Caller:
        now, verdict = self._now(), known.verdict
        if verdict.until is not None and verdict.until <= now:
            verdict = self._judge_again(known, now)
        caller = verdict.caller
        if caller is None:
            assert verdict.refusal is not None
            raise verdict.refusal.of(text if known.standing.caller.key_id else None)
        if caller.key_id is not None:
            assert text is not None
            if caller.policy and caller.policy.networks is not None and not within(address, caller.policy.networks):
                raise RefusedHere(text)
            self._used.put(caller.key_id, now)
        return caller

    def _judge_again(self, known: _Known, now: datetime) -> Verdict:
        before, known.verdict = known.verdict.caller, judge(known.standing, now)
        after = known.verdict.caller
        if before is not None and after is not None and before.limits != after.limits:
            self._on_lapse(after.user_id)
        return known.verdict
