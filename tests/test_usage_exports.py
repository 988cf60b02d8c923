"""An export is whole, or can be seen not to be: what becomes of one while PostgreSQL has no connection for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest
from commands import Commands, at_server
from e2e.databases import named
from one_gateway import gateway, gateway_settings, in_one_loop, node, served
from running import PATIENT, RunningGateway
from usage_rows import eventually, make_row, store

from parallama import AsyncParallamaClient, ParallamaClient
from parallama.db.pool import Database
from parallama.db.query import Query
from parallama.errors import Unavailable, UpstreamFailed
from parallama.ledger import reports
from parallama.ledger.reports import Reports, Span, Which
from parallama.ledger.usage import UsageReports

if TYPE_CHECKING:
    from parallama.db.pool import Connection

__all__ = ["gateway", "gateway_settings", "node", "served"]
pytestmark = in_one_loop

MANY = """INSERT INTO usage (id, created_at, user_id, username, gateway, operation, estimated, duration_ms, status,
        outcome, streamed, request_bytes, response_bytes, error)
    SELECT (left(usage_floor(now())::text, 24) || lpad(to_hex(n), 12, '0'))::uuid, now(), gen_random_uuid(), $1,
        'ollama', 'chat', false, 1.5, 200, 'ok', true, 10, 20, repeat('x', 5000)
    FROM generate_series(1, 10000) AS n"""
"""50 MB: more than sockets hold."""
LAST_CHUNK = b"0\r\n\r\n"
FORMATS = pytest.mark.parametrize("format", ["json", "csv"])


class Counted(Database):
    """Says how often it had no connection."""

    refused = 0

    @asynccontextmanager
    async def connection(self, *, limit_s: float | None = None) -> AsyncIterator[Connection]:
        try:
            async with super().connection(limit_s=limit_s) as one:
                yield one
        except Unavailable:
            self.refused += 1
            raise


@asynccontextmanager
async def counted(gateway: RunningGateway) -> AsyncIterator[Counted]:
    """One connection to the gateway's database, for which nobody waits long."""
    scarce = PATIENT.model_copy(update={"pool_size": 1, "acquire_s": 0.01})
    async with Counted(gateway.database.url, scarce).running() as database:
        yield database


@asynccontextmanager
async def gone(gateway: RunningGateway) -> AsyncIterator[None]:
    """There is no connection to the database in the block."""
    name = urlsplit(gateway.database.url).path[1:]
    one = await asyncpg.connect(named(gateway.database.url, "postgres"))
    try:
        await one.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await one.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        yield
        await one.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    finally:
        await one.close()


@pytest.fixture
def nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "_PATIENCE_S", 0)


async def many(gateway: RunningGateway, name: str) -> None:
    await gateway.database.execute(Query("user", (), "INSERT INTO users (username) VALUES ($1)"), name)
    await gateway.database.execute(Query("many", (), MANY), name)


