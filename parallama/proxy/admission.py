"""Whether a request fits into what its caller may use: reserved before a node is asked, settled when all is known.

Who has no limits pays nothing for any of this.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from math import ceil
from typing import NamedTuple

from parallama.config.settings import LimitsSettings
from parallama.errors import OverLimit, Unavailable
from parallama.exchange import Caller, Exchange, UsageRecord
from parallama.gateway.api import Codec, Use
from parallama.gateway.described import Model
from parallama.gateway.names import matches
from parallama.immutable import maker
from parallama.ledger.bounds import UNBOUNDED, bound, bounded, most_output
from parallama.ledger.seeds import Seeding, weight_of
from parallama.ledger.store import Cost, Grant, Refusal, Spent, Store, Uncountable, Unknown
from parallama.limits import EVERY, Counter, Limit, Meter
from parallama.metrics import Metrics
from parallama.nodes.catalog import Catalog
from parallama.proxy.speeds import COSTLY
from parallama.proxy.warnings import Warnings
from parallama.quotas import left_of, over_limit, policies_of_limits

_MOST_TERMS = 10_000
_LONGEST_NAME = 512
"""Characters of a model's name for which terms are kept."""


_spent = maker(Spent)


class _Terms(NamedTuple):
    """What the limits of a caller come to for requests through one gateway for one model."""

    all: tuple[Limit, ...]
    """Of the caller."""
    limits: tuple[Limit, ...]
    """Of them those that concern such requests."""
    most_output: int | None
    """As `bounds.most_output` says."""
    weight: float


class Admission:
    """Of one process."""

    def __init__(
        self, store: Store, seeding: Seeding, catalog: Catalog, settings: LimitsSettings, metrics: Metrics
    ) -> None:
        self._store, self._seeding, self._catalog, self._settings = store, seeding, catalog, settings
        self._metrics, self._image_tokens = metrics, settings.image_tokens
        self._terms: dict[tuple[int, str, str], _Terms] = {}
        """By the identity of all limits of the caller, which stays theirs as long as the terms have them."""
        self._warnings = Warnings(metrics)

    async def admit(self, exchange: Exchange, caller: Caller, use: Use, codec: Codec) -> None:
        """Reserve what the exchange may cost, and hold the node to it. Raises OverLimit, naming the limit that is in
        the way, and Unavailable when nobody can count now."""
        outbounds = codec.outbounds
        if not caller.limits or use not in COSTLY or not outbounds:
            return
        name = outbounds[0].target or outbounds[0].model or ""
        _, limits, most, weight = self._terms.get((id(caller.limits), exchange.gateway, name)) or self._agree(
            caller, exchange, name
        )
        if not limits:
            return
        model = self._catalog.described(name) if name else Model()
        cost = bound(outbounds, use, model, most, self._image_tokens, weight)
        while True:
            unknown: Collection[Counter] | None = None
            asked_at = time.time()  # no later than the counts are looked at, whose windows end with a whole second
            try:
                outcome = await self._store.reserve(exchange.id, limits, cost)
                if not isinstance(outcome, Unknown):
                    break
                unknown = outcome.counters
                await self._seeding.fill(outcome.counters)
            except (Uncountable, Unavailable):
                limits = _without(limits, [limit.counter for limit in limits] if unknown is None else unknown)
                self._metrics.limit_uncounted.inc()
        if isinstance(outcome, Refusal):
            raise self._refused(exchange, outcome, cost, asked_at)
        output = self._granted(exchange, outcome, cost.prompt_estimate)
        if most is not None:
            exchange.output_bound = output
            if cost.output and (sent := bounded(outbounds, cost, output)) is not outbounds:
                codec.resolved(sent)

    def settle(self, exchange: Exchange) -> None:
        """The exchange has ended: count what it has cost, if it was admitted under limits."""
        if exchange.quotas is None:
            return
        if exchange.node is None:
            self._store.cancel(exchange.id)
        else:
            usage = exchange.usage
            self._store.settle(exchange.id, _spent((usage.prompt_tokens or 0, usage.output_tokens or 0)))

    def _agree(self, caller: Caller, exchange: Exchange, name: str) -> _Terms:
        """Find out what is the same for all such requests."""
        gateways = EVERY, exchange.gateway
        limits = tuple(
            limit
            for limit in caller.limits
            if limit.scope.gateway in gateways
            and (limit.scope.model is None or (name and matches((limit.scope.model,), name)))
        )
        most = most_output(limits, self._settings.max_output_tokens)
        terms = _Terms(caller.limits, limits, most, weight_of(self._settings.weights, name))
        if len(name) > _LONGEST_NAME:  # a client's, perhaps as long as its body
            return terms
        if len(self._terms) >= _MOST_TERMS:
            self._terms.clear()
        self._terms[id(caller.limits), exchange.gateway, name] = terms
        return terms

    def _granted(self, exchange: Exchange, grant: Grant, prompt: int) -> int:
        """Note what was granted: so much output."""
        output, exchange.quotas, scarce, at = grant
        if exchange.quotas is not None:
            exchange.charged_at = at
        if prompt < UNBOUNDED:
            exchange.prompt_estimate = prompt
        if scarce:
            self._warnings.look(scarce)
        return output

    def _refused(self, exchange: Exchange, refusal: Refusal, cost: Cost, asked_at: float) -> OverLimit:
        exchange.quotas, scarce = left_of(
            policies_of_limits([limit for limit, *_ in refusal.standings]), refusal.standings
        )
        self._warnings.look(scarce)
        standing = refusal.standing
        self._metrics.limit_refusals.labels(standing.limit.scope.meter.value).inc()
        return over_limit(
            standing.limit,
            used=standing.used,
            reserved=standing.reserved,
            asked=_asked(standing.limit, cost),
            wait_s=refusal.retry_after_s,
            under_way=refusal.under_way,
            now=asked_at,
        )


def settle_left(store: Store, row: UsageRecord) -> None:
    """Settle what a process that is no more had reserved."""
    if row.node is None:
        store.cancel(row.id)
    else:
        store.settle(row.id, Spent(row.prompt_tokens or 0, row.output_tokens or 0))


def _without(limits: Iterable[Limit], uncounted: Collection[Counter]) -> tuple[Limit, ...]:
    """The limits that can be counted. Raises Unavailable when one of the others does not let requests through then."""
    found = tuple(limit for limit in limits if limit.counter not in uncounted)
    if not all(limit.open for limit in limits if limit.counter in uncounted):
        raise Unavailable("what was used cannot be counted now")
    return found


def _asked(limit: Limit, cost: Cost) -> int:
    """At least how much of the limit the request needs."""
    prompt = cost.prompt if limit.strict else cost.prompt_estimate
    tokens = {
        Meter.PROMPT_TOKENS: prompt,
        Meter.OUTPUT_TOKENS: cost.least_output,
        Meter.TOTAL_TOKENS: prompt + cost.least_output,
    }
    return ceil(tokens[limit.scope.meter] * cost.weight) if limit.scope.meter in tokens else 1
