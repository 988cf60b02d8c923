"""What is written down of every exchange: in the journal as it happens, then counted and logged, a few together.

Nobody waits for the counting, and done one after another these steps cost half of what each costs between two requests.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import UUID

from aiohttp import web

from parallama.arrival import ARRIVAL
from parallama.errors import Unavailable
from parallama.exchange import Exchange, Usage, UsageRecord, checked
from parallama.gateway.api import Codec
from parallama.ledger.entries import Reached, Sent
from parallama.ledger.journal import Journal
from parallama.metrics import Metrics, generation_speed
from parallama.traffic import Traffic

_api = logging.getLogger("parallama.api")
_error = logging.getLogger("parallama.error")

_TOGETHER = 32
"""Exchanges that wait for each other."""
_LONGEST_PATH = 256
"""Characters of a path in the log; ours are shorter."""
_WAIT_S = 0.02
"""Longest wait for others."""


_Facts = tuple[str, str, str, str | None]
"""Of a request: its id, method, path and address."""


class Books:
    """Of one process; complete after `settle`."""

    def __init__(
        self,
        journal: Journal,
        metrics: Metrics,
        traffic: Traffic,
        named: Callable[[str], str | None],
        settle_limits: Callable[[Exchange], None],
        *,
        strict: bool = False,
    ) -> None:
        """`named` gives the node's own name of a model, None when no node has it; `settle_limits` counts what an
        exchange has cost."""
        self.journal = journal
        """Of this process."""
        self.strict = strict
        """Whether a row is on the disk itself before the client has the last of its answer."""
        self._metrics = metrics
        self._traffic = traffic
        self._named = named
        self._settle_limits = settle_limits
        self._under_way: dict[int, str] = {}
        """The gateways of the exchanges that have begun and not ended, by the number of their ids: a UUID takes long to
        be hashed."""
        self._ended: list[tuple[Exchange, float, _Facts]] = []
        """Each with its end, in monotonic seconds."""
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
        return self.journal.full

    def show_under_way(self, gateway: str) -> None:
        """Show how many exchanges of this gateway are under way."""
        self._metrics.in_flight.labels(gateway).set_function(lambda: [*self._under_way.values()].count(gateway))

    @property
    def under_way(self) -> set[UUID]:
        """Ids of the exchanges that have begun and not ended."""
        return {UUID(int=id) for id in self._under_way}

    def begin(self, exchange: Exchange) -> None:
        """An exchange has begun; `end` is to follow."""
        self._under_way[exchange.id.int] = exchange.gateway

    def close(self, exchange: Exchange, coming: int = 0) -> None:
        """Write down how an exchange has ended, if its caller is known and it is not written yet. The last `coming`
        bytes of its answer go out afterwards."""
        if exchange.closed or exchange.caller is None:
            return
        self.journal.final(exchange.record(time.monotonic(), coming))
        exchange.closed = True
        self._settle_limits(exchange)

    def end(self, exchange: Exchange, request: web.Request) -> None:
        """An exchange has ended; it is settled soon. It is recorded if its caller is known."""
        self._under_way.pop(exchange.id.int, None)
        arrival = request[ARRIVAL]
        if not exchange.closed:
            try:
                self.close(exchange)
            except Exception:  # noqa: BLE001 - whatever it is, the answer is not to be spoilt
                _error.exception("bug", extra={"fields": {"request_id": arrival.text}})
        facts = arrival.text, request.method, request.path[:_LONGEST_PATH], arrival.address
        self._ended.append((exchange, time.monotonic(), facts))
        if len(self._ended) >= _TOGETHER:
            self.settle()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_WAIT_S, self.settle)

    def settle(self) -> None:
        """Settle all that have ended: metrics and `/status` are complete then."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        ended, self._ended = self._ended, []
        self._metrics.end([(exchange, at - exchange.started) for exchange, at, _ in ended], self._named)
        for exchange, at, _ in ended:
            self._traffic.count(exchange.gateway, at, exchange.first_byte_s)
        if _api.isEnabledFor(logging.INFO):
            for exchange, at, facts in ended:
                _api.info("request", extra={"fields": _line(exchange, at - exchange.started, facts)})


