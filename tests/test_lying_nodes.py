"""Nodes whose answers are not what their heads or their counts say."""

from __future__ import annotations

import orjson
import pytest
from asking import CHAT, MODEL, UNARY, Gate, ask, asked, at_rest, metric
from running import RunningGateway, eventually

from parallama.testing import BUSY, Answer, FakeOllama, Fault

CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\n\r\n"
LINE = b'{"model":"m","message":{"role":"assistant","content":"four"},"done":false}\n'
LAST = b'{"model":"m","message":{"role":"assistant","content":""},"done":true,"prompt_eval_count":%d,"eval_count":%d}\n'


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _document(**members: object) -> list[bytes]:
    body = orjson.dumps(members)
    return [JSON % len(body), body]


@pytest.mark.parametrize("broken", [b"ZZ\r\n", b"5\r\nabcdefgh"])
async def test_a_chunk_with_broken_framing_ends_the_stream_with_an_error(
    gateway: RunningGateway, node: FakeOllama, broken: bytes
) -> None:
    gate = Gate()
    node.cue(Answer(raw=[CHUNKED + _chunk(LINE), broken], hold_body=gate))
    async with asked(gateway, "/api/chat", CHAT) as client:
        await client.head()
        await client.reader.readuntil(b"done")
        gate.set()
        rest = await client.reader.readuntil(b"0\r\n\r\n")
    assert b'{"error":' in rest
    await at_rest(gateway)
    row = await gateway.row()
    assert (row["status"], row["outcome"]) == (502, "failed")


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
