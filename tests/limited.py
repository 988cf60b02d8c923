"""A gateway whose callers have the limits that a test says, whoever counts them, before one node.

A module imports all fixtures here beside those of `shared_gateway`, whose `gateway_settings` this replaces.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

import parallama.app
from parallama.errors import ApiError
from parallama.gateway.families import Mounted
from parallama.limits import EVERY, Limit, Meter, Period, Scope
from parallama.proxy.keys import EXCHANGE
from parallama.proxy.mounts import mount
from parallama.proxy.relay import Relay
from parallama.quotas import Quota, over_limit, quotas_of

USER = UUID(int=7)
NOW = 1_795_276_799.5
"""2026-11-21T15:59:59.5Z."""


def limit(
    meter: Meter, period: Period, amount: int, *, gateway: str = EVERY, model: str | None = None, **how: Any
) -> Limit:
    return Limit(subject=USER, scope=Scope(gateway, model, meter, period), amount=amount, **how)


DAILY = limit(Meter.TOTAL_TOKENS, Period.DAY, 1000)


def refusal(rule: Limit = DAILY, **how: Any) -> Any:
    """That of a rule of which 980 are used, for a request that needs 50; `how` it is otherwise."""
    usual = {"used": 980, "reserved": 0, "asked": 50, "wait_s": 40, "under_way": False, "now": NOW}
    return over_limit(rule, **{**usual, **how})


@dataclass
class Limits:
    """What the gateway finds when a request has been let in."""

    quotas: Sequence[Quota] = ()
    refusal: ApiError | None = None
    asked: int = 0
    """Requests so far."""

    def judge(self, request: web.Request) -> None:
        self.asked += 1
        request[EXCHANGE].quotas = quotas_of(self.quotas) if self.quotas else None
        if self.refusal is not None:
            raise self.refusal


@pytest.fixture(scope="module")
def judging() -> Iterator[Limits]:
    """Mounts of gateways that start from now on have a middleware of ours, the innermost."""
    limits = Limits()

    @web.middleware
    async def judge(request: web.Request, handler: Handler) -> web.StreamResponse:
        limits.judge(request)
        return await handler(request)

    def mount_judged(app: web.Application, mounted: Mounted, relay: Relay, around: Sequence[Middleware]) -> None:
        mount(app, mounted, relay, [*around, judge])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallama.app, "mount", mount_judged)
        yield limits


@pytest.fixture(scope="module")
def gateway_settings(judging: Limits) -> dict[str, Any]:
    """Asked for before the gateway starts."""
    return {"usage": {"flush_ms": 1}}


@pytest.fixture
def limits(judging: Limits) -> Iterator[Limits]:
    yield judging
    judging.quotas, judging.refusal, judging.asked = (), None, 0
