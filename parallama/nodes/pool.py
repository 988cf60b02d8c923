"""The nodes, and the leases on them: a request goes to a node only inside one.

One node for now; whoever takes a lease does not see how many there are.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Self

from parallama.config import NodeSettings
from parallama.errors import NoNode, Stopped
from parallama.metrics import Metrics
from parallama.nodes.catalog import Catalog
from parallama.nodes.health import Health
from parallama.nodes.upstream import Upstream

_LOOK_S = 10.0
_MODELS = 256


class Node:
    """One upstream server."""

    def __init__(self, settings: NodeSettings, metrics: Metrics) -> None:
        self.name = settings.name
        self.url = settings.url
        self.in_flight = 0
        self.upstream = Upstream(settings)
        self.catalog = Catalog()
        self.health = Health(settings, self.upstream, self.catalog, metrics)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep the connections and the health checks of this node alive."""
        async with self.upstream.running(), self.health.running():
            yield


class Lease:
    """One slot on one node, taken by entering it and given back by leaving it, whatever happens."""

    __slots__ = ("node",)

    def __init__(self, node: Node) -> None:
        self.node = node

    async def __aenter__(self) -> Self:
        self.node.in_flight += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        self.node.in_flight -= 1


class Pool:
    """All nodes."""

    def __init__(self, nodes: Sequence[NodeSettings], metrics: Metrics) -> None:
        self.nodes = tuple(Node(settings, metrics) for settings in nodes)
        for node in self.nodes:
            metrics.node_in_flight.labels(node.name).set_function(partial(getattr, node, "in_flight"))
        self._looked: dict[str, float] = {}
        """Models, and the monotonic second from which they are worth another look."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run every node."""
        async with AsyncExitStack() as stack:
            for node in self.nodes:
                await stack.enter_async_context(node.running())
            yield

    @property
    def catalog(self) -> Catalog:
        """What the nodes have."""
        return self.nodes[0].catalog

    def lease(self) -> Lease:
        """A slot on a node, to be entered (`async with`). Raises NoNode when there is none.

        A node whose probe fails is still tried: its true answer is better than a guess, and it is back at once.
        """
        if not self.nodes:
            raise NoNode("there is no node")
        return Lease(self.nodes[0])

    async def hear(self) -> None:
        """Fill the catalogue, before the first probe has: stubs of cloud models must be known."""
        await self.nodes[0].health.check()

    def stop(self) -> None:
        """End every exchange under way: the time for it is over."""
        for node in self.nodes:
            node.upstream.stop(Stopped("the gateway is stopping"))

    def answered(self, model: str) -> None:
        """A model that was not known to be loaded has answered: look at what is loaded, once in a while for each."""
        now = time.monotonic()
        if now >= self._looked.get(model, 0.0):
            if len(self._looked) >= _MODELS:
                self._looked.clear()
            self._looked[model] = now + _LOOK_S
            self.changed()

    def changed(self) -> None:
        """Look at the nodes again soon: their models may have changed."""
        for node in self.nodes:
            node.health.hurry()
