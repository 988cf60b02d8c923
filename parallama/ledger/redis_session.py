"""What one process has with a Redis in which many count: a connection, its part in the epoch, what it owes.

An epoch is the time in which Redis has lost nothing. When it comes back empty, or as another server than before,
whoever notices first begins a new one, in which no counter is known. Every process that joins it says which requests it
has under way; nothing is admitted until all have had time for that.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import tzinfo
from functools import partial
from hashlib import sha1
from typing import NamedTuple
from uuid import uuid4

import orjson

from parallama.background import beside
from parallama.db.redis import Connection, connected, options_of, packed, script
from parallama.errors import Unavailable
from parallama.ledger.redis_debts import Debts, Reply
from parallama.ledger.redis_windows import Windows
from parallama.ledger.redis_words import Held, Word, registered
from parallama.ledger.store import Uncountable
from parallama.limits import Period

_SCRIPT = script("counts", "requests", "operations")
_DIGEST = sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()
_AGAIN_S = 0.2
"""Between two attempts to connect."""
_BEAT_S = 0.5
_BEAT_LIMIT_S = 1.0
"""A connection on which nothing is answered for so long is given up."""
_FEW = 200
"""Requests that are registered at a time."""
_LATE = 3
"""So many late answers in a row, and nobody waits for one until a beat is in time."""

_UNDONE = frozenset((b"clock", b"epoch", b"wait"))
"""What the script answers in place of doing it."""

_log = logging.getLogger("parallama.usage")


class Terms(NamedTuple):
    """How long what may take, in seconds."""

    answer_s: float = 0.05
    """Nobody waits longer for an answer."""
    joining_s: float = 2.0
    """So long nothing is admitted in a new epoch."""


class Session:
    """Of one process. Works inside `running()`."""

    def __init__(
        self, url: str, zone: tzinfo, instance: str, prefix: str, now: Callable[[], float] | None, terms: Terms
    ) -> None:
        """`instance` is the name of this process; `now`: Unix seconds; None: Redis looks at its own clock."""
        self._joined = asyncio.Event()
        self.live: dict[str, Held] = {}
        """What this process has reserved, by the ids of the requests in hexadecimal."""
        self.debts = Debts(self._send, self._joined.is_set, self._outcome)
        """What Redis has not acknowledged yet."""
        self.waiting_since: Callable[[], float | None] | None = None
        """As Shipper says; None: this process never has rows."""
        self._server, self._now, self._terms = options_of(url), now, terms
        self._key, self._instance = f"{prefix}:{{ledger}}:epoch", instance
        self._windows = Windows(zone)
        self._begun: dict[str, bytes] = {}
        """What commands begin with, by operation: all but their last word, the only one that is always another."""
        self._connection: Connection | None = None
        self._epoch = ""
        self._wake = asyncio.Event()
        self._late = 0
        self._opens_at = 0.0
        """When the epoch admits requests, of the monotonic clock."""
        self._away = self._leaving = False
        self._heard: tuple[float, Word] = (0.0, 0)
        """When Redis has answered the last beat, of the monotonic clock, and what time it was there."""
        self._shipped: Word = 0
        """Until when what was settled is in the database, by the clock of Redis."""

    @property
    def answers(self) -> bool:
        """Whether it is worth while to ask."""
        return self._joined.is_set() and self._late < _LATE and time.monotonic() >= self._opens_at

    def time(self) -> float:
        """What time it is, while nobody asks Redis: Unix seconds."""
        return time.time() if self._now is None else self._now()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Ready, if Redis answers; at the end what is owed has been paid, if it answers."""
        async with beside(self._keep(), "redis"):
            await _at_most(_BEAT_LIMIT_S + self._terms.joining_s, self.ready())
            yield
            await _at_most(_BEAT_LIMIT_S, self.debts.settled())
            await self._leave()

    async def ready(self) -> None:
        """Wait until it is worth while to ask."""
        while not self.answers:
            await self._joined.wait()
            await asyncio.sleep(_AGAIN_S / 10)

    async def ask(self, operation: str, *words: Word) -> Reply:
        """Raises Uncountable, after `answer_s` at the latest; what was asked may be done nevertheless."""
        if not self.answers:
            raise Uncountable
        return await self.answer(operation, words)

    async def answer(self, operation: str, words: Sequence[Word]) -> Reply:
        """As `ask`, for who has seen that it `answers`."""
        try:
            while True:
                answer = self._send(operation, words)
                # in place of asyncio.wait, which takes ten times as long for the same
                timer = answer.get_loop().call_later(self._terms.answer_s, self._expire, answer)
                try:
                    reply = await answer
                finally:
                    timer.cancel()
                if self._understood(reply):
                    self._late = 0
                    return reply
        except Unavailable as error:
            raise Uncountable(str(error)) from error

    def tell(self, operation: str, *words: Word) -> None:
        """Send what need not arrive."""
        if self._joined.is_set():
            self._send(operation, words).add_done_callback(partial(self._told, operation, words))

    # connected, joined, alive

    async def _keep(self) -> None:
        while True:
            try:
                async with connected(self._server) as connection:
                    await self._stay(connection)
            except (Unavailable, Uncountable, TimeoutError) as error:
                if not self._away:
                    _log.error("limits cannot be counted: no Redis", extra={"fields": {"problem": str(error)}})
                self._away = True
            finally:
                self._connection = None
                self._joined.clear()
            await asyncio.sleep(_AGAIN_S)

    async def _stay(self, connection: Connection) -> None:
        """Until something is not answered."""
        async with asyncio.timeout(_BEAT_LIMIT_S):
            await connection.ask("SCRIPT", "LOAD", _SCRIPT)
            _check(await connection.ask("INFO", "memory"))
        self._connection = connection
        while True:
            await (self._beat() if self._joined.is_set() else self._join())
            await self.debts.pay(_BEAT_LIMIT_S)
            await _at_most(_BEAT_S, self._wake.wait())
            self._wake.clear()

    async def _join(self) -> None:
        _, epoch, wait_ms = await self._ask("open", (uuid4().hex, self._terms.joining_s, *self._rows()))
        if self._epoch not in ("", epoch.decode()):
            _log.warning("Redis has lost what was counted: it is summed anew")
        self._epoch, self._opens_at = epoch.decode(), time.monotonic() + wait_ms / 1000
        self._begun.clear()
        waiting = list(self.live)
        for begin in range(0, len(waiting), _FEW):
            some = [registered(id, self.live[id]) for id in waiting[begin : begin + _FEW] if id in self.live]
            await self._ask("register", [word for words in some for word in words])
        if self._away:
            _log.info("limits are counted again")
        self._late, self._away = 0, False
        self._joined.set()

    async def _beat(self) -> None:
        if self._leaving:
            return
        began = time.monotonic()
        try:
            _, lapsed, here = await self._ask("alive", self._rows())
        except Uncountable:  # of another epoch: this process joins it now
            return await self._join()
        self._heard = time.monotonic(), here.decode()
        if self._heard[0] - began < self._terms.answer_s:
            self._late = 0
        if lapsed:
            await self._join()

    async def _leave(self) -> None:
        """Nobody waits for rows of this process, if there are none to come."""
        self._leaving = self.waiting_since is None or self.waiting_since() is None
        if self._leaving:
            with suppress(Unavailable, Uncountable, TimeoutError):
                await self._ask("complete", (self._instance,))

    def _rows(self) -> Sequence[Word]:
        """Until when what was settled is in the database; an empty word: until Redis reads it. What was settled there
        before an answer came has ended before that."""
        if self.waiting_since is None:
            return ()
        since, (at, here) = self.waiting_since(), self._heard
        if since is None or since >= at:
            self._shipped = here
        return ("" if since is None else self._shipped,)

    # sent and understood

    def _send(self, operation: str, words: Sequence[Word]) -> asyncio.Future[Reply]:
        if self._connection is None:
            raise Unavailable("Redis is not connected")
        begin = self._begun.get(operation) or self._begin(operation)
        last = orjson.dumps(words)
        return self._connection.send(b"%b%d\r\n%b\r\n" % (begin, len(last), last))

    def _begin(self, operation: str) -> bytes:
        now = "" if self._now is None else repr(self._now())
        windows = self._windows.word
        command = packed("EVALSHA", _DIGEST, 1, self._key, operation, self._epoch, now, self._instance, windows, "")
        begin = command.removesuffix(b"0\r\n\r\n")  # the length and the text of the last word
        if self._now is None:
            self._begun[operation] = begin
        return begin

    def _expire(self, answer: asyncio.Future[Reply]) -> None:
        """Its time is over; what has come while this process was busy is read before it is given up."""
        loop = answer.get_loop()
        loop.call_soon(loop.call_soon, self._give_up, answer)

    def _give_up(self, answer: asyncio.Future[Reply]) -> None:
        if not answer.done():
            self._late += 1
            answer.set_exception(Uncountable("Redis is too slow"))

    async def _ask(self, operation: str, words: Sequence[Word]) -> Reply:
        """Raises Unavailable, TimeoutError, and Uncountable when Redis says so."""
        async with asyncio.timeout(_BEAT_LIMIT_S):
            reply = await self._send(operation, words)
            while not self._understood(reply):
                reply = await self._send(operation, words)
        return reply

    def _understood(self, reply: Reply) -> bool:
        """Whether the script did it; else it is to be sent again. Raises Uncountable when that would not help now."""
        if reply[0] not in _UNDONE:
            return True
        if reply[0] == b"clock":
            self._windows.turn(Period(reply[1].decode()), reply[2])
            self._begun.clear()
            return False
        if reply[0] == b"epoch":
            self._joined.clear()
            self._wake.set()
            raise Uncountable("Redis has lost its counts")
        raise Uncountable("other processes are about to join")

    def _outcome(self, answer: asyncio.Future[Reply]) -> Reply | None:
        """What was done; None: nothing, and whether that is worth another attempt is the caller's to know."""
        if answer.cancelled() or answer.exception() is not None:
            return None
        try:
            return reply if self._understood(reply := answer.result()) else None
        except Uncountable:
            return None

    def _told(self, operation: str, words: Sequence[Word], answer: asyncio.Future[Reply]) -> None:
        clock = self._windows.word
        if self._outcome(answer) is None and self._windows.word != clock:
            self.tell(operation, *words)


def _check(memory: bytes) -> None:
    """Whether a server that is full would forget reservations."""
    if b"maxmemory_policy:noeviction" not in memory:
        _log.warning("Redis may forget what is reserved when it is full: set its maxmemory-policy to noeviction")


async def _at_most(limit_s: float, what: Awaitable[object]) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(what, limit_s)
