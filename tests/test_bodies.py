"""How fast a request body has to come, and what of JSON is taken: as Ollama takes it, to a bounded depth."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from asking import CHAT, MODEL, UNARY, ask, asked, at_rest, bearer, under_way
from kept_gateway import alone as alone
from kept_gateway import gateway as gateway
from kept_gateway import gateway_settings as gateway_settings
from kept_gateway import in_one_loop
from kept_gateway import kept_gateways as kept_gateways
from kept_gateway import node as node
from kept_gateway import served as served
from raw_http import RawClient, raw_client, request_bytes
from running import RunningGateway, eventually

from parallama.testing import FakeOllama

pytestmark = in_one_loop

PATHS = ["/api/chat", "/ollama/v1/chat"]


def blob(data: bytes) -> str:
    return f"/api/blobs/sha256:{hashlib.sha256(data).hexdigest()}"


def settings(**relay: float) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("gateway_settings", [{"relay": relay}])


@asynccontextmanager
async def dripping(gateway: RunningGateway, path: str, key: str) -> AsyncIterator[RawClient]:
    """A client that brings 100 KB byte by byte, never silent for long."""

    async def drip() -> None:
        while True:
            await client.send(b" ")
            await asyncio.sleep(0.02)

    async with raw_client(gateway.port) as client, asyncio.TaskGroup() as group:
        await client.send(request_bytes("POST", path, None, bearer(key), "Content-Length: 100000"))
        task = group.create_task(drip(), name="dripping")
        yield client
        task.cancel()


SLOW = pytest.mark.parametrize(
    "gateway_settings",
    [{"relay": {"body_s": 1, "body_min_kb_s": 64}}, {"relay": {"body_min_kb_s": 0, "body_total_s": 1}}],
    ids=["rate", "total"],
)


@SLOW
@pytest.mark.parametrize("path", PATHS)
async def test_a_question_that_drips_is_given_up(gateway: RunningGateway, node: FakeOllama, path: str) -> None:
    async with dripping(gateway, path, gateway.key) as client:
        got = await client.answer()
        assert got.status == 400
        assert "in time" in got.json()["error"]
    row = await gateway.row()
    assert (row["status"], row["outcome"], row["error"]) == (400, "refused", "bad_request")
    assert node.seen("/api/chat") == []


@settings(body_s=1, body_min_kb_s=64)
async def test_an_upload_that_drips_is_given_up(gateway: RunningGateway, node: FakeOllama) -> None:
    async with dripping(gateway, blob(b""), gateway.admin_key) as client:
        assert (await client.answer()).status == 400
    row = await gateway.row()
    assert (row["status"], row["outcome"], row["error"]) == (400, "refused", "bad_request")
    await at_rest(gateway)


@settings(body_min_kb_s=0, body_total_s=0.2)
async def test_an_upload_may_take_any_time(gateway: RunningGateway, node: FakeOllama) -> None:
    data = bytes(20)
    async with raw_client(gateway.port) as client:
        head = request_bytes("POST", blob(data), None, bearer(gateway.admin_key), "Content-Length: 20")
        await client.send(head)
        await eventually(lambda: [seen for seen in node.requests if "/blobs/" in seen.path])
        async with asked(gateway, "/api/chat", None, "Content-Length: 2") as later:
            assert (await later.answer()).status == 400, "by now a question would have been given up"
        await client.send(data)
        assert (await client.answer()).status == 201


@settings(body_s=1, body_min_kb_s=64)
async def test_what_came_fast_may_pause(gateway: RunningGateway) -> None:
    """64 KiB at once are worth a second at the least rate, beside the longest silence."""
    body = json.dumps(UNARY).encode().ljust(200_000)
    async with raw_client(gateway.port) as client:
        whole = request_bytes("POST", "/api/chat", body, bearer(gateway.key))
        await client.send(whole[:-25])
        await eventually(lambda: under_way(gateway))
        for byte in whole[-25:]:
            await asyncio.sleep(0.05)
            await client.send(bytes([byte]))
        assert (await client.answer()).status == 200


NO_UNICODE = {
    "surrogate": (b'"lone \\ud800 surrogate"', "lone \ufffd surrogate"),
    "utf-8": (b'"bad \xff\xfe bytes"', "bad \ufffd\ufffd bytes"),
    "nul": (b'"a NUL \\u0000 in it"', "a NUL \0 in it"),
}
"""A text as it stands in a body, and as Ollama reads it."""


def asking(text: bytes) -> bytes:
    return json.dumps(UNARY).encode().replace(b'"Say something long, please."', text)


@pytest.mark.parametrize("name", NO_UNICODE)
async def test_text_that_is_no_unicode_passes_as_ollama_reads_it(
    gateway: RunningGateway, node: FakeOllama, name: str
) -> None:
    text, read = NO_UNICODE[name]
    assert (await ask(gateway, "/api/chat", asking(text))).status == 200
    seen = (await node.request_for("/api/chat")).body
    assert seen == asking(text) or json.loads(seen)["messages"][0]["content"] == read


@pytest.mark.parametrize("name", NO_UNICODE)
async def test_text_that_is_no_unicode_is_no_bug_in_the_simple_dialect(
    gateway: RunningGateway, node: FakeOllama, name: str
) -> None:
    text, read = NO_UNICODE[name]
    got = await ask(gateway, "/ollama/v1/chat", asking(text))
    if name == "utf-8":
        assert (got.status, "not valid JSON" in got.json()["error"]) == (400, True)
    else:
        assert got.status == 200
        assert json.loads((await node.request_for("/api/chat")).body)["messages"][0]["content"] == read


AROUND = {"space": b"  \r\n%b\n", "garbage": b"%b trailing garbage", "second": b'%b{"model": "other"}', "end": b"%b]]]"}


@pytest.mark.parametrize("name", AROUND)
async def test_what_is_around_the_document_is_ignored(gateway: RunningGateway, node: FakeOllama, name: str) -> None:
    assert (await ask(gateway, "/api/chat", AROUND[name] % json.dumps(UNARY).encode())).status == 200
    seen = await node.request_for("/api/chat")
    assert json.JSONDecoder().raw_decode(seen.body.decode().lstrip())[0] == UNARY
    assert (await gateway.row())["model"] == MODEL


@pytest.mark.parametrize("name", AROUND)
async def test_the_simple_dialect_takes_one_document(gateway: RunningGateway, node: FakeOllama, name: str) -> None:
    got = await ask(gateway, "/ollama/v1/chat", AROUND[name] % json.dumps(UNARY).encode())
    assert got.status == (200 if name == "space" else 400)
    assert len(node.seen("/api/chat")) == (name == "space")


def deep(levels: int, opening: bytes, closing: bytes) -> bytes:
    return opening * levels + b"1" + closing * levels


def with_extra(extra: bytes) -> bytes:
    return b'{"deep": ' + extra + b", " + json.dumps(UNARY).encode()[1:]


BRACKETS = {"arrays": (b"[", b"]"), "objects": (b'{"a":', b"}")}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", BRACKETS)
@pytest.mark.parametrize("levels", [10_001, 1_000_000])
async def test_what_is_nested_too_deeply_is_refused(
    gateway: RunningGateway, node: FakeOllama, path: str, kind: str, levels: int
) -> None:
    for body in (with_extra(deep(levels, *BRACKETS[kind])), deep(levels, *BRACKETS[kind]), BRACKETS[kind][0] * levels):
        got = await ask(gateway, path, body)
        assert (got.status, list(got.json())) == (400, ["error"])
    assert node.seen("/api/chat") == []


WHERE: dict[str, Any] = {
    "unknown": lambda nested: {**UNARY, "deep": nested},
    "options": lambda nested: {**UNARY, "options": {"deep": nested}},
    "format": lambda nested: {**UNARY, "format": {"deep": nested}},
    "tools": lambda nested: {**UNARY, "tools": [{"type": "function", "function": {"name": "f", "parameters": nested}}]},
    "messages": lambda nested: {**UNARY, "messages": [{"role": "user", "content": "x", "deep": nested}]},
    "arguments": lambda nested: {
        **UNARY,
        "messages": [
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {"deep": nested}}}]},
            {"role": "user", "content": "x"},
        ],
    },
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", BRACKETS)
@pytest.mark.parametrize("odd", [False, True], ids=["plain", "odd"])
async def test_depth_is_never_a_bug(gateway: RunningGateway, path: str, kind: str, odd: bool) -> None:
    """`odd`: a body that has to be encoded anew for the node."""
    for where, levels in itertools.product(WHERE, [200, 260, 900, 1_100, 5_000, 9_900]):
        body = json.dumps(WHERE[where]("DEEP")).encode().replace(b'"DEEP"', deep(levels, *BRACKETS[kind]))
        got = await ask(gateway, path, body.replace(b'"model"', b'"Model"') if odd else body)
        assert got.status in (200, 400), (where, levels)


ODD_NUMBERS = ["1e400", "-1e400", "1" * 4_000, "0." + "1" * 5_000, "NaN", "Infinity", "01", "1.", "-", "1e", "-0"]


@pytest.mark.parametrize("path", PATHS)
async def test_an_odd_number_is_never_a_bug(gateway: RunningGateway, path: str) -> None:
    places: list[dict[str, Any]] = [{"options": {"num_predict": "N"}}, {"parameters": {"seed": "N"}}, {"odd": "N"}]
    for place, number in itertools.product(places, ODD_NUMBERS):
        got = await ask(gateway, path, json.dumps({**UNARY, **place}).replace('"N"', number).encode())
        assert got.status in (200, 400), (place, number)


async def test_a_body_that_is_here_whole_is_counted(gateway: RunningGateway, node: FakeOllama) -> None:
    body = json.dumps(CHAT).encode()
    assert (await ask(gateway, "/api/chat", body)).status == 200
    assert (await gateway.row())["request_bytes"] == len(body)
    assert (await node.request_for("/api/chat")).body == body
