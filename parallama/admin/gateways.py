"""What is set for the gateway families beside the settings file: its records, and how every process follows them."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import orjson

from parallama.background import beside
from parallama.db.pool import Database, Row
from parallama.db.query import load
from parallama.errors import ConfigError, Outdated, Unavailable
from parallama.gateway.families import Document, Families, Family, merged, over
from parallama.identity.actor import SERVER, Actor

_QUERIES = load("gateways")
_RETRY_S = 0.5
_START_S = 10.0

_log = logging.getLogger("parallama.gateway")


@dataclass(frozen=True, slots=True)
class GatewayRecord:
    """What was set for a family."""

    settings: Document
    """Over those of the settings file; a null takes a value of that away."""
    version: int
    """Counts the changes."""


NOTHING = GatewayRecord({}, 0)
"""The record of a family for which nothing was ever set."""


class GatewayRecords:
    """The table `gateways`, as `actor` changes it. Methods raise Unavailable when the database does not answer."""

    def __init__(self, database: Database, actor: Actor = SERVER) -> None:
        self._database, self._actor = database, actor

    async def all(self) -> Mapping[str, GatewayRecord]:
        """What was set, by family; NOTHING for those that were never set."""
        found = {row["name"]: _record(row) for row in await self._database.fetch(_QUERIES.gateways)}
        return defaultdict(lambda: NOTHING, found)

    async def change(
        self, family: Family, patch: Callable[[Document], Document], *, version: int | None = None
    ) -> GatewayRecord:
        """Set what `patch` makes of what is in force over what was set before, and return what is then recorded; nobody
        else changes it meanwhile. A null takes a value of the settings file away, an empty patch changes nothing.
        Raises ConfigError when that cannot be, Outdated when the record is not of this `version`: then nothing has
        changed."""

        def changed(settings: Document) -> Document:
            change = patch(merged(family.base, settings))
            return over(settings, change) if change else settings

        return await self._write(family, changed, version)

    async def forget(self, family: Family, *, version: int | None = None) -> GatewayRecord:
        """The settings file alone is in force again. Raises Outdated as `change` does."""
        return await self._write(family, lambda _: {}, version)

    async def _write(
        self, family: Family, changed: Callable[[Document], Document], version: int | None
    ) -> GatewayRecord:
        async with self._database.change(self._actor.told()) as one:
            await one.execute(_QUERIES.lock_gateways.sql)
            row = await one.fetchrow(_QUERIES.gateway.sql, family.name)
            record = NOTHING if row is None else _record(row)
            if version not in (None, record.version):
                raise Outdated(f"the gateway {family.name} has changed since: it is of version {record.version} now")
            settings = changed(record.settings)
            if settings == record.settings:
                return record
            family.check(merged(family.base, settings))
            text = _stored(family, settings)
            return GatewayRecord(settings, await one.fetchval(_QUERIES.set_gateway.sql, family.name, text))


def _stored(family: Family, settings: Document) -> str:
    text = orjson.dumps(settings).decode()
    if r"\u0000" in text.replace(r"\\", ""):
        raise ConfigError(f"gateways.{family.name}: this cannot be stored: a NUL in a text")
    return text


def _record(row: Row) -> GatewayRecord:
    return GatewayRecord(orjson.loads(row["settings"]), row["version"])


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
        async with beside(self._follow(), "settings of gateways"):
            yield

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
        recorded = {name: record.settings for name, record in (await self._records.all()).items()}
        for problem in self._families.overlay(recorded):
            _log.error("gateway settings not used", extra={"fields": {"problem": problem}})
