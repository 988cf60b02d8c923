"""What a client is told, and what is booked, when the node breaks the exchange: the basic set."""

from __future__ import annotations

import asyncio
import json
import socket
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
import recorded
from asking import CHAT, EMBED, MODEL, STREAMS, UNARY, ask, asked, at_rest, bearer, metric, node_path
from kept_gateway import ALONE, in_one_loop
from kept_gateway import alone as alone
from kept_gateway import gateway as gateway
from kept_gateway import gateway_settings as gateway_settings
from kept_gateway import kept_gateways as kept_gateways
from kept_gateway import node as node
from kept_gateway import served as served
from raw_http import Got, raw_client, request_bytes
from running import RunningGateway, eventually, running_gateway
from upstream_client import accepted, full

from parallama.app import POOL
from parallama.testing import BUSY, Answer, FakeOllama, Fault, SeenRequest, load_recording

pytestmark = in_one_loop

PATHS = pytest.mark.parametrize(("path", "body"), [*STREAMS, ("/api/chat", UNARY), ("/ollama/v1/chat", CHAT)])
LINE = b'{"model":"m","message":{"role":"assistant","content":"four"},"done":false}\n'
LAST = b'{"model":"m","message":{"role":"assistant","content":""},"done":true,"prompt_eval_count":7,"eval_count":2}\n'


def is_error(got: Got, status: int) -> bool:
    """One JSON document `{"error": text}`, framed by its length."""
    text = got.json()["error"]
    return got.status == status and got.framing == "length" and bool(text) and list(got.json()) == ["error"]


async def failed(gateway: RunningGateway, status: int = 502, code: str = "upstream_failed") -> dict[str, Any]:
    await at_rest(gateway)
    row = await gateway.row()
    assert (row["status"], row["outcome"], row["error"], row["node"]) == (status, "failed", code, "node-1")
    return row


@ALONE
@PATHS
async def test_a_node_that_refuses_the_connection_is_a_502(
    gateway: RunningGateway, node: FakeOllama, path: str, body: Any
) -> None:
    await node.close()
    assert is_error(await ask(gateway, path, body), 502)
    row = await failed(gateway)
    assert (row["prompt_tokens"], row["output_tokens"]) == (None, None)
    assert await metric(gateway, "parallama_node_errors_total") == 1


@PATHS
@pytest.mark.parametrize("fault", [Fault.CLOSE, Fault.RESET])
@pytest.mark.parametrize("after_head", [0, 30])
async def test_a_node_that_breaks_before_its_head_is_whole_is_a_502(
    gateway: RunningGateway, node: FakeOllama, path: str, body: Any, fault: Fault, after_head: int
) -> None:
    node.cue(Answer(fault=fault, after_head=after_head))
    assert is_error(await ask(gateway, path, body), 502)
    row = await failed(gateway)
    assert row["output_tokens"] is None
    assert len(node.seen(node_path(path))) == 1, "a generation must not be sent twice"


@pytest.mark.parametrize(("path", "body"), STREAMS)
@pytest.mark.parametrize("fault", [Fault.CLOSE, Fault.RESET])
async def test_a_stream_that_breaks_ends_with_one_error_line(
    gateway: RunningGateway, node: FakeOllama, path: str, body: Any, fault: Fault
) -> None:
    node.cue(Answer(fault=fault, after_body=500))
    got = await ask(gateway, path, body)
    assert got.status == 200
    assert got.framing == "chunked"
    assert got.body.endswith(b"\n")
    *lines, last = got.body.splitlines()
    assert list(json.loads(last)) == ["error"]
    assert json.loads(lines[0])
    row = await failed(gateway)
    assert row["estimated"] is True
    assert row["output_tokens"] >= 1
    assert row["prompt_tokens"] >= 1
    assert row["streamed"] is True
    assert row["response_bytes"] == len(got.body)


async def test_the_error_line_is_a_line_of_its_own_after_half_a_line(gateway: RunningGateway, node: FakeOllama) -> None:
    node.cue(Answer(lines=[LINE, LINE[:30]], fault=Fault.CLOSE, after_body=len(LINE) + 30))
    got = await ask(gateway, "/api/chat", CHAT)
    assert got.body.startswith(LINE + LINE[:30] + b"\n{")
    assert list(got.body.splitlines()) == [LINE.strip(), LINE[:30], got.body.splitlines()[-1]]
    assert list(json.loads(got.body.splitlines()[-1])) == ["error"]


