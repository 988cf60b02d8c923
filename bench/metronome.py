"""Calls back at times exact to some microseconds: uvloop counts whole milliseconds, which would bunch the streams.

One timer of the kernel (timerfd_create(2)) for all, read by the event loop.
"""

from __future__ import annotations

import asyncio
import ctypes
import heapq
import itertools
import os
import time
from collections.abc import Callable
from contextlib import suppress

_ABSOLUTE = 1


class Metronome:
    """All the calls that are due some day, of one event loop, as long as it runs."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._timer = self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK)
        if self._timer < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._due: list[tuple[int, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        asyncio.get_running_loop().add_reader(self._timer, self._ring)

    def call_at(self, due_ns: int, call: Callable[[], None]) -> None:
        """Call when `time.monotonic_ns()` is `due_ns`, at once if it is past."""
        heapq.heappush(self._due, (due_ns, next(self._numbers), call))
        if self._due[0][0] == due_ns:
            self._set()

    def _ring(self) -> None:
        with suppress(BlockingIOError):  # it was set anew since it rang
            os.read(self._timer, 8)
        now = time.monotonic_ns()
        while self._due and self._due[0][0] <= now:
            heapq.heappop(self._due)[2]()
        if self._due:
            self._set()

    def _set(self) -> None:
        """Set the timer to what is due first; its struct is interval and value, each in seconds and nanoseconds."""
        seconds, nanoseconds = divmod(max(1, self._due[0][0]), 1_000_000_000)
        spec = (ctypes.c_long * 4)(0, 0, seconds, nanoseconds)
        self._libc.timerfd_settime(self._timer, _ABSOLUTE, spec, None)
