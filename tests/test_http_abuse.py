"""Requests that are not HTTP as it is spoken here: refused, counted, logged without a byte of them, and closed."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any
from uuid import UUID

import pytest
from asking import CHAT, UNARY, asked, at_rest, bearer, under_way
from kept_gateway import ALONE, in_one_loop
from kept_gateway import alone as alone
from kept_gateway import gateway as gateway
from kept_gateway import gateway_settings as gateway_settings
from kept_gateway import kept_gateways as kept_gateways
from kept_gateway import node as node
from kept_gateway import served as served
from raw_http import Got, RawClient, raw_client, request_bytes
from running import RunningGateway, eventually

from parallama.testing import Answer, FakeOllama

pytestmark = in_one_loop

CANARY = "canary7"
"""In the bytes of most requests here; it must come out nowhere."""

MB = 1 << 20
NATIVE, SIMPLE, EDGE = f"/api/tags?{CANARY}", f"/ollama/v1/models?{CANARY}", f"/{CANARY}"


def head(line: str, *headers: str, host: str = "Host: localhost") -> bytes:
    return "\r\n".join([line, host, f"X-Canary: {CANARY}", *headers, "", ""]).encode()


def post(path: str, *headers: str, version: str = "1.1") -> bytes:
    return head(f"POST {path} HTTP/{version}", *headers)


CHUNKED = "Transfer-Encoding: chunked"

JUDGED: dict[str, tuple[Callable[[str], bytes], int]] = {
    "chunked in HTTP/1.0": (lambda path: post(path, CHUNKED, version="1.0") + b"0\r\n\r\n", 400),
    "two codings": (lambda path: post(path, "Transfer-Encoding: gzip, chunked") + b"0\r\n\r\n", 400),
    "no coding": (lambda path: post(path, "Transfer-Encoding: "), 400),
    "an odd host": (lambda path: head(f"GET {path} HTTP/1.1", host="Host: a/b@c"), 400),
    "a host with a user": (lambda path: head(f"GET {path} HTTP/1.1", host="Host: user@a"), 400),
    "a host with a space": (lambda path: head(f"GET {path} HTTP/1.1", host="Host: a b"), 400),
    "a port without a host": (lambda path: head(f"GET {path} HTTP/1.1", host="Host: :80"), 400),
    "a port that is none": (lambda path: head(f"GET {path} HTTP/1.1", host="Host: a:8x"), 400),
    "TRACE": (lambda path: head(f"TRACE {path} HTTP/1.1"), 501),
    "an unknown expectation": (lambda path: post(path, f"Expect: {CANARY}", "Content-Length: 3"), 417),
}
"""Heads that can be read, and are refused: the request for a path, and the status."""

UNREADABLE = {
    "another host than Host": (head("GET http://other/api/tags HTTP/1.1"), 400),
    "a target with a user": (head("GET http://me@localhost/api/tags HTTP/1.1"), 400),
    "a target of another scheme": (head("GET ftp://localhost/api/tags HTTP/1.1"), 400),
    "a target with a fragment": (head(f"GET /api/tags#{CANARY} HTTP/1.1"), 400),
    "a target that is no path": (head(f"GET {CANARY} HTTP/1.1"), 400),
    "a star that asks": (head("GET * HTTP/1.1"), 400),
    "CONNECT": (head("CONNECT localhost:80 HTTP/1.1", host="Host: localhost:80"), 501),
    "HTTP/2.0": (head("GET /api/tags HTTP/2.0"), 505),
    "HTTP/0.9": (head("GET /api/tags HTTP/0.9"), 505),
    "HTTP/0.9 without a head": (b"GET /api/tags\r\n\r\n", 505),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 505),
    "HTTP/1.2": (head("GET /api/tags HTTP/1.2"), 400),
    "RTSP": (head("GET /api/tags RTSP/1.0"), 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + CANARY.encode(), 400),
    "two spaces before the target": (head("GET  /api/tags HTTP/1.1"), 400),
    "two spaces behind the target": (head("GET /api/tags  HTTP/1.1"), 400),
    "a tab": (head("GET\t/api/tags HTTP/1.1"), 400),
    "a space in front": (head(" GET /api/tags HTTP/1.1"), 400),
    "an unknown method": (head(f"{CANARY.upper()} /api/tags HTTP/1.1"), 400),
    "garbage": (b"\0\1\2" + CANARY.encode() + b"\r\n\r\n", 400),
    "two hosts": (head("GET /api/tags HTTP/1.1", "Host: localhost"), 400),
    "no host": (head("GET /api/tags HTTP/1.1", host="X-Not: host"), 400),
    "a length and chunks": (post("/api/chat", CHUNKED, "Content-Length: 3") + b"0\r\n\r\n", 400),
    "two lengths": (post("/api/chat", "Content-Length: 3", "Content-Length: 4"), 400),
    "a length with a sign": (post("/api/chat", "Content-Length: +4"), 400),
    "a space before the colon": (head("GET /api/tags HTTP/1.1", "X-Odd : 1"), 400),
    "a folded header": (head("GET /api/tags HTTP/1.1", "X-Odd: 1", " 2"), 400),
    "a NUL": (head("GET /api/tags HTTP/1.1", "X-Odd: \0"), 400),
    "lines that end with LF": (head("GET /api/tags HTTP/1.1").replace(b"\r\n", b"\n"), 400),
    "200 headers": (head("GET /api/tags HTTP/1.1", *(f"X-{n}: {CANARY}" for n in range(200))), 400),
    "a header of 100 KB": (head("GET /api/tags HTTP/1.1", "X-Long: " + CANARY * 15_000), 400),
    "a target of 100 KB": (head(f"GET /{CANARY * 15_000} HTTP/1.1"), 400),
    "200 trailers": (
        post("/api/chat", CHUNKED) + b"0\r\n" + b"".join(b"X-%d: 1\r\n" % n for n in range(200)) + b"\r\n",
        400,
    ),
}
"""Requests whose path is not known, and the status."""


@asynccontextmanager
async def meanwhile(sending: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Send during the block, unless the gateway does not take it."""

    async def send() -> None:
        with suppress(ConnectionError):
            await sending

    async with asyncio.TaskGroup() as group:
        task = group.create_task(send(), name="sending")
        yield
        task.cancel()


