"""What is set for the gateway families beside the settings file: its records, and how every process follows them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import orjson

from parallama.db.pool import Database
from parallama.db.query import load
from parallama.errors import Unavailable
from parallama.gateway.families import Document, Families, Family, merged, over

_QUERIES = load("gateways")
_RETRY_S = 0.5
_START_S = 10.0

_log = logging.getLogger("parallama.gateway")


class GatewayRecords:
    """The table `gateways`. Methods raise Unavailable when the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> Mapping[str, Document]:
        """What was set, by family."""
        rows = await self._database.fetch(_QUERIES.gateways)
        return {row["name"]: orjson.loads(row["settings"]) for row in rows}

    async def change(self, family: Family, patch: Callable[[Document], Document]) -> Document:
        """Set what `patch` makes of what is in force over what was set before, and return what is then in force; nobody
        else changes it meanwhile. A null takes a value of the settings file away, an empty patch changes nothing.
        Raises ConfigError, and nothing has changed, when that cannot be."""
        async with self._database.connection() as one, one.transaction():
            row = await one.fetchrow(_QUERIES.lock_gateway.sql, family.name)
            assert row is not None
            record = orjson.loads(row["settings"])
            if not (change := patch(merged(family.base, record))):
                return merged(family.base, record)
            record = over(record, change)
            document = merged(family.base, record)
            family.check(document)
            await one.execute(_QUERIES.set_gateway.sql, family.name, orjson.dumps(record).decode())
        return document

    async def forget(self, family: Family) -> None:
        """The settings file alone is in force again."""
        await self._database.execute(_QUERIES.delete_gateway, family.name)


class Following:
    """Keeps `families` as they are recorded. Give `on_change` and `on_reset` to the listener; use in `running()`."""

    def __init__(self, records: GatewayRecords, families: Families) -> None:
        self._records, self._families = records, families
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Read the records, and again whenever they have changed. Raises Unavailable when they cannot be read at the
        start."""
        try:
            async with asyncio.timeout(_START_S):
                await self._read_at_last()
        except TimeoutError:
            raise Unavailable("the database does not answer") from None
        task = asyncio.get_running_loop().create_task(self._follow(), name="settings of gateways")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    def on_change(self, kind: str) -> None:
        """Read again if the change is one of a `gateway`."""
        if kind == "gateway":
            self._changed.set()

    def on_reset(self) -> None:
        """Read again: changes may have been missed."""
        self._changed.set()

    async def _follow(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._read_at_last()

    async def _read_at_last(self) -> None:
        while True:
            try:
                return await self._read()
            except Unavailable:
                await asyncio.sleep(_RETRY_S)

    async def _read(self) -> None:
        for problem in self._families.overlay(await self._records.all()):
            _log.error("gateway settings not used", extra={"fields": {"problem": problem}})
