"""Who is asking: the headers of a request to a Caller, from a bounded cache that NOTIFY keeps true.

The hot path, a key seen before, touches neither the database nor the event loop. Judges identity only; what a
caller may do is asked of the Caller.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol, TypeVar
from uuid import UUID

from parallama.config import AuthSettings
from parallama.db.pool import Database
from parallama.db.query import load
from parallama.errors import NotAuthenticated, Unavailable
from parallama.exchange import Caller
from parallama.identity import keys

ANONYMOUS = "anonymous"
"""The user that callers without a key are, where the settings allow them."""

_USERS = load("users")
_KEYS = load("api_keys")
_NO_KEY = b""
"""Stands for the digest of a caller without a key."""
_LOOK_UP_S = 1.0

_log = logging.getLogger("parallama.auth")

K = TypeVar("K")
V = TypeVar("V")


class Listening(Protocol):
    """What a listener for NOTIFY tells."""

    @property
    def lost_since(self) -> float | None:
        """Monotonic seconds at which messages may have begun to be missed; None: none is missed."""
        ...


@dataclass(frozen=True, slots=True)
class _Known:
    """What the database says of a key."""

    caller: Caller
    valid: bool
    expires_at: datetime | None


class _Recent(OrderedDict[K, V]):
    """The entries used last, at most `size`."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def use(self, key: K) -> V | None:
        value = self.get(key)
        if value is not None:
            self.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        self[key] = value
        self.move_to_end(key)
        if len(self) > self._size:
            self.popitem(last=False)


class _Refused(NotAuthenticated):
    """A caller that is refused, with what the log may say of it."""

    def __init__(self, message: str, fields: Mapping[str, str]) -> None:
        super().__init__(message)
        self.fields = fields


