"""Looks at a node every few seconds: whether it answers, how fast, and what it has.

Models that are new are asked for beside that, each once, one after the other: a node that has many is not flooded.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import orjson

from parallama.config import NodeSettings
from parallama.errors import ApiError, Stopped, UpstreamFailed
from parallama.metrics import Metrics
from parallama.nodes.catalog import Catalog
from parallama.nodes.upstream import Upstream

_log = logging.getLogger("parallama.gateway")

_LIMIT_S = 5.0
"""For one question. A loading model can hold /api/ps up: that alone does not make a node dead."""
_MAX_BYTES = 32 * 1024 * 1024
_ASKING = {"Content-Type": "application/json", "X-Parallama-Probe": "models"}
"""Tells what we ask on our own account from what clients ask in the same way."""


class Health:
    """The state of one node as the probes see it; the operator's wishes are not its business."""

    def __init__(self, settings: NodeSettings, upstream: Upstream, catalog: Catalog, metrics: Metrics) -> None:
        self.up: bool | None = None
        """None: not asked yet."""
        self.latency_s: float | None = None
        """Of the last probe that was answered."""
        self._settings = settings
        self._upstream = upstream
        self._catalog = catalog
        self._wake = asyncio.Event()
        self._read = asyncio.Event()
        self._up_gauge = metrics.node_up.labels(settings.name)
        self._latency_gauge = metrics.node_latency.labels(settings.name)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Probe at once and then every `probe_s` seconds."""
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._watch(), name=f"health of {self._settings.name}"),
                group.create_task(self._describe(), name=f"models of {self._settings.name}"),
            ]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()

    def hurry(self) -> None:
        """Probe again now."""
        self._wake.set()

    async def check(self) -> bool:
        """One probe; whether the node answered. A node that does has its models read too."""
        started = time.monotonic()
        try:
            await self._ask("/api/version")
        except Stopped:  # we, not the node
            return False
        except ApiError as error:
            self._turn(up=False, why=str(error))
            return False
        self.latency_s = time.monotonic() - started
        self._latency_gauge.set(self.latency_s)
        self._turn(up=True)
        await self._read_models()
        return True

    async def _watch(self) -> None:
        while True:
            self._wake.clear()
            await self.check()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._settings.probe_s)

    def _turn(self, *, up: bool, why: str | None = None) -> None:
        self._up_gauge.set(up)
        if up != self.up:
            fields = {"node": self._settings.name, "reason": why}
            _log.log(
                logging.INFO if up else logging.WARNING,
                "node up" if up else "node down",
                extra={"fields": fields},
            )
        self.up = up

    async def _read_models(self) -> None:
        try:
            tags = await self._ask("/api/tags")
        except ApiError:
            return
        try:
            ps = await self._ask("/api/ps")
        except ApiError:
            ps = {}
        self._catalog.fill(tags, ps)
        self._read.set()

    async def _describe(self) -> None:
        """After each time that the models were read, ask for those not described; who fails is asked after the next."""
        while True:
            await self._read.wait()
            self._read.clear()
            for digest, name in self._catalog.undescribed().items():
                if self.up:
                    with suppress(ApiError):
                        self._catalog.describe(digest, await self._ask("/api/show", {"model": name}))

    async def _ask(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The document that the node answers; with `body` it is posted. Raises ApiError."""
        method, headers, sent = ("GET", {}, None) if body is None else ("POST", _ASKING, orjson.dumps(body))
        with await self._upstream.send(method, path, headers, sent, limit_s=_LIMIT_S, beside=True) as answer:
            if answer.head.status != 200:
                raise UpstreamFailed(f"{path} answered {answer.head.status}")
            try:
                found = orjson.loads(await answer.read(_MAX_BYTES))
            except orjson.JSONDecodeError as error:
                raise UpstreamFailed(f"{path} answered no JSON") from error
        if not isinstance(found, dict):
            raise UpstreamFailed(f"{path} answered no JSON object")
        return found
