"""A gateway on a real socket, a real database and a fake node, for tests."""

from __future__ import annotations

import asyncio
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from parallama.app import BOOKS, POOL, SHIPPER, build_app
from parallama.config import DatabaseSettings, Settings
from parallama.db.pool import Database
from parallama.db.query import Query
from parallama.identity.api_keys import ApiKeys
from parallama.identity.users import Users
from parallama.server import make_runner

CEILING_S = 30.0
"""Ten times and more of what is promised: only a hang reaches it."""

PATIENT = DatabaseSettings(acquire_s=60, connect_s=60, command_s=60)
"""For what tests themselves ask: that a machine is slow, or its disk, is not under test."""

HOUR_S = 3600
BACKLOG = 1024
"""Clients that come at once; the kernel turns more away for seconds."""

_TESTER = Query(
    "tester",
    (),
    """
    WITH tester AS (INSERT INTO roles (name, permissions) VALUES ('tester', '{use_*}') RETURNING id, name)
    INSERT INTO assignments (user_id, role_id, role, assigned_by)
    SELECT u.id, t.id, t.name, 'tests' FROM users u, tester t WHERE u.username = 'alice'
    """,
)


async def eventually(what: Callable[[], Any]) -> Any:
    """Poll `what` (sync or async) until it gives something true; fails at the ceiling."""
    async with asyncio.timeout(CEILING_S):
        while True:
            found = what()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.01)


async def early_in_an_hour(room_s: float = 20.0) -> None:
    """No hour ends in the next seconds, so no day or month of UTC does: what is charged now is read in the same one."""
    left_s = HOUR_S - time.time() % HOUR_S
    if left_s < room_s:
        await asyncio.sleep(left_s + 0.1)


@dataclass
class RunningGateway:
    """One process's gateway under test."""

    app: web.Application
    url: str
    port: int
    database: Database
    key: str
    """Of the user `alice`."""
    admin_key: str
    """Of the admin `root`."""
    http: aiohttp.ClientSession

    @property
    def auth(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    @property
    def admin_auth(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.admin_key}"}

    async def rows(self, count: int) -> list[dict[str, Any]]:
        """The usage rows once there are `count` of them, oldest first; more are a failure of the test that counts."""
        self.app[BOOKS].settle()
        await eventually(lambda: self.app[SHIPPER].pending == 0)
        async with self.database.connection() as one:

            async def enough() -> list[Any] | None:
                found = await one.fetch("SELECT * FROM usage ORDER BY id")
                return found if len(found) >= count else None

            found = await eventually(enough) if count else await one.fetch("SELECT * FROM usage")
        return [dict(row) for row in found]

    async def row(self) -> dict[str, Any]:
        """The one usage row that there is."""
        found = await self.rows(1)
        assert len(found) == 1, found
        return found[0]

    async def raw(self, sent: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A bare connection on which `sent` has been written."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(sent)
        await writer.drain()
        return reader, writer


async def make_users(database: Database) -> tuple[str, str]:
    """The keys of alice, who is basic and may use every gateway, and of the admin root."""
    users, keys = Users(database), ApiKeys(database)
    await users.create("alice")
    await users.create("root", admin=True)
    await database.execute(_TESTER)
    return (await keys.create("alice"))[0], (await keys.create("root"))[0]


@asynccontextmanager
async def running_gateway(
    database_url: str, node_url: str, settings: dict[str, Any] | None = None
) -> AsyncIterator[RunningGateway]:
    """The gateway in front of the node at `node_url`, with a user and an admin who have keys.

    Tests wait for its usage rows: it writes them sooner than by default.
    """
    usual = {
        "nodes": [{"name": "node-1", "url": node_url}],
        "usage": {"flush_ms": 10},
        "database": {"acquire_s": PATIENT.acquire_s},  # to have a connection takes its time on a busy machine
    }
    chosen = Settings.model_validate({**usual, **(settings or {})})
    listening = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    port = listening.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="pl-") as state:
        app = build_app(chosen, database_url, Path(state))
        runner = make_runner(app, chosen)
        async with (
            Database(database_url, PATIENT).running() as database,
            aiohttp.ClientSession(auto_decompress=False) as http,
        ):
            key, admin_key = await make_users(database)
            try:
                await runner.setup()
                await web.SockSite(runner, listening, backlog=BACKLOG).start()
                await eventually(lambda: app[POOL].nodes[0].health.up is not None)
                yield RunningGateway(app, f"http://127.0.0.1:{port}", port, database, key, admin_key, http)
            finally:
                await runner.cleanup()
