"""What the server says of itself: discovery, status, liveness, readiness, metrics."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal

import orjson
from aiohttp import web
from prometheus_client.exposition import choose_encoder
from pydantic import WithJsonSchema

from parallama.admin.dialects import plain
from parallama.db.notify import Listener
from parallama.db.pool import Database
from parallama.gateway.families import Families, Family
from parallama.ledger.journal import Journal
from parallama.ledger.memory import MemoryStore
from parallama.ledger.shipper import Shipper
from parallama.metrics import Metrics
from parallama.nodes.pool import Pool
from parallama.traffic import WINDOW_S, Traffic
from parallama.version import __version__

if TYPE_CHECKING:
    from parallama.ledger.redis_store import RedisStore

Handler = Callable[[web.Request], Any]

LIVENESS = "Ollama is running"
"""What Ollama's clients look for at the root."""


@dataclass(frozen=True, slots=True)
class GatewayOverview:
    """A gateway that is on."""

    base_path: str
    """Where its paths begin, as far as they begin alike."""
    status: Literal["active"]
    features: list[str]
    """What its endpoints do, such as `chat`."""
    endpoints: list[str]
    """Those that are on, each as `METHOD /path`."""
    model_mappings: Mapping[str, str]
    """Names of models that only it has, each with the node's name for it."""


@dataclass(frozen=True, slots=True)
class Overview:
    """The server, and its gateways that are on, by name."""

    name: Literal["parallama"]
    version: str
    gateways: Mapping[str, GatewayOverview]


Reason = Literal["draining", "database", "redis", "journal"]
NodeState = Literal["operational", "degraded", "down"]


@dataclass(frozen=True, slots=True)
class GatewayStatus:
    """How a gateway fares."""

    status: NodeState | Literal["disabled"]
    """`degraded`: some nodes do not answer; `down`: none does."""
    latency_ms: float | None
    """The mean to the first byte; of a node's last probe when nothing was asked; null: unknown."""
    requests_per_second: float


@dataclass(frozen=True, slots=True)
class Status:
    """How every gateway fares, by name."""

    timestamp: Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
    window_s: float
    """The seconds that latency and rate are of."""
    gateways: Mapping[str, GatewayStatus]


@dataclass(frozen=True, slots=True)
class Health:
    """That the process runs."""

    status: Literal["ok"]


@dataclass(frozen=True, slots=True)
class Ready:
    """That it takes work."""

    status: Literal["ready"]


@dataclass(frozen=True, slots=True)
class NotReady:
    """That it takes none, and why."""

    status: Literal["not ready"]
    reasons: list[Reason]


class Readiness:
    """Whether this process takes work: the database answers, and so does Redis where limits are counted there, the
    journal takes entries, nobody has asked it to stop."""

    def __init__(self, listener: Listener, journal: Journal, store: MemoryStore | RedisStore) -> None:
        self._listener, self._journal, self._store = listener, journal, store
        self.draining = False
        self.over = False
        """Whether the time to drain is up, so that what still runs is cut off."""

    def reasons(self) -> list[Reason]:
        """Why it is not ready; empty when it is."""
        reasons: list[Reason] = ["draining"] if self.draining else []
        reasons += ["journal"] if self._journal.full else []
        reasons += ["database"] if self._listener.lost_since is not None else []
        return reasons if isinstance(self._store, MemoryStore) or self._store.answers else [*reasons, "redis"]


def root(families: Families) -> Handler:
    """`GET /`: the gateways that are on; Ollama's liveness text for `HEAD` and for those who ask for plain text."""

    async def root(request: web.Request) -> web.Response:
        if request.method == "HEAD" or request.headers.get("Accept", "").startswith("text/plain"):
            return await liveness(request)
        described = {family.name: _describe(family) for family in families if family.settings.enabled}
        return _json(Overview("parallama", __version__, described))

    return root


def _json(answer: object, **more: Any) -> web.Response:
    return web.Response(body=orjson.dumps(answer), content_type="application/json", charset="utf-8", **more)