async def begun(gateway: RunningGateway, path: str, version: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The answer to a request, of which only the head was read, and no more is than a few KB."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1024)
    writer.write(f"GET {path} HTTP/{version}\r\nHost: x\r\nAuthorization: Bearer {gateway.admin_key}\r\n\r\n".encode())
    assert b" 200 " in await reader.readline()
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


async def rest(reader: asyncio.StreamReader) -> tuple[bytes, bool]:
    """What still came, and whether the connection was reset."""
    came = bytearray()
    try:
        while piece := await reader.read(1 << 16):
            came += piece
    except ConnectionResetError:
        return bytes(came), True
    return bytes(came), False


async def all_of(parts: AsyncIterator[Any]) -> list[Any]:
    return [part async for part in parts]


@asynccontextmanager
async def renamed(gateway: RunningGateway) -> AsyncIterator[None]:
    """A column of `usage` is called otherwise in the block."""
    await gateway.database.execute(Query("there", (), "ALTER TABLE usage RENAME COLUMN ttft_ms TO other"))
    try:
        yield
    finally:
        await gateway.database.execute(Query("back", (), "ALTER TABLE usage RENAME COLUMN other TO ttft_ms"))


ASKED: dict[str, Callable[[Database, Which], AsyncGenerator[Any, None]]] = {
    "rows": lambda database, which: UsageReports(database, "UTC").rows(which, Span()),
    "lines": lambda database, which: Reports(database, "UTC").lines(["model"], which, Span()),
}


@pytest.mark.parametrize("kind", ASKED)
async def test_who_has_half_of_a_document_gets_the_rest_when_there_is_a_connection_again(
    gateway: RunningGateway, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "_PART", 100)
    monkeypatch.setattr(reports, "_AGAIN_S", 0)
    user = uuid4()
    await store(gateway.database, [make_row(user_id=user, model=f"m{n}") for n in range(700)])
    async with counted(gateway) as database, aclosing(ASKED[kind](database, Which(user_id=user))) as parts:
        found = [await anext(parts)]
        async with asyncio.TaskGroup() as group:
            async with database.connection(limit_s=60):
                reading = group.create_task(all_of(parts))
                await eventually(lambda: database.refused > 1)
            found += await reading
    assert len(found) == 700


async def test_who_has_nothing_yet_is_told_at_once(gateway: RunningGateway) -> None:
    async with counted(gateway) as database, database.connection(limit_s=60):
        for ask in ASKED.values():
            with pytest.raises(Unavailable):
                await anext(ask(database, Which()))
        assert database.refused == len(ASKED)


@pytest.mark.usefixtures("nobody_waits")
@FORMATS
async def test_an_export_without_a_connection_for_its_next_part_ends_visibly_broken(
    gateway: RunningGateway, format: str
) -> None:
    await many(gateway, name := f"cut_{format}")
    path = f"/admin/v1/usage/export?user={name}&format={format}"
    reader, writer = await begun(gateway, path, "1.1")
    older, also = await begun(gateway, path, "1.0")
    async with gone(gateway):
        chunks, _ = await rest(reader)
        _, reset = await rest(older)
    assert len(chunks) > 1024
    assert chunks[-5:] != LAST_CHUNK
    assert reset
    for one in (writer, also):
        one.close()


async def test_an_export_that_fails_for_another_reason_ends_visibly_broken_too(gateway: RunningGateway) -> None:
    await many(gateway, "odd")
    reader, writer = await begun(gateway, "/admin/v1/usage/export?user=odd&format=csv", "1.1")
    async with renamed(gateway):
        chunks, _ = await rest(reader)
    assert chunks[-5:] != LAST_CHUNK
    assert b" 500 " not in chunks[-1000:]
    writer.close()


async def test_the_client_says_that_an_export_broke_off(gateway: RunningGateway) -> None:
    await many(gateway, "off")
    async with AsyncParallamaClient(base_url=gateway.url, api_key=gateway.admin_key) as client:
        async with aclosing(client.export("/admin/v1/usage/export?user=off")) as parts:
            await anext(parts)
            async with renamed(gateway):
                with pytest.raises(UpstreamFailed, match="broke off"):
                    await all_of(parts)


def waiting(gateway: RunningGateway, path: str) -> list[bytes]:
    with ParallamaClient(base_url=gateway.url, api_key=gateway.admin_key) as client:
        return list(client.export(path))


@FORMATS
async def test_an_export_is_the_same_here_and_there(gateway: RunningGateway, format: str, tmp_path: Path) -> None:
    await store(gateway.database, [make_row(username="pat", model="=1") for _ in range(3)])
    path = f"/admin/v1/usage/export?user=pat&format={format}"
    async with gateway.http.get(gateway.url + path, headers=gateway.admin_auth) as answer:
        whole = await answer.read()
    there = Commands(at_server(gateway.url, gateway.admin_key, tmp_path))
    assert (await there.said("usage", "export", "pat", format)).encode() == whole.replace(b"\r\n", b"\n")
    assert b"".join(await asyncio.to_thread(waiting, gateway, path)) == whole
    if format == "json":
        assert await there.told("usage", "list", "pat", "--model", "=1", "--json") == json.loads(whole)
    else:
        assert b",'=1," in whole
