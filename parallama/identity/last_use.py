"""When each key was used last: remembered, and written every few seconds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from uuid import UUID

from parallama.background import beside
from parallama.db.pool import Database
from parallama.db.query import load
from parallama.errors import Unavailable
from parallama.identity.recent import Recent

_KEYS = load("api_keys")

_log = logging.getLogger("parallama.auth")


class LastUse:
    """The uses of at most `size` keys that are not yet written. `put` is all that a request waits for."""

    def __init__(self, database: Database, size: int, flush_s: float) -> None:
        self._database, self._flush_s = database, flush_s
        self._used: Recent[UUID, datetime] = Recent(size)
        self.put = self._used.put

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write them every `flush_s`, and on leaving."""
        try:
            async with beside(self._flush_always(), "callers: last use of keys"):
                yield
        finally:
            await self._flush()

    async def _flush_always(self) -> None:
        while True:
            await asyncio.sleep(self._flush_s)
            await self._flush()

    async def _flush(self) -> None:
        """Write the last uses; those that cannot be written now are kept for the next time."""
        batch = dict(self._used)
        if not batch:
            return
        try:
            await self._database.execute(_KEYS.mark_used, list(batch), list(batch.values()))
        except Unavailable:
            _log.warning("last use of keys not written", extra={"fields": {"keys": len(batch)}})
            return
        for key_id, used_at in batch.items():
            if self._used.get(key_id) == used_at:
                del self._used[key_id]