async def test_the_error_line_is_not_preceded_by_an_empty_line(gateway: RunningGateway, node: FakeOllama) -> None:
    node.cue(Answer(lines=[LINE, LINE], fault=Fault.RESET, after_body=len(LINE)))
    got = await ask(gateway, "/api/chat", CHAT)
    assert got.body.startswith(LINE + b'{"error"')


@pytest.mark.parametrize(("path", "body"), STREAMS)
async def test_a_clean_end_without_the_last_line_is_told(
    gateway: RunningGateway, node: FakeOllama, path: str, body: Any
) -> None:
    node.cue(Answer(fault=Fault.NO_DONE))
    got = await ask(gateway, path, body)
    assert got.status == 200
    assert [line for line in got.lines() if "error" in line] == got.lines()[-1:]
    row = await failed(gateway)
    assert row["estimated"] is True
    assert row["output_tokens"] >= len(got.lines()) - 1


async def test_a_break_after_the_last_line_takes_nothing_from_the_answer(
    gateway: RunningGateway, node: FakeOllama
) -> None:
    node.cue(Answer(lines=[LINE, LAST], fault=Fault.CLOSE, after_body=10_000))
    got = await ask(gateway, "/api/chat", CHAT)
    assert got.body == LINE + LAST
    row = await gateway.row()
    assert (row["status"], row["outcome"], row["error"]) == (200, "ok", None)
    assert (row["prompt_tokens"], row["output_tokens"], row["estimated"]) == (7, 2, False)


async def test_the_nodes_own_error_line_passes_unchanged_and_is_booked_as_failed(
    gateway: RunningGateway, node: FakeOllama
) -> None:
    node.cue(Answer(fault=Fault.ERROR_LINE, after_lines=3, error="the runner died"))
    got = await ask(gateway, "/api/chat", CHAT)
    assert got.status == 200
    assert got.body.splitlines()[-1] == b'{"error":"the runner died"}'
    assert got.body.count(b'"error"') == 1
    row = await failed(gateway)
    assert (row["output_tokens"], row["estimated"]) == (3, True)


async def test_the_nodes_error_line_reaches_clients_of_the_simple_dialect(
    gateway: RunningGateway, node: FakeOllama
) -> None:
    node.cue(Answer(fault=Fault.ERROR_LINE, after_lines=3, error="the runner died"))
    got = await ask(gateway, "/ollama/v1/chat", {**CHAT, "stream": True})
    assert got.lines()[-1] == {"error": "the runner died"}
    assert len(got.lines()) == 4
    await failed(gateway)


@pytest.mark.parametrize("path", ["/api/chat", "/ollama/v1/chat"])
@pytest.mark.parametrize(
    ("status", "text", "outcome"),
    [
        (400, "no such option", "refused"),
        (404, "model 'x' not found", "refused"),
        (500, "llama runner process has terminated", "failed"),
        (503, BUSY, "failed"),
    ],
)
async def test_the_nodes_errors_pass_with_status_and_words(
    gateway: RunningGateway, node: FakeOllama, path: str, status: int, text: str, outcome: str
) -> None:
    node.cue(Answer(status=status, error=text))
    got = await ask(gateway, path, CHAT)
    assert (got.status, got.json()) == (status, {"error": text})
    row = await gateway.row()
    assert (row["status"], row["outcome"], row["streamed"]) == (status, outcome, False)
    assert (row["prompt_tokens"], row["output_tokens"], row["estimated"]) == (None, None, False)


@pytest.mark.parametrize("after_lines", [0, 2])
async def test_a_line_that_is_no_json_is_a_failure_in_the_simple_dialect(
    gateway: RunningGateway, node: FakeOllama, after_lines: int
) -> None:
    node.cue(Answer(fault=Fault.BAD_JSON, after_lines=after_lines))
    got = await ask(gateway, "/ollama/v1/chat", {**CHAT, "stream": True})
    if after_lines:
        assert got.status == 200
        assert [line for line in got.lines() if "error" in line] == got.lines()[-1:]
    else:
        assert is_error(got, 502)
    await failed(gateway)


async def test_a_line_that_is_no_json_passes_to_who_speaks_the_nodes_dialect(
    gateway: RunningGateway, node: FakeOllama
) -> None:
    node.cue(Answer(lines=[LINE, b"no json\n", LAST]))
    got = await ask(gateway, "/api/chat", CHAT)
    assert (got.status, got.body) == (200, LINE + b"no json\n" + LAST)
    row = await gateway.row()
    assert (row["outcome"], row["output_tokens"], row["estimated"]) == ("ok", 2, False)


