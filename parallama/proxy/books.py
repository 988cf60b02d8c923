"""The last step of every exchange: counted, logged and recorded, a few together.

Nobody waits for it, and done one after another these steps cost half of what each costs between two requests.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple

from aiohttp import web

from parallama.arrival import ARRIVAL
from parallama.exchange import Exchange
from parallama.ledger.recorder import Recorder
from parallama.metrics import Metrics
from parallama.traffic import Traffic

_api = logging.getLogger("parallama.api")
_error = logging.getLogger("parallama.error")

_TOGETHER = 32
"""Exchanges that wait for each other: their records are gone with a process that is killed."""
_LONGEST_PATH = 256
"""Characters of a path in the log; ours are shorter."""
_WAIT_S = 0.02
"""Longest wait for others."""


class _Ended(NamedTuple):
    exchange: Exchange
    request_id: str
    at: float
    method: str
    path: str
    remote: str | None


class Books:
    """Of one process; complete after `settle`."""

    def __init__(
        self, recorder: Recorder, metrics: Metrics, traffic: Traffic, named: Callable[[str], str | None]
    ) -> None:
        """`named` gives the node's own name of a model, None when no node has it."""
        self._recorder = recorder
        self._metrics = metrics
        self._traffic = traffic
        self._named = named
        self._under_way: Counter[str] = Counter()
        self._ended: list[_Ended] = []
        self._timer: asyncio.TimerHandle | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Leaves nothing unsettled."""
        try:
            yield
        finally:
            self.settle()

    @property
    def full(self) -> bool:
        """Whether the row of another exchange might not find a place."""
        return self._recorder.room <= len(self._ended)

    def show_under_way(self, gateway: str) -> None:
        """Show how many exchanges of this gateway are under way."""
        self._metrics.in_flight.labels(gateway).set_function(partial(self._under_way.__getitem__, gateway))

    def begin(self, exchange: Exchange) -> None:
        """An exchange has begun; `end` is to follow."""
        self._under_way[exchange.gateway] += 1

    def end(self, exchange: Exchange, request: web.Request) -> None:
        """An exchange has ended; it is settled soon. It is recorded if its caller is known."""
        self._under_way[exchange.gateway] -= 1
        arrival = request[ARRIVAL]
        facts = arrival.text, time.monotonic(), request.method, request.path[:_LONGEST_PATH], arrival.address
        self._ended.append(_Ended(exchange, *facts))
        if len(self._ended) >= _TOGETHER:
            self.settle()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_WAIT_S, self.settle)

    def settle(self) -> None:
        """Settle all that have ended: rows, metrics and `/status` are complete then."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        ended, self._ended = self._ended, []
        for one in ended:
            self._record(one)
        self._metrics.end([(one.exchange, one.at - one.exchange.started) for one in ended], self._named)
        for one in ended:
            self._traffic.count(one.exchange.gateway, one.at, one.exchange.first_byte_s)
        if _api.isEnabledFor(logging.INFO):
            for one in ended:
                _api.info("request", extra={"fields": _line(one)})

    def _record(self, ended: _Ended) -> None:
        try:
            if ended.exchange.caller is not None:
                self._recorder.record(ended.exchange.record(ended.at))
        except Exception:  # noqa: BLE001 - those that ended with it must not go without their rows
            _error.exception("bug", extra={"fields": {"request_id": ended.request_id}})


def _line(ended: _Ended) -> dict[str, object]:
    exchange = ended.exchange
    caller, usage, first_byte_s = exchange.caller, exchange.usage, exchange.first_byte_s
    return {
        "request_id": ended.request_id,
        "client_request_id": exchange.client_request_id,
        "remote": ended.remote,
        "method": ended.method,
        "path": ended.path,
        "user": caller.username if caller else None,
        "key_id": str(caller.key_id) if caller and caller.key_id else None,
        "gateway": exchange.gateway,
        "operation": exchange.operation,
        "model": exchange.model_asked,
        "node": exchange.node,
        "status": exchange.status,
        "outcome": exchange.outcome.value,
        "error": exchange.error,
        "streamed": exchange.streamed,
        "prompt_tokens": usage.prompt_tokens,
        "output_tokens": usage.output_tokens,
        "context_full": exchange.context_full,
        **({"ignored": list(exchange.ignored)} if exchange.ignored else {}),
        "ttft_ms": None if first_byte_s is None else round(first_byte_s * 1000, 3),
        "duration_ms": round((ended.at - exchange.started) * 1000, 3),
    }