async def liveness(_request: web.Request) -> web.Response:
    """Ollama's liveness text."""
    return web.Response(text=LIVENESS)


def _describe(family: Family) -> GatewayOverview:
    served = [one.serving for one in family.mounted]
    routes = [(one.gateway.paths[0], route) for one in served for route in one.routes.values() if one.open(route)]
    shared = os.path.commonpath([one.gateway.paths[0] for one in served])
    uses = dict.fromkeys(route.use.value for _, route in routes)
    endpoints = dict.fromkeys(
        f"{route.method} {mount}{plain(route.path)}" for mount, route in routes if not route.path.endswith("/")
    )
    return GatewayOverview(
        base_path=shared if shared != "/" else served[0].gateway.paths[0],
        status="active",
        features=list(uses),
        endpoints=list(endpoints),
        model_mappings=dict(served[0].aliases.names),
    )


def status(families: Families, pool: Pool, traffic: Traffic, settle: Callable[[], None]) -> Handler:
    """`GET /status`: each gateway's state, latency and request rate over the last minute.

    `settle` counts what has ended and is not counted yet.
    """

    async def status(_request: web.Request) -> web.Response:
        settle()
        now = time.monotonic()
        state, probe_s = _node_state(pool)
        report = {
            family.name: GatewayStatus(
                status=state if family.settings.enabled else "disabled",
                latency_ms=_ms(_or(traffic.latency_s(family.name, now), probe_s)),
                requests_per_second=round(traffic.requests_per_second(family.name, now), 3),
            )
            for family in families
        }
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return _json(Status(timestamp=stamp, window_s=WINDOW_S, gateways=report))

    return status


def _node_state(pool: Pool) -> tuple[NodeState, float | None]:
    """Of all nodes together, and the fastest node's probe in seconds."""
    up = [node.health for node in pool.nodes if node.health.up]
    probes = [health.latency_s for health in up if health.latency_s is not None]
    state: NodeState = "down" if not up else "operational" if len(up) == len(pool.nodes) else "degraded"
    return state, min(probes, default=None)


def _or(first: float | None, second: float | None) -> float | None:
    return second if first is None else first


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


async def healthz(_request: web.Request) -> web.Response:
    """`GET /healthz`: the process runs and answers."""
    return _json(Health("ok"))


def readyz(readiness: Readiness) -> Handler:
    """`GET /readyz`: 200, or 503 while draining, while the database or Redis does not answer or the journal takes
    nothing."""

    async def readyz(_request: web.Request) -> web.Response:
        if reasons := readiness.reasons():
            return _json(NotReady("not ready", reasons), status=503, headers={"Retry-After": "2"})
        return _json(Ready("ready"))

    return readyz


def metrics(
    instruments: Metrics,
    journal: Journal,
    shipper: Shipper,
    database: Database,
    listener: Listener,
    store: MemoryStore | RedisStore,
    settle: Callable[[], None],
) -> Handler:
    """`GET /metrics`: Prometheus text, or OpenMetrics for those who ask for it; `settle` as for `status`."""

    async def metrics(request: web.Request) -> web.Response:
        settle()
        instruments.records_pending.set(shipper.pending)
        instruments.records_lost.set(journal.lost + shipper.lost)
        instruments.journal_bytes.set(journal.taken)
        instruments.journal_damaged.set(shipper.damaged)
        instruments.limit_reservations.set(store.holds)
        instruments.limit_overrun.set(store.overrun)
        if not isinstance(store, MemoryStore):
            instruments.redis_up.set(store.answers)
            instruments.redis_owed.set(store.owed)
            instruments.redis_lost.set(store.lost)
        instruments.database_up.set(listener.lost_since is None)
        size, idle = database.size()
        instruments.database_connections.labels("busy").set(size - idle)
        instruments.database_connections.labels("idle").set(idle)
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(instruments.registry), headers={"Content-Type": content_type})

    return metrics
