"""Passwords: what a new one must be, and argon2id in two threads of its own.

A flood of logins waits here and not before the streams: the queue is short, and full it is a 503. Stores nothing.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import NamedTuple, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from parallama.errors import Invalid, Unavailable

MAX_PASSWORD = 256
"""Characters."""

_THREADS = 2
_MOST_WAITING = 64
"""Two seconds of work, or less."""
_FEWEST_DIFFERENT = 4
_COMMON = (
    "password passw0rd password1 password12 password123 password1234 12345678 123456789 1234567890 0123456789"
    " 87654321 987654321 qwertyui qwertyuiop qwerty123 qwertz123 1q2w3e4r 1q2w3e4r5t 1qaz2wsx q1w2e3r4 zaq12wsx"
    " abcd1234 abc12345 abcdefgh iloveyou sunshine princess football baseball superman trustno1 starwars letmein1"
    " letmein123 welcome1 welcome123 admin123 admin1234 administrator changeme changeme123 secret123 default1"
    " parallama parallama1 ollama123 computer internet whatever dragon123 monkey123 master123 test1234 testtest"
)
_GUESSED_FIRST = frozenset(_COMMON.split())

T = TypeVar("T")


class Verdict(NamedTuple):
    """What came of verifying a password."""

    ok: bool
    rehash: bool
    """Whether it is right but stored with other parameters than ours: hash it anew."""


class Passwords:
    """Hashes and verifies, inside `running()`.

    argon2id with the parameters of OWASP ASVS appendix C: 2 passes over 19456 KiB in one lane, about 60 ms.
    """

    def __init__(self, *, passes: int = 2, memory_kib: int = 19_456, most_waiting: int = _MOST_WAITING) -> None:
        self._hasher = PasswordHasher(time_cost=passes, memory_cost=memory_kib, parallelism=1)
        self._nobodys = f"$argon2id$v=19$m={memory_kib},t={passes},p=1${_zeros(16)}${_zeros(32)}"
        self._most_waiting = most_waiting
        self._threads: ThreadPoolExecutor | None = None
        self._asked = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Passwords]:
        """With the threads for the block; what waits at its end is cancelled."""
        self._threads = threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="passwords")
        try:
            yield self
        finally:
            self._threads = None
            await asyncio.to_thread(threads.shutdown, cancel_futures=True)

    async def hash(self, password: str) -> str:
        """What to store of it, about 100 ASCII characters. Raises Unavailable when too many wait."""
        return await self._do(lambda: self._hasher.hash(_bytes(password)))

    async def verify(self, encoded: str | None, password: str) -> Verdict:
        """Whether `password` is the one of which `encoded` is stored. None takes as long and is never right.

        Raises Unavailable when too many wait.
        """
        if encoded is None or len(password) > MAX_PASSWORD:
            await self._do(lambda: self._fits(self._nobodys, password[:MAX_PASSWORD]))
            return Verdict(ok=False, rehash=False)
        ok = await self._do(lambda: self._fits(encoded, password))
        return Verdict(ok, rehash=ok and self._hasher.check_needs_rehash(encoded))

    def _fits(self, encoded: str, password: str) -> bool:
        try:
            return self._hasher.verify(encoded, _bytes(password))
        except (VerificationError, InvalidHashError):
            return False

    async def _do(self, work: Callable[[], T]) -> T:
        if self._threads is None:
            raise RuntimeError("the passwords are not running")
        if self._asked >= self._most_waiting + _THREADS:
            raise Unavailable("too many passwords are being verified")
        self._asked += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._asked -= 1


def require_password(password: str, username: str, min_length: int) -> None:
    """Raise Invalid unless `password` may be the new one of `username`. `min_length`: characters.

    Length counts, and what is guessed first is refused; no character is asked for (NIST SP 800-63B section 3.1.1).
    """
    if not min_length <= len(password) <= MAX_PASSWORD:
        raise _weak(f"must have {min_length} to {MAX_PASSWORD} characters")
    folded = password.casefold()
    if folded in _GUESSED_FIRST or len(set(folded)) < _FEWEST_DIFFERENT:
        raise _weak("is among the first that are guessed: take a longer one, such as four words")
    if username.casefold() in folded and len(folded) - len(username) < min_length:
        raise _weak("is little more than the user name: take another one")


def _weak(what: str) -> Invalid:
    return Invalid(f"the password {what}", param="password")


def _bytes(password: str) -> bytes:
    # half of a pair, which a terminal may give
    return password.encode("utf-8", "surrogatepass")


def _zeros(count: int) -> str:
    return base64.b64encode(bytes(count)).decode().rstrip("=")
