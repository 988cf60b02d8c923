"""The nodes, and the leases on them: a request goes to a node only inside one.

One node for now; whoever takes a lease does not see how many there are.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from parallama.config import NodeSettings
from parallama.errors import NoNode
from parallama.metrics import Metrics
from parallama.nodes.catalog import Catalog
from parallama.nodes.health import Health
from parallama.nodes.upstream import Upstream


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


@dataclass(frozen=True, slots=True)
class Lease:
    """One slot on one node, held inside `Pool.lease`."""

    node: Node


class Pool:
    """All nodes."""

    def __init__(self, nodes: Sequence[NodeSettings], metrics: Metrics) -> None:
        self.nodes = tuple(Node(settings, metrics) for settings in nodes)
        self._gauge = {node.name: metrics.node_in_flight.labels(node.name) for node in self.nodes}

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

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Lease]:
        """A slot on a node, given back at the end of the block whatever happens. Raises NoNode when there is none.

        A node whose probe fails is still tried: its true answer is better than a guess, and it is back at once.
        """
        if not self.nodes:
            raise NoNode("there is no node")
        node = self.nodes[0]
        node.in_flight += 1
        self._gauge[node.name].inc()
        try:
            yield Lease(node)
        finally:
            node.in_flight -= 1
            self._gauge[node.name].dec()

    async def heard(self) -> None:
        """Make sure that the catalogue has been filled once, so that stubs of cloud models are known."""
        if not self.catalog.heard:
            await self.nodes[0].health.check()

    def changed(self) -> None:
        """Look at the nodes again soon: their models may have changed."""
        for node in self.nodes:
            node.health.hurry()
