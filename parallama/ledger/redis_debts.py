"""What Redis must hear: said again, over any number of connections, until it has been acknowledged."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from parallama.ledger.redis_words import Word

Reply = Sequence[Any]
"""What was the outcome, as bytes, and its parts."""

_FEW = 200
"""So many are said at a time where there are many."""
_MOST = 100_000


_Debt = tuple[str, Sequence[Word], Callable[[Reply], None]]
"""An operation, its words, and whom to tell that it was done."""


class Debts:
    """Of one process."""

    def __init__(
        self,
        send: Callable[[str, Sequence[Word]], asyncio.Future[Reply]],
        hears: Callable[[], bool],
        outcome: Callable[[asyncio.Future[Reply]], Reply | None],
    ) -> None:
        """`hears`: whether Redis can be told at once; `outcome` tells what was done; None: nothing."""
        self.lost = 0
        """Given up, the oldest first, where there were too many."""
        self._send, self._hears, self._outcome = send, hears, outcome
        self._owed: dict[object, _Debt] = {}
        self._unsent: deque[object] = deque()
        self._none = asyncio.Event()
        """Cleared by those who wait for it."""

    def __len__(self) -> int:
        return len(self._owed)

    async def settled(self) -> None:
        """Wait until there are none."""
        if self._owed:
            self._none.clear()
            await self._none.wait()

    def owe(self, key: object, operation: str, words: Sequence[Word], paid: Callable[[Reply], None]) -> None:
        """Of two with one `key` the first counts. Calls `paid` once."""
        if key in self._owed:
            return
        if len(self._owed) >= _MOST:
            del self._owed[next(iter(self._owed))]
            self.lost += 1
        self._owed[key] = operation, words, paid
        if self._hears():
            self._pay(key)
        else:
            self._unsent.append(key)

    async def pay(self, limit_s: float) -> None:
        """What was not acknowledged when this began, a few at a time. Raises TimeoutError when nothing is answered."""
        left = len(self._unsent)
        while left > 0:
            keys = [self._unsent.popleft() for _ in range(min(left, _FEW))]
            left -= len(keys)
            if sent := [self._pay(key) for key in keys if key in self._owed]:
                _, unanswered = await asyncio.wait(sent, timeout=limit_s)
                if unanswered:
                    raise TimeoutError

    def _pay(self, key: object) -> asyncio.Future[Reply]:
        operation, words, _ = self._owed[key]
        answer = self._send(operation, words)
        answer.add_done_callback(partial(self._answered, key))
        return answer

    def _answered(self, key: object, answer: asyncio.Future[Reply]) -> None:
        reply = self._outcome(answer)
        if key not in self._owed:
            return
        if reply is None:
            self._unsent.append(key)
            return
        _, _, paid = self._owed.pop(key)
        paid(reply)
        if not self._owed:
            self._none.set()