class Callers:
    """Turns headers into Callers. Give `on_change` and `on_reset` to the listener; use inside `running()`.

    While the listener is lost, what is cached counts for `auth.grace_s` from the loss; then every use asks
    the database.
    """

    def __init__(
        self,
        database: Database,
        auth: AuthSettings,
        listener: Listening,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
        flush_s: float = 5.0,
    ) -> None:
        self._database, self._auth, self._listener = database, auth, listener
        self._now, self._monotonic, self._flush_s = now, monotonic, flush_s
        self._key_headers = {"x-api-key", (auth.key_header or "x-api-key").lower()} - {"authorization"}
        self._known: _Recent[bytes, _Known] = _Recent(auth.cache_entries)
        self._unknown: _Recent[bytes, bool] = _Recent(auth.cache_entries)
        self._used: _Recent[UUID, datetime] = _Recent(auth.cache_entries)
        self._generation = 0

    async def identify(self, headers: Mapping[str, str], request: Callable[[], Mapping[str, object]] = dict) -> Caller:
        """The caller of a request with these headers (a mapping without case). A cached key never suspends.

        Raises NotAuthenticated, which is logged with what `request` then tells of it, and Unavailable when the
        database is needed and does not answer.
        """
        try:
            return await self._identify(headers)
        except _Refused as refused:
            _log.warning("authentication failed", extra={"fields": {**refused.fields, **request()}})
            raise

    async def _identify(self, headers: Mapping[str, str]) -> Caller:
        key = self._key(headers)
        digest = _NO_KEY if key is None else keys.digest(key)
        trusted = self._trusted()
        if trusted and (known := self._known.use(digest)) is not None:
            return self._judge(known, key)
        if key is not None:
            _check(key)
        if trusted and self._unknown.use(digest):
            raise _not_valid("unknown", key)
        return self._judge(await self._look_up(digest, key), key)

    def size(self) -> tuple[int, int]:
        """Known and unknown keys that are cached; each at most `auth.cache_entries`."""
        return len(self._known), len(self._unknown)

    def on_change(self, kind: str, changed: str) -> None:
        """Forget what is cached of a `key` (its digest in hex) or a `user` (its id); ignore other kinds."""
        self._generation += 1
        if kind == "key":
            digest = bytes.fromhex(changed)
            self._known.pop(digest, None)
            self._unknown.pop(digest, None)
        elif kind == "user":
            user_id = UUID(changed)
            for digest in [d for d, known in self._known.items() if known.caller.user_id == user_id]:
                del self._known[digest]
            self._unknown.pop(_NO_KEY, None)

    def on_reset(self) -> None:
        """Forget all: changes may have been missed."""
        self._generation += 1
        self._known.clear()
        self._unknown.clear()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Callers]:
        """Make the anonymous user where callers may be it, and write the last use of keys every `flush_s`."""
        if self._auth.allow_anonymous:
            await self._database.execute(_USERS.ensure_user, ANONYMOUS)
        task = asyncio.get_running_loop().create_task(self._flush_always(), name="callers: last use of keys")
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.wait([task])
            await self._flush()
        if not task.cancelled():
            task.result()

    def _key(self, headers: Mapping[str, str]) -> str | None:
        """The one key that the headers carry; None: without a key. Raises NotAuthenticated."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        found = {token.strip()} if scheme.lower() == "bearer" else set()
        for name in self._key_headers:
            if name in headers:
                found.add(headers[name].strip())
        found.discard("")
        if len(found) == 1:
            return found.pop()
        if found:
            raise _refusal("conflicting", "the headers carry conflicting API keys: send one")
        if scheme and scheme.lower() != "bearer":
            raise _refusal("scheme", "the Authorization header must read: Bearer <API key>")
        if not self._auth.allow_anonymous:
            raise _refusal("missing", "no API key: send Authorization: Bearer <API key>")
        return None

    def _trusted(self) -> bool:
        lost = self._listener.lost_since
        return lost is None or self._monotonic() - lost < self._auth.grace_s

    async def _look_up(self, digest: bytes, key: str | None) -> _Known:
        generation = self._generation
        query, argument = (_KEYS.caller_by_name, ANONYMOUS) if key is None else (_KEYS.caller_by_digest, digest)
        row = await self._database.fetchrow(query, argument, limit_s=_LOOK_UP_S)
        current = generation == self._generation
        if row is None:
            if current:
                self._unknown.put(digest, True)
            raise _not_valid("unknown", key)
        names = ("user_id", "username", "key_id", "admin")
        known = _Known(Caller(**{name: row[name] for name in names}), row["valid"], row["expires_at"])
        if current:
            self._known.put(digest, known)
        return known

    def _judge(self, known: _Known, key: str | None) -> Caller:
        now = self._now()
        if not known.valid:
            raise _not_valid("ended", key)
        if known.expires_at is not None and known.expires_at <= now:
            raise _refusal("expired", "the API key has expired", key)
        if known.caller.key_id is not None:
            self._used.put(known.caller.key_id, now)
        return known.caller

    async def _flush_always(self) -> None:
        while True:
            await asyncio.sleep(self._flush_s)
            await self._flush()

    async def _flush(self) -> None:
        """Write the last uses; those that cannot be written now are kept for the next time."""
        batch = dict(self._used)
        if not batch:
            return
        try:
            await self._database.execute(_KEYS.mark_used, list(batch), list(batch.values()))
        except Unavailable:
            _log.warning("last use of keys not written", extra={"fields": {"keys": len(batch)}})
            return
        for key_id, used_at in batch.items():
            if self._used.get(key_id) == used_at:
                del self._used[key_id]


def _check(key: str) -> None:
    """Raise NotAuthenticated for what cannot be a key, before anybody is asked."""
    if not key.startswith(keys.PREFIX):
        raise _refusal("not_a_key", f"the credential is no API key of this gateway: those begin with {keys.PREFIX}")
    if not keys.well_formed(key):
        raise _refusal("malformed", "the API key is mistyped or cut off: its checksum does not fit")


def _not_valid(reason: str, key: str | None) -> _Refused:
    """One message for unknown and revoked keys and inactive users: it tells nothing to who tries keys."""
    return _refusal(
        reason,
        "callers without an API key are not served" if key is None else "the API key is not valid",
        key,
    )


def _refusal(reason: str, message: str, key: str | None = None) -> _Refused:
    """The answer to a caller that is refused; the log gets the hint of a key that is well formed."""
    return _Refused(message, {"reason": reason} if key is None else {"reason": reason, "key": keys.hint(key)})
