"""Whether a request fits into what its caller may use: reserved before a node is asked, settled when all is known.

Who has no limits pays nothing for any of this.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from math import ceil
from uuid import UUID

from parallama.config.settings import LimitsSettings
from parallama.errors import OverLimit, Unavailable
from parallama.exchange import Caller, Exchange, UsageRecord
from parallama.gateway.api import Codec, Use
from parallama.gateway.described import Model
from parallama.gateway.names import matches
from parallama.ledger.bounds import UNBOUNDED, bound, bounded, most_output
from parallama.ledger.seeds import Seeding, weight_of
from parallama.ledger.store import Cost, Grant, Refusal, Spent, Standing, Store, Uncountable, Unknown
from parallama.limits import EVERY, Counter, Limit, Meter
from parallama.metrics import Metrics
from parallama.nodes.catalog import Catalog
from parallama.proxy.speeds import COSTLY
from parallama.proxy.warnings import Warnings
from parallama.quotas import Quota, over_limit


class Admission:
    """Of one process."""

    def __init__(
        self, store: Store, seeding: Seeding, catalog: Catalog, settings: LimitsSettings, metrics: Metrics
    ) -> None:
        self._store, self._seeding, self._catalog, self._settings = store, seeding, catalog, settings
        self._metrics = metrics
        self._warnings = Warnings(metrics)

    async def admit(self, exchange: Exchange, caller: Caller, use: Use, codec: Codec) -> None:
        """Reserve what the exchange may cost, and hold the node to it. Raises OverLimit, naming the limit that is in
        the way, and Unavailable when nobody can count now."""
        if not caller.limits or use not in COSTLY or not codec.outbounds:
            return
        name = _name(codec)
        gateways = EVERY, exchange.gateway
        limits = [
            limit
            for limit in caller.limits
            if limit.scope.gateway in gateways and (limit.scope.model is None or _fits(limit.scope.model, name))
        ]
        if not limits:
            return
        model = self._catalog.described(name) if name else Model()
        most = most_output(limits, self._settings.max_output_tokens)
        weight = weight_of(self._settings.weights, name or "")
        images = self._settings.image_tokens
        cost = bound(codec.outbounds, use, model, most=most, image_tokens=images, weight=weight)
        grant = await self._grant(exchange, limits, cost)
        exchange.quotas = _quotas(grant.standings)
        exchange.charged_at = datetime.fromtimestamp(grant.at, UTC) if grant.standings else None
        exchange.prompt_estimate = cost.prompt_estimate if cost.prompt_estimate < UNBOUNDED else None
        exchange.output_bound = None if most is None else grant.output
        if most is not None and cost.output:
            sent = bounded(codec.outbounds, cost, grant.output)
            if sent is not codec.outbounds:
                codec.resolved(sent)

    def settle(self, exchange: Exchange) -> None:
        """The exchange has ended: count what it has cost, if it was admitted under limits."""
        if not exchange.quotas:
            return
        if exchange.node is None:
            self._store.cancel(exchange.id)
        else:
            usage = exchange.usage
            self._store.settle(exchange.id, Spent(usage.prompt_tokens or 0, usage.output_tokens or 0))

    async def _grant(self, exchange: Exchange, limits: Sequence[Limit], cost: Cost) -> Grant:
        asked_at = time.time()  # no later than the counts were looked at, whose windows end with a whole second
        outcome = await self._reserve(exchange.id, limits, cost)
        self._warnings.look(outcome.standings)
        if isinstance(outcome, Refusal):
            exchange.quotas = _quotas(outcome.standings)
            self._metrics.limit_refusals.labels(outcome.standing.limit.scope.meter.value).inc()
            raise _refused(outcome, cost, asked_at)
        return outcome

    async def _reserve(self, id: UUID, limits: Sequence[Limit], cost: Cost) -> Grant | Refusal:
        """Of all limits that can be counted now."""
        while True:
            unknown: Collection[Counter] | None = None
            try:
                outcome = await self._store.reserve(id, limits, cost)
                if not isinstance(outcome, Unknown):
                    return outcome
                unknown = outcome.counters
                await self._seeding.fill(outcome.counters)
            except (Uncountable, Unavailable):
                limits = _without(limits, [limit.counter for limit in limits] if unknown is None else unknown)
                self._metrics.limit_uncounted.inc()


def settle_left(store: Store, row: UsageRecord) -> None:
    """Settle what a process that is no more had reserved."""
    if row.node is None:
        store.cancel(row.id)
    else:
        store.settle(row.id, Spent(row.prompt_tokens or 0, row.output_tokens or 0))


def _name(codec: Codec) -> str | None:
    outbound = codec.outbounds[0]
    return outbound.target or outbound.model


def _fits(pattern: str, model: str | None) -> bool:
    return model is not None and matches((pattern,), model)


def _without(limits: Iterable[Limit], uncounted: Collection[Counter]) -> Sequence[Limit]:
    """The limits that can be counted. Raises Unavailable when one of the others does not let requests through then."""
    found = [limit for limit in limits if limit.counter not in uncounted]
    if not all(limit.open for limit in limits if limit.counter in uncounted):
        raise Unavailable("what was used cannot be counted now")
    return found


def _quotas(standings: Iterable[Standing]) -> Sequence[Quota]:
    return [Quota.of(limit, used + reserved, reset_at) for limit, used, reserved, reset_at in standings]


def _refused(refusal: Refusal, cost: Cost, now: float) -> OverLimit:
    standing = refusal.standing
    return over_limit(
        standing.limit,
        used=standing.used,
        reserved=standing.reserved,
        asked=_asked(standing.limit, cost),
        wait_s=refusal.retry_after_s,
        under_way=refusal.under_way,
        now=now,
    )


def _asked(limit: Limit, cost: Cost) -> int:
    """At least how much of the limit the request needs."""
    prompt = cost.prompt if limit.strict else cost.prompt_estimate
    tokens = {
        Meter.PROMPT_TOKENS: prompt,
        Meter.OUTPUT_TOKENS: cost.least_output,
        Meter.TOTAL_TOKENS: prompt + cost.least_output,
    }
    return ceil(tokens[limit.scope.meter] * cost.weight) if limit.scope.meter in tokens else 1
