"""The stop under load: whoever was accepted is answered once and whole, and every answer has its row."""

from __future__ import annotations

import asyncio
import itertools
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from asking import CHAT, STREAMS, Gate, bearer, node_path
from processes import Place, Running
from raw_http import CEILING_S, RawClient, raw_client, request_bytes
from running import eventually
from wire import Wire

from parallama.db.pool import Database
from parallama.db.query import Query
from parallama.drain import InFlight, close_idle, drain, turn_away
from parallama.identity.api_keys import ApiKeys
from parallama.identity.users import Users
from parallama.testing import Answer, FakeOllama

ASK = {"model": "llama3.2:1b", "prompt": "hello", "stream": False}
STREAM = {"model": "llama3.2:1b", "prompt": "hello"}
ROWS = Query("rows", (), "SELECT * FROM usage ORDER BY id")
SYN_SENT, ESTABLISHED = 2, 1
"""tcp(7): the first byte of TCP_INFO."""
LONG = 16 << 20
"""Bytes that no pair of socket buffers holds."""


@dataclass
class Server:
    """What `drain` works on, around one handler."""

    site: web.SockSite
    listening: socket.socket
    server: web.Server
    requests: InFlight
    port: int

    def connect(self) -> socket.socket:
        """A connection that is complete, while the event loop has not had a turn to accept it."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=CEILING_S)

    def drained(self, quiet_s: float = 0.0) -> asyncio.Task[None]:
        work = drain(self.site, self.listening, self.server, self.requests, quiet_s)
        return asyncio.get_running_loop().create_task(work)

    async def closed(self) -> None:
        await eventually(lambda: self.listening.fileno() == -1)


@asynccontextmanager
async def serving(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[Server]:
    requests = InFlight()
    app = web.Application(middlewares=[requests.middleware])
    app.router.add_route("*", "/", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    assert runner.server is not None
    listening = socket.create_server(("127.0.0.1", 0), backlog=128)
    site = web.SockSite(runner, listening)
    await site.start()
    try:
        yield Server(site, listening, runner.server, requests, listening.getsockname()[1])
    finally:
        await runner.cleanup()


async def hello(_request: web.Request) -> web.Response:
    return web.Response(text="hello")


def read_all(connection: socket.socket) -> bytes:
    with connection:
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


async def test_who_waits_in_the_queue_of_the_socket_is_answered() -> None:
    async with serving(hello) as server:
        clients = [server.connect() for _ in range(50)]
        for client in clients:
            client.sendall(request_bytes("GET", "/"))
        await server.drained()
        for client in clients:
            assert (await asyncio.to_thread(read_all, client)).endswith(b"\r\n\r\nhello")


async def test_nobody_connects_any_more_once_newcomers_are_turned_away() -> None:
    """Whoever connected between the last accept and the close would be reset."""
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as late:
        before = socket.create_connection(listening.getsockname())
        turn_away(listening)
        late.setblocking(False)
        late.connect_ex(listening.getsockname())
        assert _state(before) == ESTABLISHED
        assert _state(late) == SYN_SENT
        accepted, _ = listening.accept()
        with accepted, before:
            before.sendall(b"asked")
            assert accepted.recv(9) == b"asked"
            accepted.sendall(b"answered")
            assert before.recv(9) == b"answered"


def _state(connection: socket.socket) -> int:
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


async def test_who_has_connected_and_asks_only_after_the_socket_is_closed_is_answered() -> None:
    async with serving(hello) as server, raw_client(server.port) as client:
        await eventually(lambda: server.server.connections)
        drained = server.drained(quiet_s=CEILING_S)
        await server.closed()
        assert (await client.ask("GET", "/", None, "Connection: close")).body == b"hello"
        await drained


@pytest.mark.parametrize("turns", range(8))
async def test_a_request_is_answered_however_far_it_has_come_when_its_connection_is_to_be_closed(turns: int) -> None:
    """In the kernel, read, parsed, or with its handler: the event loop has had `turns` turns to look."""
    gate = asyncio.Event()

    async def held(_request: web.Request) -> web.Response:
        await gate.wait()
        return web.Response(text="hello")

    async with serving(held) as server:
        client = server.connect()
        await eventually(lambda: server.server.connections)
        client.sendall(request_bytes("GET", "/", None, "Connection: close"))
        for _ in range(turns):
            await asyncio.sleep(0)
        assert not await close_idle(server.server, server.requests)
        gate.set()
        assert (await asyncio.to_thread(read_all, client)).endswith(b"\r\n\r\nhello")


async def test_connections_that_nobody_uses_are_closed_without_a_reset() -> None:
    async with serving(hello) as server, raw_client(server.port) as used, raw_client(server.port) as unused:
        assert (await used.ask("GET", "/")).status == 200
        await server.drained()
        assert await used.reader.read() == b""  # a reset would raise
        assert await unused.reader.read() == b""


async def test_a_body_that_is_still_on_its_way_is_waited_for() -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    async with serving(echo) as server, raw_client(server.port) as client:
        asked = request_bytes("POST", "/", b"both halves", "Connection: close")
        await client.send(asked[:-5])
        await eventually(lambda: server.requests.count)
        drained = server.drained()
        await server.closed()
        await client.send(asked[-5:])
        assert (await client.answer()).body == b"both halves"
        await drained


async def test_an_answer_that_its_reader_takes_slowly_goes_out_whole() -> None:
    async def long(_request: web.Request) -> web.Response:
        return web.Response(body=bytes(LONG))

    async with serving(long) as server:
        client = server.connect()
        client.sendall(request_bytes("GET", "/", None, "Connection: close"))
        drained = server.drained()
        await server.closed()
        await asyncio.wait({drained}, timeout=0.5)
        assert not drained.done()
        _, _, body = (await asyncio.to_thread(read_all, client)).partition(b"\r\n\r\n")
        assert len(body) == LONG
        await drained


async def test_what_is_cut_off_has_ended_when_that_is_said() -> None:
    ended: list[str] = []

    async def endless(_request: web.Request) -> web.Response:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("ended")
        raise AssertionError

    async with serving(endless) as server, raw_client(server.port) as client:
        await client.send(request_bytes("GET", "/"))
        await eventually(lambda: server.requests.count)
        assert await server.requests.cut(lambda: None) == 1
        assert (server.requests.count, ended) == (0, ["ended"])


class Stuck(Wire):
    """A way to PostgreSQL on which everything can stand still."""

    def __init__(self, database_url: str) -> None:
        super().__init__(database_url)
        self.flows = Gate()
        self.flows.set()
        self.on_connect: Callable[[], None] = lambda: None

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self.on_connect()
        await self.flows.wait()
        return await super()._connect()

    async def _pipe(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: asyncio.StreamWriter | None
    ) -> None:
        held = asyncio.StreamReader()
        feeding = asyncio.get_running_loop().create_task(self._feed(reader, held))
        try:
            await super()._pipe(held, writer, client)
        finally:
            feeding.cancel()
            await asyncio.wait({feeding})

    async def _feed(self, reader: asyncio.StreamReader, held: asyncio.StreamReader) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                await self.flows.wait()
                held.feed_data(data)
        held.feed_eof()


@pytest.fixture
async def key(database: Database) -> str:
    await Users(database).create("alice", admin=True)
    made, _ = await ApiKeys(database).create("alice")
    return made


@pytest.fixture
async def stuck(database_url: str) -> AsyncIterator[Stuck]:
    async with Stuck(database_url).running() as wire:
        assert isinstance(wire, Stuck)
        try:
            yield wire
        finally:
            wire.flows.set()


def start(here: Place, node: FakeOllama, database_url: str, **env: Any) -> Running:
    nodes = {"PARALLAMA__NODES__0__NAME": "node-1", "PARALLAMA__NODES__0__URL": node.url}
    return here.start("serve", "--port", "0", **{"PARALLAMA_DB_URL": database_url, **nodes, **env})


async def serve(here: Place, node: FakeOllama, database_url: str, **env: Any) -> tuple[Running, int]:
    """A gateway that takes work, and its port."""
    running = start(here, node, database_url, **env)
    await asyncio.to_thread(running.ready)
    return running, int(running.url.rpartition(":")[2])


async def ended(running: Running) -> int:
    return await asyncio.to_thread(running.popen.wait, CEILING_S)


async def rows(database: Database) -> list[dict[str, Any]]:
    return [dict(row) for row in await database.fetch(ROWS)]


async def refused(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        return False
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()
    return False


@dataclass
class Load:
    """Clients that ask one thing after the other until nobody listens any more."""

    port: int
    key: str
    answered: int = 0
    failed: list[str] = field(default_factory=list)

    async def on_new_connections(self) -> None:
        with suppress(ConnectionRefusedError):
            while True:
                async with raw_client(self.port) as client:
                    await self._ask(client, "Connection: close")

    async def on_kept_connections(self) -> None:
        with suppress(ConnectionRefusedError):
            while True:
                async with raw_client(self.port) as client:
                    while await self._ask(client):
                        pass

    async def stream(self) -> None:
        async with raw_client(self.port) as client:
            await client.send(request_bytes("POST", "/api/generate", STREAM, bearer(self.key)))
            got = await client.answer()
            assert got.lines()[-1]["done"] is True
            self.answered += 1

    async def late(self, gate: asyncio.Event) -> None:
        """Connects now and asks when the gate opens."""
        async with raw_client(self.port) as client:
            await gate.wait()
            assert not await self._ask(client)

    async def _ask(self, client: RawClient, *headers: str) -> bool:
        """Whether the connection is good for another request."""
        try:
            got = await client.ask("POST", "/api/generate", ASK, bearer(self.key), *headers)
        except (OSError, EOFError) as error:
            self.failed.append(repr(error))
            return False
        if got.status == 200 and got.json()["done"]:
            self.answered += 1
        else:
            self.failed.append(got.head)
        return ("connection", "close") not in [(name.lower(), value.lower()) for name, value in got.headers]


@pytest.mark.parametrize("_round", range(10))
async def test_a_stop_under_load_fails_nobody_who_was_accepted(
    here: Place, node: FakeOllama, database_url: str, database: Database, key: str, _round: int
) -> None:
    running, port = await serve(here, node, database_url)
    rest, asked_late, load = asyncio.Event(), asyncio.Event(), Load(port, key)
    node.cue(Answer(hold_chunks=rest), "/api/generate", times=2)
    async with asyncio.timeout(CEILING_S), asyncio.TaskGroup() as group:
        streams = [group.create_task(load.stream()) for _ in range(2)]
        await eventually(lambda: len(node.seen("/api/generate")) == len(streams))
        many = (load.on_new_connections, load.on_kept_connections, lambda: load.late(asked_late))
        clients = [group.create_task(one()) for one in many * 6]
        await eventually(lambda: load.answered > 50)
        running.popen.send_signal(signal.SIGTERM)
        await eventually(lambda: refused(port))
        asked_late.set()
        await asyncio.wait(clients)
        rest.set()
    assert load.failed == []
    assert await ended(running) == 0
    stored = await rows(database)
    assert {(row["status"], row["outcome"]) for row in stored} == {(200, "ok")}
    assert len(stored) == load.answered
    assert "Traceback" not in running.err


async def test_readiness_falls_with_the_signal_and_the_stream_goes_on(
    here: Place, node: FakeOllama, database_url: str, database: Database, key: str
) -> None:
    running, port = await serve(here, node, database_url)
    rest = asyncio.Event()
    node.cue(Answer(hold_chunks=rest), "/api/chat")
    async with raw_client(port) as stream, raw_client(port) as kept:
        await stream.send(request_bytes("POST", "/api/chat", CHAT, bearer(key)))
        await stream.head()
        assert (await kept.ask("GET", "/readyz")).status == 200
        running.popen.send_signal(signal.SIGTERM)
        await eventually(lambda: "draining" in running.err)
        got = await kept.ask("GET", "/readyz")
        assert (got.status, dict(got.headers)["Connection"]) == (503, "close")
        assert await kept.reader.read() == b""
        rest.set()
        lines = [await stream.chunk() for _ in range(1)]
        while lines[-1]:
            lines.append(await stream.chunk())
    assert b'"done":true' in lines[-2]
    assert await ended(running) == 0
    (row,) = await rows(database)
    assert (row["status"], row["outcome"]) == (200, "ok")


async def test_a_node_that_hangs_does_not_outlast_the_drain(
    here: Place, node: FakeOllama, database_url: str, database: Database, key: str
) -> None:
    running, port = await serve(here, node, database_url, PARALLAMA__SERVER__DRAIN_S="0.3")
    node.cue(Answer(hold_head=Gate()), "/api/chat")
    async with raw_client(port) as client:
        await client.send(request_bytes("POST", "/api/chat", CHAT, bearer(key)))
        await node.request_for("/api/chat")
        running.popen.send_signal(signal.SIGTERM)
        got = await client.answer()
    assert (got.status, got.json()) == (503, {"error": "the gateway is stopping"})
    assert await ended(running) == 0
    (row,) = await rows(database)
    assert (row["status"], row["outcome"], row["error"]) == (503, "failed", "stopped")
    assert [line["requests_cut"] for line in running.logged() if line["event"] == "drain over"] == [1]


@pytest.mark.parametrize(("path", "body"), STREAMS)
async def test_a_stream_that_outlasts_the_drain_ends_with_a_line_that_says_so(
    here: Place, node: FakeOllama, database_url: str, database: Database, key: str, path: str, body: Any
) -> None:
    running, port = await serve(here, node, database_url, PARALLAMA__SERVER__DRAIN_S="0.3")
    node.cue(Answer(hold_chunks=asyncio.Event()), node_path(path))
    async with raw_client(port) as client:
        await client.send(request_bytes("POST", path, body, bearer(key)))
        head = await client.head()  # it has begun, however slow the machine is
        running.popen.send_signal(signal.SIGTERM)
        got = await client.answer(head=head)
    assert (got.status, got.framing) == (200, "chunked")
    *_, content, last = got.body.splitlines()
    assert b"error" not in content
    assert b"the gateway is stopping" in last
    assert await ended(running) == 0
    (row,) = await rows(database)
    assert (row["status"], row["outcome"], row["error"]) == (503, "failed", "stopped")


async def test_a_client_that_has_stopped_reading_does_not_outlast_the_drain(
    here: Place, node: FakeOllama, database_url: str, database: Database, key: str
) -> None:
    running, port = await serve(here, node, database_url, PARALLAMA__SERVER__DRAIN_S="0.3")
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % LONG
    node.cue(Answer(raw=[head, bytes(LONG)]), "/api/generate")
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(request_bytes("POST", "/api/generate", ASK, bearer(key)))
        await node.request_for("/api/generate")
        assert await asyncio.to_thread(running.end) == 0
    (row,) = await rows(database)
    assert (row["status"], row["outcome"], row["error"]) == (503, "failed", "stopped")


async def unwritten(port: int, key: str, stuck: Stuck, database: Database) -> None:
    """Have one request written and another one answered, whose record finds the database hanging."""
    async with raw_client(port) as client:
        assert (await client.ask("POST", "/api/generate", ASK, bearer(key))).status == 200
        await eventually(lambda: rows(database))

        async def known_as_written() -> bool:  # the process hears of the commit after everybody else sees the row
            metrics = (await client.ask("GET", "/metrics", None, bearer(key))).body
            return b"parallama_usage_records_pending 0.0" in metrics

        await eventually(known_as_written)
        stuck.flows.clear()
        assert (await client.ask("POST", "/api/generate", ASK, bearer(key))).status == 200


async def test_a_database_that_hangs_does_not_hold_the_stop_up_and_the_next_start_has_its_rows(
    here: Place, node: FakeOllama, stuck: Stuck, database: Database, key: str
) -> None:
    running, port = await serve(here, node, stuck.url)
    await unwritten(port, key, stuck, database)
    assert await asyncio.to_thread(running.end) == 0
    assert '"records_pending":1' in running.err.splitlines()[-1]
    assert len(await rows(database)) == 1
    stuck.flows.set()
    running, _ = await serve(here, node, stuck.url)

    async def both() -> bool:
        return len(await rows(database)) == 2

    await eventually(both)
    assert await asyncio.to_thread(running.end) == 0


async def test_a_second_signal_counts_the_records_that_wait(
    here: Place, node: FakeOllama, stuck: Stuck, database: Database, key: str
) -> None:
    running, port = await serve(here, node, stuck.url)
    await unwritten(port, key, stuck, database)
    running.popen.send_signal(signal.SIGTERM)
    await eventually(lambda: refused(port))
    assert await asyncio.to_thread(running.end) == 1
    last = running.err.splitlines()[-1]
    assert last == "stopped at once by SIGTERM: 0 requests cut off, 1 usage records wait in the journal"
    assert len(await rows(database)) == 1


async def port_of(running: Running) -> int:
    """The port of a process that may not be ready yet."""

    def found() -> int | None:
        assert running.popen.poll() is None, running.err
        inodes = set()
        for link in Path(f"/proc/{running.popen.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed since
                inodes.add(link.readlink().name)
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A" and f"socket:[{rest[5]}]" in inodes:
                return int(local.rpartition(":")[2], 16)
        return None

    return int(await eventually(found))


async def test_a_stop_during_the_start_answers_who_has_connected_already(
    here: Place, node: FakeOllama, stuck: Stuck, database: Database, key: str
) -> None:
    connections, held = itertools.count(), asyncio.Event()

    def hold_the_second() -> None:
        if next(connections) == 1:  # the first looks at the schema, before there is anybody to serve
            stuck.flows.clear()
            held.set()

    stuck.on_connect = hold_the_second
    running = start(here, node, stuck.url)
    await eventually(held.is_set)
    async with raw_client(await port_of(running)) as client:
        await client.send(request_bytes("POST", "/api/generate", ASK, bearer(key)))
        running.popen.send_signal(signal.SIGTERM)
        stuck.flows.set()
        got = await client.answer()
    assert got.status == 200
    assert await ended(running) == 0
    (row,) = await rows(database)
    assert row["outcome"] == "ok"


async def test_a_stop_while_the_start_looks_at_the_database_ends_in_order(
    here: Place, node: FakeOllama, stuck: Stuck
) -> None:
    stuck.on_connect = stuck.flows.clear
    running = start(here, node, stuck.url)
    await eventually(stuck.flows.reached.is_set)
    assert await asyncio.to_thread(running.end) == 0
    assert "Traceback" not in running.err
