"""Every instrument in one list, with its unit and labels, and the children that the hot path uses.

No label names a user or a key: those figures come from the database. A model is named only when a node has it, else it
is `other`, so that the number of series is bounded by what is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache, partial

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
)

from parallama.exchange import Exchange
from parallama.histogram import Histogram
from parallama.version import __version__

# the buckets of vLLM, so that its dashboards carry over
_DURATION = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
_FIRST_BYTE = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560),
)
_SPEED = (1, 2, 5, 10, 15, 20, 30, 40, 50, 60, 80, 100, 125, 150, 200, 300, 500, 1000)
_Kind = tuple[str, str, int, str, str | None]
"""Of exchanges that are counted together: gateway, operation, status, outcome, model asked of the node."""
_FEWEST_TOKENS, _SHORTEST_S = 8, 0.05
"""Of a stream that tells how fast a model is: tool calls come all at once when they are complete."""


class Metrics:
    """The instruments of one process, on a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = _registry()
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        histogram = partial(Histogram, registry=registry)
        self.requests = counter(
            "parallama_requests_total",
            "Gateway requests that ended, by true status (499: the client left).",
            ("gateway", "operation", "status", "outcome"),
        )
        self.duration = histogram(
            "parallama_request_duration_seconds",
            "From accept to the end of the answer.",
            ("gateway", "operation"),
            buckets=_DURATION,
        )
        self.first_byte = histogram(
            "parallama_time_to_first_byte_seconds",
            "From accept to the first byte of the answer's body.",
            ("gateway", "operation"),
            buckets=_FIRST_BYTE,
        )
        self.tokens = counter(
            "parallama_tokens_total", "Tokens, by kind: prompt or output.", ("gateway", "model", "kind")
        )
        self.speed = histogram(
            "parallama_generation_tokens_per_second",
            "Of streams, from the first byte of the answer's body to its end.",
            ("model", "node"),
            buckets=_SPEED,
        )
        self.context_full = counter(
            "parallama_context_full_total",
            "Answers at whose end the model's context was full: the node cut the prompt or the answer.",
            ("gateway", "model"),
        )
        self.in_flight = gauge("parallama_requests_in_flight", "Gateway requests under way.", ("gateway",))
        self.node_up = gauge("parallama_node_up", "1: the node answered its last probe.", ("node",))
        self.node_latency = gauge("parallama_node_latency_seconds", "Of the node's last probe.", ("node",))
        self.node_in_flight = gauge("parallama_node_requests_in_flight", "Leases held on the node.", ("node",))
        self.node_errors = counter("parallama_node_errors_total", "Exchanges that the node broke.", ("node", "code"))
        self.malformed = counter(
            "parallama_malformed_requests_total", "Requests that are not HTTP as it is spoken here.", ("kind",)
        )
        self.records_pending = gauge("parallama_usage_records_pending", "Usage records not yet in PostgreSQL.")
        self.records_lost = gauge("parallama_usage_records_lost", "Usage records that PostgreSQL or the disk refused.")
        self.journal_bytes = gauge("parallama_journal_bytes", "Of the journals of this machine, on disk.")
        self.journal_damaged = gauge("parallama_journal_damaged", "Segments of journals found damaged.")
        self._add_limits(counter, gauge)
        self.database_up = gauge("parallama_database_up", "1: the database answers.")
        self.database_connections = gauge(
            "parallama_database_connections", "Connections of the pool, by state.", ("state",)
        )
        self.build = gauge("parallama_build_info", "Always 1; the version is in the label.", ("version",))
        self.build.labels(__version__).set(1)
        self._keep_children()

    def _add_limits(self, counter: Callable[..., Counter], gauge: Callable[..., Gauge]) -> None:
        """Of limits, of what looks after them, and of Redis, which counts them for several processes."""
        self.limit_refusals = counter(
            "parallama_limit_refusals_total", "Requests refused by a limit, by what it counts.", ("meter",)
        )
        self.limit_warnings = counter(
            "parallama_limit_warnings_total", "Limits found four fifths used, once a window.", ("meter",)
        )
        self.limit_uncounted = counter(
            "parallama_limit_uncounted_requests_total", "Requests let through while an open limit could not be counted."
        )
        self.limit_reservations = gauge("parallama_limit_reservations", "Requests that hold a part of a limit.")
        self.limit_overrun = gauge(
            "parallama_limit_overrun_tokens", "Tokens that requests cost beyond what they had reserved."
        )
        self.ledger_drift = gauge(
            "parallama_ledger_drift", "Found off when it was last looked at, and corrected: sums or counts.", ("kind",)
        )
        for kind in ("sums", "counts"):
            self.ledger_drift.labels(kind)
        self.ledger_leaked = gauge("parallama_ledger_leaked", "Reservations and leases found held for nobody.")
        self.redis_up = gauge("parallama_redis_up", "1: Redis answers; 0 too where there is none.")
        self.redis_owed = gauge("parallama_redis_owed", "Settlements that Redis has not acknowledged.")
        self.redis_lost = gauge("parallama_redis_lost", "Settlements that were given up, as too many waited.")

    def _keep_children(self) -> None:
        # `labels()` costs more than the count itself
        self._requests = lru_cache(4096)(self.requests.labels)
        self._tokens = lru_cache(4096)(self.tokens.labels)

    def end(self, ended: Iterable[tuple[Exchange, float]], named: Callable[[str], str | None]) -> None:
        """Count exchanges that have ended, each with its duration in seconds; `named` gives the node's own name of a
        model, None when no node has it."""
        groups: dict[_Kind, list[tuple[Exchange, float]]] = {}
        for one in ended:
            exchange = one[0]
            outcome = exchange.outcome._value_  # a member's `value` is a function
            kind = (exchange.gateway, exchange.operation, exchange.status, outcome, exchange.model)
            if (group := groups.get(kind)) is None:
                groups[kind] = [one]
            else:
                group.append(one)
        for (gateway, operation, status, outcome, asked), group in groups.items():
            self._requests(gateway, operation, str(status), outcome).inc(len(group))
            self._observe(gateway, operation, group)
            self._count(gateway, (asked and named(asked)) or "other", group)

    def _observe(self, gateway: str, operation: str, group: list[tuple[Exchange, float]]) -> None:
        self.duration.observe((gateway, operation), [duration_s for _, duration_s in group])
        first = [one.first_byte - one.started for one, _ in group if one.first_byte is not None]
        if first:
            self.first_byte.observe((gateway, operation), first)

    def _count(self, gateway: str, model: str, group: list[tuple[Exchange, float]]) -> None:
        if prompt := sum([one.usage.prompt_tokens or 0 for one, _ in group]):
            self._tokens(gateway, model, "prompt").inc(prompt)
        if output := sum([one.usage.output_tokens or 0 for one, _ in group]):
            self._tokens(gateway, model, "output").inc(output)
        for exchange, duration_s in group:
            if exchange.streamed and (speed := generation_speed(exchange, duration_s)) is not None:
                self.speed.observe((model, str(exchange.node)), [speed])
            if exchange.context_full:
                self.context_full.labels(gateway, model).inc()


def generation_speed(exchange: Exchange, duration_s: float) -> float | None:
    """Tokens a second of a stream that has ended after `duration_s`, the first of them with its first byte; None: it
    is no stream, its node did not count, or it is too short to tell."""
    tokens, first_byte_s = exchange.usage.output_tokens, exchange.first_byte_s
    if not exchange.streamed or not exchange.usage.final or first_byte_s is None:
        return None
    if tokens is None or tokens < _FEWEST_TOKENS or duration_s - first_byte_s < _SHORTEST_S:
        return None
    return (tokens - 1) / (duration_s - first_byte_s)


def _registry() -> CollectorRegistry:
    """A registry with what is known of every Python process."""
    registry = CollectorRegistry()
    GCCollector(registry)
    PlatformCollector(registry)
    ProcessCollector(registry=registry)
    return registry