async def closes(client: RawClient) -> bool:
    """Whether the gateway closes the connection, without a further byte."""
    try:
        return await client.reader.read() == b""
    except ConnectionError:
        return True


async def last_answer(client: RawClient) -> Got:
    """The answer, after which the connection closes."""
    got = await client.answer()
    assert await closes(client)
    return got


def check_tells_nothing(got: Got, status: int) -> None:
    assert got.status == status
    headers = {name.lower(): value for name, value in got.headers}
    assert UUID(headers["x-request-id"]).version == 7
    assert headers["connection"] == "close"
    assert headers["content-type"] == "application/json; charset=utf-8"
    assert "server" not in headers
    assert CANARY not in (got.head + got.body.decode()).lower()


@pytest.mark.parametrize("name", JUDGED)
@pytest.mark.parametrize("path", [NATIVE, SIMPLE, EDGE])
async def test_a_malformed_head_is_refused_in_the_dialect_of_its_path(
    gateway: RunningGateway, name: str, path: str
) -> None:
    make, status = JUDGED[name]
    async with raw_client(gateway.port) as client:
        await client.send(make(path))
        got = await last_answer(client)
    check_tells_nothing(got, status)
    error = got.json()["error"]
    assert isinstance(error, str) if path != EDGE else error["code"] == "bad_request"


@pytest.mark.parametrize("name", UNREADABLE)
async def test_what_is_no_request_is_refused(gateway: RunningGateway, name: str) -> None:
    request, status = UNREADABLE[name]
    async with raw_client(gateway.port) as client:
        await client.send(request)
        got = await last_answer(client)
    check_tells_nothing(got, status)
    assert got.json()["error"]["code"] == "bad_request"


@pytest.mark.parametrize("name", ["two spaces before the target", "two spaces behind the target", "HTTP/2.0"])
async def test_a_request_line_that_drips_is_judged_all_the_same(gateway: RunningGateway, name: str) -> None:
    request, status = UNREADABLE[name]
    async with raw_client(gateway.port) as client:
        for byte in request[: request.index(b"Host")]:
            await client.send(bytes([byte]))
            await asyncio.sleep(0)
        await client.send(request[request.index(b"Host") :])
        assert (await last_answer(client)).status == status