HASTY = pytest.mark.parametrize("gateway_settings", [{"nodes": [{"first_byte_s": 0.3, "idle_s": 0.3}]}], ids=[""])
"""A gateway that waits for its node 0.3 s."""


@HASTY
@ALONE
@PATHS
async def test_a_node_that_is_silent_before_its_head_is_a_504(
    gateway: RunningGateway, node: FakeOllama, path: str, body: Any
) -> None:
    node.cue(Answer(fault=Fault.HANG))
    assert is_error(await ask(gateway, path, body), 504)
    await failed(gateway, 504, "timed_out")
    assert await metric(gateway, "parallama_node_errors_total") == 1
    await asyncio.wait_for(node.seen(node_path(path))[0].client_left.wait(), 30)


@HASTY
@pytest.mark.parametrize(("path", "body"), STREAMS)
async def test_a_node_that_falls_silent_in_a_stream_is_told_in_the_stream(
    gateway: RunningGateway, node: FakeOllama, path: str, body: Any
) -> None:
    node.cue(Answer(fault=Fault.HANG, after_body=500))
    got = await ask(gateway, path, body)
    assert got.status == 200
    assert list(json.loads(got.body.splitlines()[-1])) == ["error"]
    row = await failed(gateway, 504, "timed_out")
    assert row["estimated"] is True
    await asyncio.wait_for(node.seen(node_path(path))[0].client_left.wait(), 30)