class Booking:
    """What is written down of one exchange while it goes on: for whoever holds it, and for the journal that asks."""

    __slots__ = ("_account", "_asked_at", "_books", "_codec", "_exchange")

    def __init__(self, books: Books, exchange: Exchange, codec: Codec, account: Callable[[], None]) -> None:
        """`codec` tells what has come of it by now; `account` has the exchange take what it tells at the end."""
        self._books, self._exchange, self._codec, self._account = books, exchange, codec, account
        self._asked_at: float | None = None

    @property
    def strict(self) -> bool:
        """As Books says."""
        return self._books.strict

    @property
    def asked_s(self) -> float | None:
        """Seconds since a node was first asked; None: none was."""
        return None if self._asked_at is None else time.monotonic() - self._asked_at

    def admit(self) -> None:
        """It is about to ask a node. Raises Unavailable when that cannot be written down."""
        self._books.journal.admit(self._exchange.id, self)

    def dispatch(self) -> None:
        """It asks its node for its model: from here on that may cost tokens. Raises Unavailable when it cannot be
        written down that it began: no node is asked then."""
        exchange = self._exchange
        try:
            self._books.journal.dispatch(exchange.id)
        except Unavailable:
            exchange.node = exchange.model = None
            raise
        if self._asked_at is None:
            self._asked_at = time.monotonic()

    def close(self, coming: int) -> None:
        """It has ended, but for the last `coming` bytes of its answer."""
        self._account()
        self._books.close(self._exchange, coming)

    async def secure(self) -> None:
        """Until what is written down is on the disk itself. Raises Unavailable when that takes too long."""
        await self._books.journal.synced()

    def row(self) -> UsageRecord:
        """As Begun says."""
        exchange = self._exchange
        return exchange.record(time.monotonic(), 0, exchange.prompt_estimate)

    def sent(self) -> Sent:
        """As Begun says."""
        exchange = self._exchange
        return Sent(exchange.id, exchange.node, exchange.model, exchange.charged_at, exchange.prompt_estimate)

    def reached(self) -> Reached:
        """As Begun says; a stranger's codec may have no say."""
        exchange = self._exchange
        try:
            so_far = checked(self._codec.usage)
        except Exception:  # noqa: BLE001 - it is asked again at the end, and logged then
            so_far = Usage()
        first_s = exchange.first_byte_s
        duration_ms = (time.monotonic() - exchange.started) * 1000
        first_ms = None if first_s is None else first_s * 1000
        return Reached(
            exchange.id, so_far.output_tokens, exchange.response_bytes, first_ms, duration_ms, so_far.prompt_tokens
        )


def _line(exchange: Exchange, duration_s: float, facts: _Facts) -> dict[str, object]:
    request_id, method, path, remote = facts
    caller, usage, first_byte = exchange.caller, exchange.usage, exchange.first_byte
    speed = generation_speed(exchange, duration_s) if exchange.streamed else None
    line: dict[str, object] = {
        "request_id": request_id,
        "client_request_id": exchange.client_request_id,
        "remote": remote,
        "method": method,
        "path": path,
        "user": caller.username if caller else None,
        "key_id": caller.key_id if caller else None,  # the log says it as text, for less than `str` takes
        "gateway": exchange.gateway,
        "operation": exchange.operation,
        "model": exchange.model_asked,
        "node": exchange.node,
        "status": exchange.status,
        "outcome": exchange.outcome._value_,
        "error": exchange.error,
        "streamed": exchange.streamed,
        "prompt_tokens": usage.prompt_tokens,
        "output_tokens": usage.output_tokens,
        "context_full": exchange.context_full,
        "ttft_ms": None if first_byte is None else round((first_byte - exchange.started) * 1000, 3),
        "duration_ms": round(duration_s * 1000, 3),
        "tokens_per_s": None if speed is None else round(speed, 1),
    }
    if exchange.ignored:
        line["ignored"] = list(exchange.ignored)
    return line
