"""Says something to the clients of streams while a node loads its model, so that nobody between takes them for dead.

One task looks after all who wait. A heartbeat commits the answer's head: nothing is said before `after_s`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from parallama.background import beside
from parallama.errors import ClientLeft

_error = logging.getLogger("parallama.error")

_LOOKS = 8
"""In the shortest time that is waited."""

Beat = Callable[[], Awaitable[None]]


class Waiting:
    """Somebody waits: entered, left, and `over` perhaps before that."""

    __slots__ = ("_after_s", "_beat", "_due")

    def __init__(self, due: dict[Beat, float], beat: Beat, after_s: float) -> None:
        self._due, self._beat, self._after_s = due, beat, after_s

    def __enter__(self) -> Waiting:
        if self._after_s:
            self._due[self._beat] = asyncio.get_running_loop().time() + self._after_s
        return self

    def __exit__(self, *_: object) -> None:
        self.over()

    def over(self) -> None:
        """The wait is over."""
        self._due.pop(self._beat, None)


class Heartbeats:
    """Of one process; works inside `running()`."""

    def __init__(self, after_s: float, every_s: float) -> None:
        """`after_s`: seconds before the first one, 0: there is none; `every_s`: between two."""
        self._after_s, self._every_s = after_s, every_s
        self._due: dict[Beat, float] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look after those who wait."""
        async with beside(self._look(), "heartbeats"):
            yield

    def during(self, beat: Beat) -> Waiting:
        """A context in which `beat` is called from time to time."""
        return Waiting(self._due, beat, self._after_s)

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        wait_s = min(self._after_s or self._every_s, self._every_s) / _LOOKS
        while True:
            await asyncio.sleep(wait_s)
            now = loop.time()
            for beat in [beat for beat, due in self._due.items() if due <= now]:
                if beat in self._due:
                    self._due[beat] = now + self._every_s
                    await self._try(beat)

    async def _try(self, beat: Beat) -> None:
        try:
            await beat()
        except ClientLeft:  # its own handler hears of it too
            self._due.pop(beat, None)
        except Exception:  # noqa: BLE001 - a stranger's heartbeat must not end those of all others
            self._due.pop(beat, None)
            _error.exception("bug")