def chunked(body: bytes, size: int) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@pytest.mark.parametrize("framing", ["none", "length", "chunked", "two reads"])
async def test_a_kept_connection_is_judged_as_a_new_one(gateway: RunningGateway, framing: str) -> None:
    body = json.dumps(UNARY).encode()
    key = bearer(gateway.key)
    async with raw_client(gateway.port) as client:
        if framing == "none":
            await client.send(head("GET /api/version HTTP/1.1", key))
        elif framing == "length":
            await client.send(request_bytes("POST", "/api/chat", body, key))
        elif framing == "chunked":
            await client.send(post("/api/chat", key, CHUNKED) + chunked(body, 10))
        else:
            await client.send(request_bytes("POST", "/api/chat", body, key)[:-5])
            await eventually(lambda: under_way(gateway))
            await client.send(body[-5:])
        assert (await client.answer()).status == 200
        await client.send(head("GET  /api/version HTTP/1.1", key))
        assert (await last_answer(client)).status == 400


async def test_a_body_may_look_like_a_malformed_request(gateway: RunningGateway, node: FakeOllama) -> None:
    body = b"\r\n\r\nGET  / HTTP/9.9\r\n\r\n"
    async with raw_client(gateway.port) as client:
        whole = request_bytes("POST", "/api/chat", body, bearer(gateway.key))
        for at in (len(whole) - len(body), len(whole) - len(body) + 2):
            await client.send(whole[:at])
            await eventually(lambda: under_way(gateway))
            await client.send(whole[at:])
            got = await client.answer()
            assert got.status == 400, "Ollama does not read such JSON either"
            await at_rest(gateway)
        assert "Connection: close" not in got.head


async def test_requests_that_come_in_one_read_are_answered_in_order(gateway: RunningGateway) -> None:
    key = bearer(gateway.key)
    several = [
        request_bytes("POST", "/api/chat", UNARY, key),
        b"\r\n",
        post("/api/chat", key, CHUNKED) + chunked(json.dumps(UNARY).encode(), 9),
        head("GET /api/version HTTP/1.1", key),
        head("GET /nothing HTTP/1.1", key),
    ]
    async with raw_client(gateway.port) as client:
        await client.send(b"".join(several) * 12)
        for _ in range(12):
            assert [(await client.answer()).status for _ in range(4)] == [200, 200, 200, 404]
        await client.send(head("GET /api/version HTTP/1.1", key))
        assert (await client.answer()).status == 200


GOOD: dict[str, Callable[[str], bytes]] = {
    "no Host in HTTP/1.0": lambda key: f"GET /api/version HTTP/1.0\r\n{key}\r\n\r\n".encode(),
    "an empty Host": lambda key: head("GET /api/version HTTP/1.1", key, host="Host:"),
    "an IPv6 Host": lambda key: head("GET /api/version HTTP/1.1", key, host="Host: [::1]:8000"),
    "a Host of a container": lambda key: head("GET /api/version HTTP/1.1", key, host="Host: parallama_gateway-1:8000"),
    "the whole URL": lambda key: head("GET http://LOCALHOST/api/version HTTP/1.1", key),
    "empty lines in front": lambda key: b"\r\n\r\n" + head("GET /api/version HTTP/1.1", key),
    "bytes beyond ASCII": lambda key: head("GET /api/version HTTP/1.1", key, "X-Name: J\u00f6rg"),
    "a body": lambda key: head("GET /api/version HTTP/1.1", key, "Content-Length: 3") + b"abc",
    "a chunked body": lambda key: head("GET /api/version HTTP/1.1", key, CHUNKED) + b"3\r\nabc\r\n0\r\n\r\n",
    "trailers": lambda key: head("GET /api/version HTTP/1.1", key, CHUNKED) + b"0\r\nX-Trailer: 1\r\n\r\n",
    "a header of 60 KB": lambda key: head("GET /api/version HTTP/1.1", key, "X-Long: " + "x" * 60_000),
    "an Upgrade": lambda key: head("GET /api/version HTTP/1.1", key, "Connection: upgrade", "Upgrade: websocket"),
    "an expectation in HTTP/1.0": lambda key: head("GET /api/version HTTP/1.0", key, "Expect: 200-maybe"),
}


@pytest.mark.parametrize("name", GOOD)
async def test_what_is_odd_but_right_is_answered(gateway: RunningGateway, name: str) -> None:
    async with raw_client(gateway.port) as client:
        await client.send(GOOD[name](bearer(gateway.key)))
        got = await client.answer()
        assert (got.status, list(got.json())) == (200, ["version"])


