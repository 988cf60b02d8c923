"""A private PostgreSQL that can be killed, stopped and started again."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from processes import alive, cluster_pids, wait_for

from parallama.db.cluster import Cluster
from parallama.db.embedded import embedded
from parallama.db.migrate import migrate


class OwnPostgres:
    """At `url` while it runs."""

    def __init__(self, state: Path, url: str) -> None:
        self._cluster = Cluster.of(state)
        self.url = url

    def stop(self) -> None:
        """It hangs, until it goes on: no connection is taken, none answers."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """After `stop`."""
        self._signal(signal.SIGCONT)

    async def kill(self) -> None:
        """At once, all of it."""
        pids = self._signal(signal.SIGKILL)
        await asyncio.to_thread(wait_for, lambda: not alive(pids))

    async def start(self) -> None:
        """After `kill`, until it answers."""
        await asyncio.to_thread(lambda: self._cluster.launch(self._cluster.prepare()))
        while not await self._cluster.answers():
            await asyncio.sleep(0.01)

    def _signal(self, number: signal.Signals) -> list[int]:
        pids = cluster_pids(self._cluster.data)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        return pids


@asynccontextmanager
async def own_postgres(state: Path) -> AsyncIterator[OwnPostgres]:
    """One that runs, with the schema. It outlives no block, whatever has become of it."""
    async with embedded(state) as url:
        await migrate(url)
        server = OwnPostgres(state, url)
        try:
            yield server
        finally:
            server.go_on()
