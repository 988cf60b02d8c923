"""Nodes whose answers are not what their heads or their counts say."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, repeat

import orjson
import pytest
from asking import CHAT, MODEL, UNARY, Gate, ask, asked, at_rest, bearer, metric
from kept_gateway import ALONE, in_one_loop
from kept_gateway import alone as alone
from kept_gateway import gateway as gateway
from kept_gateway import gateway_settings as gateway_settings
from kept_gateway import kept_gateways as kept_gateways
from kept_gateway import node as node
from kept_gateway import served as served
from raw_http import raw_client, request_bytes
from running import RunningGateway, eventually

from parallama.testing import BAD_CHUNKS, BAD_HEADS, BUSY, Answer, FakeOllama, Fault

pytestmark = in_one_loop

CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\n\r\n"
LINE = b'{"model":"m","message":{"role":"assistant","content":"four"},"done":false}\n'
LAST = b'{"model":"m","message":{"role":"assistant","content":""},"done":true,"prompt_eval_count":%d,"eval_count":%d}\n'


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _document(**members: object) -> list[bytes]:
    body = orjson.dumps(members)
    return [JSON % len(body), body]


async def failed(gateway: RunningGateway) -> None:
    await at_rest(gateway)
    row = await gateway.row()
    assert (row["status"], row["outcome"], row["error"]) == (502, "failed", "upstream_failed")


BOTH = pytest.mark.parametrize("path", ["/api/chat", "/ollama/v1/chat"])
HUGE = {
    "a head of 1 MB": lambda: Answer(lines=[LINE], headers=[("X-Long", "x" * (1 << 20))]),
    "a head of 100 KB in one read": lambda: Answer(raw=[CHUNKED[:-2] + b"X-Long: %b\r\n\r\n" % (b"x" * 100_000)]),
    "a head without end": lambda: Answer(raw=chain([b"HTTP/1.1 200 OK\r\n"], repeat(b"X-More: 1\r\n" * 1000))),
    "interim answers without end": lambda: Answer(raw=repeat(b"HTTP/1.1 102 Processing\r\n\r\n" * 100)),
    "many interim answers": lambda: Answer(interim=[102] * 20_000),
    "another protocol": lambda: Answer(raw=[b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n"]),
}


@BOTH
@pytest.mark.parametrize("kind", [*BAD_HEADS, *HUGE])
async def test_a_head_that_is_none_is_a_502(gateway: RunningGateway, node: FakeOllama, path: str, kind: str) -> None:
    node.cue(BAD_HEADS[kind] if kind in BAD_HEADS else HUGE[kind]())
    got = await ask(gateway, path, {**CHAT, "stream": True})
    assert (got.status, list(got.json())) == (502, ["error"])
    assert len(node.seen("/api/chat")) == 1, "a generation must not be sent twice"
    await failed(gateway)
    assert (await ask(gateway, path, UNARY)).status == 200


async def test_a_few_interim_answers_are_passed_over(gateway: RunningGateway, node: FakeOllama) -> None:
    node.cue(Answer(interim=[100, 102, 103] * 10))
    got = await ask(gateway, "/api/chat", CHAT)
    assert (got.status, got.lines()[-1]["done"]) == (200, True)


@BOTH
@pytest.mark.parametrize("kind", BAD_CHUNKS)
async def test_a_chunk_with_broken_framing_ends_the_stream_with_an_error(
    gateway: RunningGateway, node: FakeOllama, path: str, kind: str
) -> None:
    node.cue(replace(BAD_CHUNKS[kind], hold_body=(gate := Gate())))
    async with asked(gateway, path, {**CHAT, "stream": True}) as client:
        head = await client.head()
        first = await client.chunk()
        gate.set()
        rest = await client.reader.readuntil(b"\r\n0\r\n\r\n")
    assert " 200 " in head
    assert b"four" in first
    assert rest.count(b'{"error":') == 1
    assert rest.removesuffix(b"\r\n0\r\n\r\n").endswith(b'"}\n')
    await failed(gateway)
    assert len(node.seen("/api/chat")) == 1


TAILS = {
    "another answer": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong",
    "garbage": b"garbage",
    "a line": LINE,
}


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("body", [CHAT, UNARY])
async def test_what_follows_an_answer_reaches_nobody(
    gateway: RunningGateway, node: FakeOllama, tail: str, at_once: bool, body: dict[str, object]
) -> None:
    whole = CHUNKED + _chunk(LINE) + _chunk(LAST % (7, 2)) + b"0\r\n\r\n"
    if body is UNARY:
        whole = JSON % len(LAST % (7, 2)) + LAST % (7, 2)
    node.cue(Answer(raw=[whole + TAILS[tail]] if at_once else [whole, TAILS[tail]]))
    async with raw_client(gateway.port) as client:
        got = await client.ask("POST", "/api/chat", body, bearer(gateway.key))
        assert (got.status, got.body) == (200, (LINE if body is CHAT else b"") + LAST % (7, 2))
        assert b'"version"' in (await client.ask("GET", "/api/version", None, bearer(gateway.key))).body
        assert (await client.ask("POST", "/api/chat", UNARY, bearer(gateway.key))).json()["done"] is True
    rows = await gateway.rows(3)
    assert {row["outcome"] for row in rows} == {"ok"}
    assert (rows[0]["prompt_tokens"], rows[0]["output_tokens"]) == (7, 2)


@pytest.mark.parametrize("reason", [b"a\x01b", b"caf\xc3\xa9", b"\x80\xff"])
async def test_an_odd_reason_of_the_node_stays_here(gateway: RunningGateway, node: FakeOllama, reason: bytes) -> None:
    node.cue(Answer(raw=[b"HTTP/1.1 200 " + reason + b"\r\nContent-Length: 2\r\n\r\n{}"]))
    got = await ask(gateway, "/api/embed", {"model": "nomic-embed-text", "input": "x"})
    assert got.status_line == "HTTP/1.1 200 OK"


@pytest.mark.parametrize("name", ["x\r\nX-Bad: 1", "x\r\n\r\nGET /api/ps HTTP/1.1\r\n\r\n", "x\x00y", "x y"])
async def test_nothing_is_smuggled_to_the_node_in_a_name(gateway: RunningGateway, node: FakeOllama, name: str) -> None:
    before = len(node.seen("/api/ps"))
    got = await ask(gateway, "/api/chat", {**UNARY, "model": name})
    assert got.status in (400, 404)
    assert all("x-bad" not in (key.lower() for key, _ in seen.headers) for seen in node.requests)
    assert len(node.seen("/api/ps")) == before
    assert "x-bad" not in got.head.lower().split("\r\n", 1)[1].replace("x-parallama-model", "") or "%0D%0A" in got.head


@pytest.mark.parametrize("digest", ["a%0d%0aX-Bad:%201", "a%20HTTP/1.0%0d%0a%0d%0a", "%00", "..%2f..%2fapi%2fps"])
async def test_nothing_is_smuggled_to_the_node_in_a_path(
    gateway: RunningGateway, node: FakeOllama, digest: str
) -> None:
    await ask(gateway, f"/api/blobs/{digest}", b"x", admin=True)
    for seen in node.requests:
        assert not set(seen.target) & set(" \r\n\x00")
        assert "x-bad" not in (key.lower() for key, _ in seen.headers)


@pytest.mark.parametrize(("prompt", "output"), [(-5, 2), (7, 2**63), (-1, -1)])
async def test_impossible_counts_are_unknown_and_lose_no_row(
    gateway: RunningGateway, node: FakeOllama, prompt: int, output: int
) -> None:
    node.cue(Answer(raw=[CHUNKED + _chunk(LINE + LAST % (prompt, output)) + b"0\r\n\r\n"]))
    assert (await ask(gateway, "/api/chat", CHAT)).status == 200
    row = await gateway.row()
    told = (prompt if 0 <= prompt < 2**63 else None, output if 0 <= output < 2**63 else None)
    assert (row["prompt_tokens"], row["output_tokens"], row["outcome"]) == (*told, "ok")


async def test_a_stream_with_an_announced_length_has_room_for_its_error(
    gateway: RunningGateway, node: FakeOllama
) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nContent-Length: %d\r\n\r\n"
    for length in (1000, len(LINE)):
        node.cue(Answer(raw=[head % length + LINE], raw_ends=None if length == len(LINE) else Fault.CLOSE))
        got = await ask(gateway, "/api/chat", CHAT)
        assert got.framing == "chunked"
        assert got.body.startswith(LINE)
        assert got.body.splitlines()[-1].startswith(b'{"error":')


async def test_counts_are_found_before_log_probabilities(gateway: RunningGateway, node: FakeOllama) -> None:
    filler = [{"token": "x" * 100, "logprob": -0.5}] * 400
    answer = {"model": MODEL, "response": "x", "done": True, "prompt_eval_count": 7, "eval_count": 2}
    node.cue(Answer(raw=_document(**answer, logprobs=filler)))
    got = await ask(gateway, "/api/generate", {"model": MODEL, "prompt": "x", "stream": False})
    assert got.json()["eval_count"] == 2
    row = await gateway.row()
    assert (row["prompt_tokens"], row["output_tokens"], row["estimated"]) == (7, 2, False)


async def test_a_client_that_stops_reading_at_the_last_line_has_had_its_answer(
    gateway: RunningGateway, node: FakeOllama
) -> None:
    gate = Gate()
    node.cue(Answer(raw=[CHUNKED + _chunk(LINE + LAST % (7, 2)), b"0\r\n\r\n"], hold_body=gate))
    async with asked(gateway, "/api/chat", CHAT) as client:
        await client.reader.readuntil(b'"eval_count":2}')
        await gate.reached.wait()
    row = await gateway.row()
    assert (row["status"], row["outcome"], row["output_tokens"]) == (200, "ok", 2)


async def test_a_busy_node_says_when_to_try_again(gateway: RunningGateway, node: FakeOllama) -> None:
    node.cue(Answer(status=503, error=BUSY))
    got = await ask(gateway, "/api/chat", UNARY)
    assert got.json() == {"error": BUSY}
    assert dict(got.headers)["Retry-After"] == "2"


@pytest.mark.parametrize("name", ["../x\r\ny: z", "x" * 9000, "näme", " " + MODEL])
async def test_any_name_of_a_model_can_be_told_in_a_header(
    gateway: RunningGateway, node: FakeOllama, name: str
) -> None:
    node.cue(Answer(raw=_document(model=name, response="x", done=True)))
    got = await ask(gateway, "/api/generate", {"model": name, "prompt": "x", "stream": False})
    assert got.status == 200
    (told,) = [value for key, value in got.headers if key == "x-parallama-model"]
    assert told.isascii()
    assert len(told) <= 1024
    assert (await gateway.row())["model_asked"].startswith(name[:5])


@ALONE
async def test_spellings_of_one_model_share_a_label(gateway: RunningGateway) -> None:
    for spelling in (MODEL, MODEL.upper(), f" {MODEL} ", f"library/{MODEL}"):
        assert (await ask(gateway, "/api/chat", {**UNARY, "model": spelling})).status == 200
    text = await (await gateway.http.get(f"{gateway.url}/metrics", headers=gateway.admin_auth)).text()
    labels = {line.split('model="')[1].split('"')[0] for line in text.splitlines() if "tokens_total{" in line}
    assert labels == {MODEL}


@pytest.mark.parametrize("models", [{"a": 1}, [3], "x", 7])
async def test_a_list_in_another_shape_is_the_nodes_fault(
    gateway: RunningGateway, node: FakeOllama, models: object
) -> None:
    node.cue(Answer(raw=_document(models=models)), path="/api/tags")
    got = await ask(gateway, "/ollama/v1/models", None, method="GET")
    assert got.status == 502
    assert list(got.json()) == ["error"]


@ALONE
async def test_a_node_that_breaks_is_looked_at_again_at_once(gateway: RunningGateway, node: FakeOllama) -> None:
    await node.close()
    assert (await ask(gateway, "/api/chat", UNARY)).status == 502

    async def is_down() -> bool:
        return await metric(gateway, "parallama_node_up") == 0

    await eventually(is_down)


@pytest.mark.parametrize(("after", "output"), [(40, None), (len(LINE) + 40, 1)])
async def test_half_a_line_costs_nothing(
    gateway: RunningGateway, node: FakeOllama, after: int, output: int | None
) -> None:
    node.cue(Answer(lines=[LINE, LINE, LINE], fault=Fault.CLOSE, after_body=after))
    assert (await ask(gateway, "/api/chat", CHAT)).body.splitlines()[-1].startswith(b'{"error":')
    await at_rest(gateway)
    assert (await gateway.row())["output_tokens"] == output


@pytest.mark.parametrize("path", ["/api/chat", "/ollama/v1/chat"])
@pytest.mark.parametrize("body", [b"", b"garbage", b'{"message":', b"[]", b"null", b'{"error":"boom"}'])
async def test_a_document_that_is_no_answer_is_a_502(
    gateway: RunningGateway, node: FakeOllama, path: str, body: bytes
) -> None:
    node.cue(Answer(raw=[JSON % len(body), body]))
    got = await ask(gateway, path, UNARY)
    assert (got.status, list(got.json())) == (502, ["error"])
    assert ("boom" in got.json()["error"]) == (b"boom" in body)
    row = await gateway.row()
    assert (row["status"], row["outcome"], row["error"]) == (502, "failed", "upstream_failed")


async def test_a_long_name_is_cut_in_the_row(gateway: RunningGateway, node: FakeOllama) -> None:
    await ask(gateway, "/api/chat", {**UNARY, "model": "x" * 100_000})
    row = await gateway.row()
    assert (row["model_asked"], row["model"]) == ("x" * 256, "x" * 256)


async def test_a_body_that_is_written_anew_has_one_content_type(gateway: RunningGateway, node: FakeOllama) -> None:
    await ask(gateway, "/api/chat", b'{"MODEL":"%b","stream":false}' % MODEL.encode(), "Content-Type: text/plain")
    (seen,) = node.seen("/api/chat")
    assert [value for name, value in seen.headers if name.lower() == "content-type"] == ["application/json"]


async def test_words_in_a_header_arrive_as_they_were(gateway: RunningGateway, node: FakeOllama) -> None:
    head = b"HTTP/1.1 200 OK\r\nX-Word: caf\xc3\xa9\r\nContent-Length: 13\r\n\r\n"
    node.cue(Answer(raw=[head, b'{"models":[]}']), "/api/tags")
    got = await ask(gateway, "/api/tags")
    assert "X-Word: caf\u00e9\r\n" in got.head


@pytest.mark.parametrize("gateway_settings", [{"relay": {"hold_kb": 1}}])
async def test_a_client_without_chunks_sees_that_a_document_is_not_whole(
    gateway: RunningGateway, node: FakeOllama
) -> None:
    head = CHUNKED.replace(b"x-ndjson", b"json")
    node.cue(Answer(raw=[head, _chunk(b"[" * 100_000)], raw_ends=Fault.CLOSE))
    request = request_bytes("POST", "/api/embed", {"model": MODEL, "input": "x"}, bearer(gateway.key))
    async with raw_client(gateway.port) as client:
        await client.send(request.replace(b"HTTP/1.1", b"HTTP/1.0", 1))
        await client.head()
        with pytest.raises(ConnectionError):
            await client.reader.read()
    await at_rest(gateway)
    row = await gateway.row()
    assert (row["status"], row["outcome"]) == (502, "failed")