@pytest.mark.parametrize("method", ["HEAD", "DELETE"])
async def test_a_body_where_none_is_wanted_does_no_harm(gateway: RunningGateway, node: FakeOllama, method: str) -> None:
    path = "/api/version" if method == "HEAD" else "/api/delete"
    async with asked(gateway, path, b"{}", method=method, admin=True) as client:
        assert (await client.answer(method)).status == (200 if method == "HEAD" else 400)
    async with asked(gateway, path, None, method=method, admin=True) as client:
        assert (await client.answer(method)).status == (200 if method == "HEAD" else 400)


@pytest.mark.parametrize("path", ["//api/tags", "/api//tags", "/api/../api/tags"])
async def test_a_path_that_ollama_would_redirect_is_not_found(gateway: RunningGateway, path: str) -> None:
    async with asked(gateway, path, None, method="GET") as client:
        assert (await client.answer()).status == 404


async def test_chunks_with_long_extensions_are_refused(gateway: RunningGateway, node: FakeOllama) -> None:
    async with raw_client(gateway.port) as client:
        await client.send(post("/api/chat", bearer(gateway.key), CHUNKED))
        await eventually(lambda: under_way(gateway))
        with_extension = b"1;" + CANARY.encode() * (MB // len(CANARY)) + b"\r\n{\r\n"
        await client.send(with_extension)
        got = await last_answer(client)
    assert (got.status, list(got.json())) == (400, ["error"])
    row = await gateway.row()
    assert (row["status"], row["outcome"], row["error"]) == (400, "refused", "bad_request")
    assert node.seen("/api/chat") == []


@pytest.mark.parametrize("flood", [b"1\r\n \r\n", b"000000000000000000000000000000001\r\n \r\n"])
async def test_a_flood_of_tiny_chunks_is_refused(gateway: RunningGateway, flood: bytes) -> None:
    async with raw_client(gateway.port) as client:
        await client.send(post("/api/chat", bearer(gateway.key), CHUNKED))
        await eventually(lambda: under_way(gateway))
        async with meanwhile(client.send(flood * (4 * MB // len(flood)))):
            assert (await client.answer()).status == 400
    assert (await gateway.row())["request_bytes"] < 2 * MB


async def test_tiny_chunks_as_such_are_read(gateway: RunningGateway, node: FakeOllama) -> None:
    body = json.dumps(UNARY).encode().ljust(50_000)
    async with raw_client(gateway.port) as client:
        await client.send(post("/api/chat", bearer(gateway.key), CHUNKED) + chunked(body, 1))
        assert (await client.answer()).status == 200
    assert (await node.request_for("/api/chat")).body == body


MANY_CHUNKS = 16_385
"""So many of one body, unread, make aiohttp pause its parser, which then stops at the next piece of any body."""


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_body_behind_one_of_very_many_chunks_is_read_to_its_end(gateway: RunningGateway, framing: str) -> None:
    many, whole = json.dumps(UNARY).encode().ljust(MANY_CHUNKS), json.dumps(UNARY).encode()
    length = f"Content-Length: {len(whole)}"
    last = chunked(whole, len(whole)) if framing == "chunked" else whole
    async with raw_client(gateway.port) as client:
        await client.send(post("/api/chat", bearer(gateway.key), CHUNKED) + chunked(many, 1))
        assert (await client.answer()).status == 200
        await client.send(post("/api/chat", bearer(gateway.key), length if framing == "length" else CHUNKED) + last)
        assert (await client.answer()).status == 200


async def test_a_head_without_end_is_refused(gateway: RunningGateway) -> None:
    async with raw_client(gateway.port) as client:
        await client.send(b"GET /api/tags HTTP/1.1\r\nHost: localhost\r\n")
        line = b"X-%03d: " + b"x" * 10_000 + b"\r\n"
        async with meanwhile(client.send(b"".join(line % n for n in range(100)))):
            assert (await client.answer()).status == 400


@pytest.mark.parametrize("path", ["/api/chat", "/ollama/v1/chat"])
@pytest.mark.parametrize("broken", [b"zz\r\n", b"-1\r\n", b"5\r\n{    }\r\n", b"0\r\nContent Length: 1\r\n\r\n"])
async def test_a_chunk_that_is_framed_wrongly_is_refused_at_once(
    gateway: RunningGateway, node: FakeOllama, path: str, broken: bytes
) -> None:
    """With the longest silence at its default, which is beyond what the test waits for."""
    async with raw_client(gateway.port) as client:
        await client.send(post(path, bearer(gateway.key), CHUNKED) + b"1\r\n{\r\n")
        await eventually(lambda: under_way(gateway))
        await client.send(broken)
        got = await last_answer(client)
    assert (got.status, list(got.json())) == (400, ["error"])
    row = await gateway.row()
    assert (row["status"], row["outcome"], row["error"]) == (400, "refused", "bad_request")
    assert node.seen("/api/chat") == []


async def test_an_upload_that_is_framed_wrongly_is_refused_at_once(gateway: RunningGateway, node: FakeOllama) -> None:
    path = "/api/blobs/sha256:" + "0" * 64
    async with raw_client(gateway.port) as client:
        await client.send(post(path, bearer(gateway.admin_key), CHUNKED) + b"1\r\n{\r\n")
        await eventually(lambda: [seen for seen in node.requests if "/blobs/" in seen.path])
        await client.send(b"zz\r\n")
        assert (await last_answer(client)).status == 400
    row = await gateway.row()
    assert (row["status"], row["outcome"], row["error"]) == (400, "refused", "bad_request")
    await at_rest(gateway)


@ALONE
async def test_garbage_behind_a_request_waits_for_its_answer(gateway: RunningGateway, node: FakeOllama) -> None:
    node.cue(Answer(hold_head=(gate := asyncio.Event())), "/api/chat")
    async with asked(gateway, "/api/chat", UNARY) as client:
        await node.request_for("/api/chat")
        for _ in range(50):
            await client.send(b"\0garbage\r\n\r\n" * 1000)
        gate.set()
        assert (await client.answer()).status == 200
        assert (await last_answer(client)).status == 400
    assert (await gateway.row())["outcome"] == "ok"
    assert sum((await counted(gateway)).values()) == 1, "however many reads it took"


@pytest.mark.parametrize("path", ["/nothing", "/api/nothing", "/ollama/v1/nothing", "/api/tags", "/ollama/v1/models"])
async def test_nobody_is_asked_for_the_body_of_a_request_that_leads_nowhere(gateway: RunningGateway, path: str) -> None:
    async with raw_client(gateway.port) as client:
        await client.send(post(path, bearer(gateway.key), "Expect: 100-continue", "Content-Length: 5"))
        got = await client.answer()
        assert got.status == (405 if path in ("/api/tags", "/ollama/v1/models") else 404), (
            "the final answer comes first"
        )
        assert "Connection: close" in got.head


EARLY = {
    "no key": ("/api/chat", [bearer("plm_nothing")], 401),
    "no path": ("/api/nothing", ["alice"], 404),
    "no gateway": ("/nothing", [], 404),
    "no method": ("/api/tags", ["alice"], 405),
    "too large": ("/api/chat", ["alice"], 413),
    "not allowed": ("/api/blobs/sha256:" + "0" * 64, ["alice"], 403),
}


@pytest.mark.parametrize("gateway_settings", [{"server": {"max_body_mb": 1}}])
@pytest.mark.parametrize("name", EARLY)
@pytest.mark.parametrize("framing", ["Content-Length: 209715200", CHUNKED])
async def test_the_body_of_a_refused_request_is_not_read(gateway: RunningGateway, name: str, framing: str) -> None:
    """Besides what the sockets hold, which is a few MB, only a small buffer of it is taken."""
    path, headers, status = EARLY[name]
    lines = [bearer(gateway.key) if line == "alice" else line for line in headers]
    async with raw_client(gateway.port) as client:
        await client.send(post(path, *lines, framing))
        sent = 0
        piece = bytes(MB)

        async def upload() -> None:
            nonlocal sent
            while sent < 200:
                await client.send(b"%x\r\n%b\r\n" % (MB, piece) if framing == CHUNKED else piece)
                sent += 1

        async with meanwhile(upload()):
            got = await client.answer()
            assert (got.status, got.headers.count(("Connection", "close"))) == (status, 1)
            assert await client.reader.read() == b"", "it closes"
    assert sent < 30


SLOW = pytest.mark.parametrize("gateway_settings", [{"server": {"head_s": 0.3}}])
FRAGMENTS = [b"G", b"GET /api/tags HT", b"GET /api/tags HTTP/1.1\r\nHost: loc", head("GET /api/tags HTTP/1.1")[:-2]]


@SLOW
@pytest.mark.parametrize("fragment", FRAGMENTS)
async def test_a_head_that_stays_unfinished_is_given_up(gateway: RunningGateway, fragment: bytes) -> None:
    async with raw_client(gateway.port) as client:
        await client.send(fragment)
        assert await client.reader.read() == b""


@SLOW
@pytest.mark.parametrize("kept", [False, True])
async def test_a_head_that_drips_is_given_up(gateway: RunningGateway, kept: bool) -> None:
    async with raw_client(gateway.port) as client:
        if kept:
            assert (await client.ask("GET", "/api/version", None, bearer(gateway.key))).status == 200
        await client.send(b"GET /api/tags HTTP/1.1\r\nHost: localhost\r\n")

        async def drip() -> None:
            while True:
                await client.send(b"X-Drip: drop\r\n")
                await asyncio.sleep(0.05)

        async with meanwhile(drip()):
            assert await closes(client)


@pytest.mark.parametrize(
    "gateway_settings", [{"server": {"keepalive_s": 0.3}}, {"server": {"keepalive_s": 0, "head_s": 0.3}}]
)
async def test_a_client_that_says_nothing_is_given_up(gateway: RunningGateway) -> None:
    async with raw_client(gateway.port) as client:
        assert await client.reader.read() == b""


@SLOW
async def test_half_a_request_behind_another_does_not_cut_its_answer(gateway: RunningGateway, node: FakeOllama) -> None:
    node.cue(Answer(hold_chunks=(gate := asyncio.Event())), "/api/chat")
    async with asked(gateway, "/api/chat", CHAT) as client, raw_client(gateway.port) as later:
        await client.head()
        assert await client.chunk()
        await client.send(b"GET /api/tags HT")
        await later.send(b"GET /api/tags HT")
        assert await later.reader.read() == b"", "the time for the first one's head is over, too"
        gate.set()
        while await client.chunk():
            pass
        assert await client.reader.read() == b"", "nothing is being answered any more"
    assert (await gateway.row())["outcome"] == "ok"


@asynccontextmanager
async def unfinished(gateway: RunningGateway, count: int) -> AsyncIterator[list[RawClient]]:
    """So many connections that have sent a part of a head."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(raw_client(gateway.port)) for _ in range(count)]
        for number, client in enumerate(clients):
            await client.send(FRAGMENTS[number % len(FRAGMENTS)])
        yield clients


async def test_slow_heads_keep_nobody_from_being_answered(gateway: RunningGateway) -> None:
    async with unfinished(gateway, 400) as clients:
        async with asked(gateway, "/api/chat", UNARY) as client:
            assert (await client.answer()).status == 200
        assert not any(client.reader.at_eof() for client in clients), "they are all still there"


async def counted(gateway: RunningGateway) -> dict[str, int]:
    """Malformed requests by kind."""
    async with gateway.http.get(f"{gateway.url}/metrics", headers=gateway.admin_auth) as answer:
        text = await answer.text()
    found = re.findall(r'^parallama_malformed_requests_total{kind="(\w+)"} (\d+)', text, re.M)
    return {kind: int(number) for kind, number in found}


@ALONE
@SLOW
async def test_malformed_requests_are_counted_by_kind(gateway: RunningGateway) -> None:
    kinds = {
        "tls": UNREADABLE["TLS"][0],
        "method": UNREADABLE["an unknown method"][0],
        "version": UNREADABLE["HTTP/2.0"][0],
        "request_line": UNREADABLE["two spaces before the target"][0],
        "target": UNREADABLE["another host than Host"][0],
        "host": JUDGED["an odd host"][0](NATIVE),
        "syntax": UNREADABLE["two lengths"][0],
        "too_large": UNREADABLE["a header of 100 KB"][0],
        "transfer_encoding": JUDGED["two codings"][0](NATIVE),
        "expectation": JUDGED["an unknown expectation"][0](NATIVE),
        "slow_head": b"GET",
    }
    for request in kinds.values():
        async with raw_client(gateway.port) as client:
            await client.send(request)
            await client.reader.read()
    async with raw_client(gateway.port) as client:
        await client.send(post("/api/chat", bearer(gateway.key), CHUNKED))
        await eventually(lambda: under_way(gateway))
        await client.send(b"zz\r\n")
        await client.answer()
    assert await counted(gateway) == {**dict.fromkeys(kinds, 1), "framing": 1}