@pytest.mark.parametrize(("path", "body"), [("/api/chat", UNARY), ("/api/embed", EMBED), ("/api/tags", None)])
async def test_a_document_shorter_than_announced_is_a_502(
    gateway: RunningGateway, node: FakeOllama, path: str, body: Any
) -> None:
    node.cue(
        Answer(raw=[b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", b'{"models":['], raw_ends=Fault.CLOSE), path
    )
    assert is_error(await ask(gateway, path, body), 502)
    await failed(gateway)


@pytest.mark.parametrize("gateway_settings", [{"relay": {"hold_kb": 64}}])
async def test_a_document_beyond_the_hold_that_breaks_is_left_short_of_its_length(
    gateway: RunningGateway, node: FakeOllama
) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 200000\r\n\r\n"
    node.cue(Answer(raw=[head, b"[" * 100_000], raw_ends=Fault.CLOSE))
    async with asked(gateway, "/api/embed", EMBED) as client:
        assert "Content-Length: 200000" in await client.head()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await client.reader.readexactly(200_000)
    row = await failed(gateway)
    assert row["streamed"] is False


@pytest.mark.parametrize("gateway_settings", [{"relay": {"hold_kb": 64}}])
async def test_a_chunked_document_beyond_the_hold_that_breaks_never_gets_its_end(
    gateway: RunningGateway, node: FakeOllama
) -> None:
    pieces = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"186a0\r\n" + b"[" * 100_000 + b"\r\n"]
    node.cue(Answer(raw=pieces, raw_ends=Fault.CLOSE))
    async with asked(gateway, "/api/embed", EMBED) as client:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await client.answer()
    await failed(gateway)


@pytest.mark.parametrize("path", ["/api/chat", "/ollama/v1/chat"])
async def test_a_redirect_is_a_502_and_is_not_followed(gateway: RunningGateway, node: FakeOllama, path: str) -> None:
    node.cue(Answer(status=307, error="elsewhere", headers=[("Location", f"{node.url}/api/version")]))
    got = await ask(gateway, path, CHAT)
    assert is_error(got, 502)
    assert "location" not in got.head.lower()
    await failed(gateway)


@ALONE
async def test_a_node_that_was_away_is_used_again_at_once(gateway: RunningGateway, node: FakeOllama) -> None:
    await node.close()
    assert (await ask(gateway, "/api/chat", CHAT)).status == 502
    await node.start(port=node.port)
    assert (await ask(gateway, "/api/chat", CHAT)).status == 200
    assert [row["outcome"] for row in await gateway.rows(2)] == ["failed", "ok"]


@ALONE
async def test_an_idle_connection_that_the_node_has_closed_costs_nobody_an_error(
    gateway: RunningGateway, node: FakeOllama
) -> None:
    """A restarted node has closed the connections of the pool; the next request must not find that out."""
    for _ in range(5):
        assert (await ask(gateway, "/api/chat", UNARY)).status == 200
        await node.close()
        await node.start(port=node.port)
    assert {row["outcome"] for row in await gateway.rows(5)} == {"ok"}
    assert gateway.app[POOL].nodes[0].in_flight == 0


async def test_the_error_does_not_tell_where_the_nodes_are(database_url: str) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # never listens
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        async with running_gateway(database_url, url) as gateway:
            got = await ask(gateway, "/api/generate", {"model": MODEL, "prompt": "hello"})
            assert is_error(got, 502)
            assert url.removeprefix("http://") not in got.body.decode(), "where the nodes are is nobody's business"
            await failed(gateway)


async def test_a_node_that_does_not_take_the_question_is_a_504(database_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # the kernel accepts for it; nobody reads
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        nodes = [{"name": "node-1", "url": url, "first_byte_s": 0.3, "connect_s": 0.3}]
        async with running_gateway(database_url, url, {"nodes": nodes}) as gateway:
            body = json.dumps(UNARY).encode().ljust(48 << 20)  # more than the buffers of a connection
            assert is_error(await ask(gateway, "/api/chat", body), 504)
            await failed(gateway, 504, "timed_out")


@PATHS
async def test_a_node_whose_queue_of_connections_is_full_is_a_504(database_url: str, path: str, body: Any) -> None:
    async with full() as url:
        nodes = [{"name": "node-1", "url": url, "connect_s": 0.3}]
        async with running_gateway(database_url, url, {"nodes": nodes}) as gateway:
            assert is_error(await ask(gateway, path, body), 504)
            await failed(gateway, 504, "timed_out")


TOTAL = pytest.mark.parametrize("after_body", [None, 500])


@TOTAL
@pytest.mark.parametrize(("path", "body"), STREAMS)
async def test_an_exchange_ends_after_total_s(
    database_url: str, node: FakeOllama, path: str, body: Any, after_body: int | None
) -> None:
    nodes = [{"name": "node-1", "url": node.url, "total_s": 0.4}]
    node.cue(Answer(fault=Fault.HANG, after_body=after_body))
    async with running_gateway(database_url, node.url, {"nodes": nodes}) as gateway:
        got = await ask(gateway, path, body)
        assert got.status == (200 if after_body else 504)
        assert list(json.loads(got.body.splitlines()[-1])) == ["error"]
        await failed(gateway, 504, "timed_out")


BLOB = "/api/blobs/sha256:" + "0" * 64


def upload(node: FakeOllama) -> SeenRequest:
    (seen,) = node.seen(BLOB)
    return seen


async def test_an_early_answer_stops_the_upload(gateway: RunningGateway, node: FakeOllama) -> None:
    node.cue(Answer(reads=10_000, status=413, error="too large for me"))
    async with raw_client(gateway.port) as client:
        head = request_bytes("POST", BLOB, None, bearer(gateway.admin_key), "Content-Length: 300000000")
        await client.send(head + bytes(20_000))
        got = await client.answer()
        assert (got.status, got.json()) == (413, {"error": "too large for me"})
        assert "Connection: close" in got.head
        await at_rest(gateway)
        assert len(upload(node).body) <= 20_000
    row = await gateway.row()
    assert (row["status"], row["outcome"], row["error"]) == (413, "refused", "node_error")


@HASTY
async def test_a_node_that_stops_taking_an_upload_is_a_504(gateway: RunningGateway, node: FakeOllama) -> None:
    node.cue(Answer(reads=1000))
    async with raw_client(gateway.port) as client:
        head = request_bytes("POST", BLOB, None, bearer(gateway.admin_key), "Content-Length: 300000000")
        client.writer.write(head + bytes(30_000_000))
        assert (await client.answer()).status == 504
    await failed(gateway, 504, "timed_out")


async def test_a_stream_that_ends_with_its_connection_is_whole(gateway: RunningGateway, node: FakeOllama) -> None:
    node.cue(Answer(lines=[LINE, LAST], until_close=True))
    got = await ask(gateway, "/api/chat", CHAT)
    assert (got.status, got.body) == (200, LINE + LAST)
    row = await gateway.row()
    assert (row["outcome"], row["output_tokens"], row["estimated"]) == ("ok", 2, False)


async def test_a_stream_whose_connection_is_reset_instead_is_not(gateway: RunningGateway, node: FakeOllama) -> None:
    node.cue(Answer(lines=[LINE, LAST], until_close=True, fault=Fault.RESET, after_body=len(LINE)))
    got = await ask(gateway, "/api/chat", CHAT)
    assert got.body.startswith(LINE + b'{"error":')
    await failed(gateway)


FOLDER = Path(recorded.__file__).parent / "recordings"
KINDS = ("runner-", "server-killed", "repeat-", "busy-")
RECORDED = [name for name in recorded.NAMES if name.startswith(KINDS)]


@pytest.mark.parametrize("dialect", ["/api", "/ollama/v1"])
@pytest.mark.parametrize("name", RECORDED)
async def test_a_recorded_failure_is_told_once_and_booked(
    gateway: RunningGateway, node: FakeOllama, name: str, dialect: str
) -> None:
    """What became of a real Ollama: `tests/recordings/README.md` says how."""
    wire, was = load_recording(FOLDER / f"{name}.json"), recorded.recording(name)
    node.replay(wire)
    body = {"stream": True} | json.loads(was.body)
    if dialect == "/ollama/v1":
        body = {key: body[key] for key in ("model", "prompt", "messages", "stream") if key in body}
    got = await ask(gateway, dialect + was.path.removeprefix("/api"), body)
    assert was.head is not None
    ended, error = was.messages[-1].get("done"), was.messages[-1].get("error")
    if was.head.status >= 400:
        assert (got.status, got.json()) == (was.head.status, {"error": error})
    elif ended or not body["stream"]:
        assert got.status == 200 or dialect != "/api"
        assert got.body.count(b'"error"') == (got.status != 200)
    else:
        assert got.status == 200
        assert [line for line in got.lines() if "error" in line] == got.lines()[-1:]
        assert error is None or got.lines()[-1] == {"error": error}
    assert len(node.seen(was.path)) == 1, "a generation must not be sent twice"
    row = await gateway.row()
    expected = was.head.status if was.head.status >= 400 else 200 if ended else 502
    assert (row["status"], row["outcome"]) == (expected, "ok" if ended else "failed")
    await at_rest(gateway)


FAULTS = [
    Answer(fault=Fault.CLOSE),
    Answer(fault=Fault.RESET, after_head=10),
    Answer(fault=Fault.HANG),
    Answer(fault=Fault.RESET, after_body=500),
    Answer(fault=Fault.HANG, after_body=500),
    Answer(fault=Fault.NO_DONE),
    Answer(fault=Fault.BAD_JSON),
    Answer(fault=Fault.ERROR_LINE, error="the runner died"),
    Answer(status=307, error=""),
    Answer(lines=[LINE, LAST], extra=b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"),
    Answer(raw=repeat(b"X-More: 1\r\n" * 1000)),
]


@ALONE
@HASTY
async def test_after_all_failures_nothing_is_left(gateway: RunningGateway, node: FakeOllama) -> None:
    await ask(gateway, "/api/version")
    tasks = len(asyncio.all_tasks())
    connections = accepted(node)
    for fault in FAULTS:
        node.cue(fault, times=3)
        for path, body in STREAMS:
            await ask(gateway, path, body)
        node.clear()
    rows = await gateway.rows(1 + 3 * len(FAULTS))
    assert len(rows) == 1 + 3 * len(FAULTS)
    assert (await ask(gateway, "/api/chat", UNARY)).status == 200
    await at_rest(gateway)
    await eventually(lambda: sum(not task.done() for task in connections) <= 2)  # what is kept for later, and a probe
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks + 2)  # and the node's two for these


async def looked_at_again(node: FakeOllama) -> None:
    before = len(node.seen("/api/version"))
    await eventually(lambda: len(node.seen("/api/version")) > before + 3)


async def test_a_node_whose_connections_are_all_in_use_is_not_down(database_url: str, node: FakeOllama) -> None:
    nodes = [{"name": "node-1", "url": node.url, "max_connections": 1, "probe_s": 0.05}]
    node.cue(Answer(hold_chunks=(gate := asyncio.Event())))
    async with running_gateway(database_url, node.url, {"nodes": nodes}) as gateway:
        async with asked(gateway, "/api/chat", CHAT) as client:
            await node.request_for("/api/chat")
            await looked_at_again(node)
            assert gateway.app[POOL].nodes[0].health.up is True
            async with asked(gateway, "/api/chat", UNARY) as other:
                await eventually(lambda: gateway.app[POOL].nodes[0].in_flight == 2)
                await looked_at_again(node)
                assert len(node.seen("/api/chat")) == 1, "the other still waits for a connection"
                gate.set()
                assert (await client.answer()).status == (await other.answer()).status == 200
