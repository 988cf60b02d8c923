"""The test kit: what a fake node records, and every way in which it fails on cue."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httptools
import pytest
from raw_http import Got, RawClient, raw_client, request_bytes

from parallama.simulated.recordings import cut_at
from parallama.testing import (
    BAD_CHUNKS,
    BAD_HEADS,
    BUSY,
    EVERY_BYTE,
    Answer,
    FakeOllama,
    Fault,
    Framing,
    Recording,
    fake_ollama,
    fragmentations,
    load_recording,
)

pytest_plugins = ["parallama.testing.plugin"]

FOLDER = Path(__file__).parent / "recordings"
RECORDINGS = sorted(path.name for path in FOLDER.glob("*.json"))
PROMPT = {"model": "llama3.2:1b", "prompt": "Why?", "options": {"num_predict": 4}}
ROOT = Path(__file__).parent.parent
DOCS = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")


@pytest.fixture
async def raw(ollama_node: FakeOllama) -> AsyncIterator[RawClient]:
    async with raw_client(ollama_node.port) as client:
        yield client


async def generate(raw: RawClient, **given: Any) -> Got:
    return await raw.ask("POST", "/api/generate", PROMPT | given)


# What the node records


async def test_a_request_is_recorded_as_it_was_sent(ollama_node: FakeOllama, raw: RawClient) -> None:
    await raw.ask("POST", "/api/generate?x=1", PROMPT, "X-Odd-Case: one", "x-odd-case: two")
    seen = await ollama_node.request_for("/api/generate")
    assert ollama_node.requests == [seen]
    assert (seen.method, seen.target, seen.path) == ("POST", "/api/generate?x=1", "/api/generate")
    assert seen.headers[1:3] == [("X-Odd-Case", "one"), ("x-odd-case", "two")]
    assert json.loads(seen.body) == PROMPT
    await seen.done.wait()
    assert not seen.client_left.is_set()


async def test_a_request_has_arrived_only_with_its_last_byte(ollama_node: FakeOllama, raw: RawClient) -> None:
    whole = request_bytes("POST", "/api/generate", PROMPT)
    arrival = asyncio.get_running_loop().create_task(ollama_node.request_for("/api/generate"), name="arrival")
    await raw.send(whole[:-1])
    while not ollama_node.seen("/api/generate"):
        await asyncio.sleep(0)
    assert not ollama_node.requests[0].arrived.is_set()
    assert not arrival.done()
    await raw.send(whole[-1:])
    assert (await arrival).body == whole[-len((await arrival).body) :]


@pytest.mark.parametrize(
    "answer",
    [
        lambda: Answer(hold_head=asyncio.Event()),
        lambda: Answer(hold_body=asyncio.Event()),
        lambda: Answer(hold_chunks=asyncio.Event()),
    ],
    ids=["before the head", "before the body", "in the body"],
)
async def test_a_client_that_leaves_is_noticed_wherever_the_answer_stands(
    answer: Callable[[], Answer], ollama_node: FakeOllama
) -> None:
    ollama_node.cue(answer())
    async with raw_client(ollama_node.port) as raw:
        await raw.send(request_bytes("POST", "/api/generate", PROMPT))
        seen = await ollama_node.request_for("/api/generate")
    async with asyncio.timeout(30):
        await seen.client_left.wait()
        await seen.done.wait()


async def test_a_half_close_counts_as_leaving(ollama_node: FakeOllama, raw: RawClient) -> None:
    ollama_node.cue(Answer(hold_head=asyncio.Event()))
    await raw.send(request_bytes("POST", "/api/generate", PROMPT))
    raw.writer.write_eof()
    await (await ollama_node.request_for("/api/generate")).client_left.wait()


async def test_a_node_that_is_closed_does_not_say_that_the_client_left(ollama_node: FakeOllama) -> None:
    ollama_node.cue(Answer(hold_head=asyncio.Event()))
    async with raw_client(ollama_node.port) as raw:
        await raw.send(request_bytes("POST", "/api/generate", PROMPT))
        seen = await ollama_node.request_for("/api/generate")
        await ollama_node.close()
        assert await raw.reader.read() == b""
    assert (seen.done.is_set(), seen.client_left.is_set()) == (True, False)


# Which request a cue is for


async def test_a_cue_without_a_path_is_left_for_the_next_post(ollama_node: FakeOllama, raw: RawClient) -> None:
    ollama_node.cue(Answer(status=500, error="one"))
    ollama_node.cue(Answer(status=502, error="two"))
    assert (await raw.ask("GET", "/api/tags")).status == 200
    assert [(await generate(raw)).status for _ in range(3)] == [500, 502, 200]


async def test_a_cue_with_a_path_is_for_that_path_as_often_as_it_says(ollama_node: FakeOllama, raw: RawClient) -> None:
    ollama_node.cue(Answer(status=500, error="down"), "/api/tags", times=None)
    ollama_node.cue(Answer(status=500, error="twice"), "/api/ps", times=2)
    assert (await generate(raw)).status == 200
    assert [(await raw.ask("GET", "/api/tags")).status for _ in range(4)] == [500] * 4
    assert [(await raw.ask("GET", "/api/ps")).status for _ in range(3)] == [500, 500, 200]
    ollama_node.clear()
    assert (await raw.ask("GET", "/api/tags")).status == 200


# Answers with content of their own


async def test_an_error_has_the_bytes_of_a_real_one(ollama_node: FakeOllama, raw: RawClient) -> None:
    ollama_node.cue(Answer(status=503, error=BUSY, headers=[("Retry-After", "7")]))
    got, real = await generate(raw), load_recording(FOLDER / "busy-generate.json")
    assert (got.status_line.encode(), got.body) == ((real.head or b"").split(b"\r\n")[0], real.body)
    assert ("Retry-After", "7") in got.headers


async def test_given_lines_are_sent_one_to_a_chunk(ollama_node: FakeOllama, raw: RawClient) -> None:
    lines = [b'{"response":"a","done":false}\n', b'{"response":"","done":true}\n']
    ollama_node.cue(Answer(lines=lines))
    assert (await generate(raw)).chunks == lines


async def test_given_bytes_are_sent_as_they_are(ollama_node: FakeOllama, raw: RawClient) -> None:
    given = [b"HTTP/1.1 200 OK\r\n", b"content-LENGTH: 2\r\n\r\n", b"{}"]
    ollama_node.cue(Answer(raw=given, raw_ends=Fault.CLOSE))
    await raw.send(request_bytes("POST", "/api/chat", {}))
    assert await raw.reader.read() == b"".join(given)


# Time


async def test_each_part_of_an_answer_waits_for_its_gate(ollama_node: FakeOllama, raw: RawClient) -> None:
    head, body, chunks = asyncio.Event(), asyncio.Event(), asyncio.Semaphore(0)
    ollama_node.cue(Answer(hold_head=head, hold_body=body, hold_chunks=chunks))
    await raw.send(request_bytes("POST", "/api/generate", PROMPT))
    await ollama_node.request_for("/api/generate")
    nothing_yet = asyncio.get_running_loop().create_task(raw.reader.readuntil(b"\r\n\r\n"), name="head")
    assert await still_waits(nothing_yet)
    head.set()
    assert (await nothing_yet).startswith(b"HTTP/1.1 200 OK")
    for let_go in (body.set, chunks.release, chunks.release, chunks.release):
        chunk = asyncio.get_running_loop().create_task(raw.chunk(), name="chunk")
        assert await still_waits(chunk)
        let_go()
        assert json.loads(await chunk)["done"] is False


async def still_waits(task: asyncio.Task[Any]) -> bool:
    """Whether `task` is not done after all that was ready to run has run, sockets included."""
    for _ in range(20):
        await asyncio.sleep(0)
    return not task.done()


async def test_seconds_hold_an_answer_too(ollama_node: FakeOllama, raw: RawClient) -> None:
    ollama_node.cue(Answer(hold_head=0.05))
    start = asyncio.get_running_loop().time()
    await generate(raw)
    assert asyncio.get_running_loop().time() - start >= 0.05


# Bytes


async def test_an_answer_cut_anywhere_is_the_same_answer(ollama_node: FakeOllama, raw: RawClient) -> None:
    given = load_recording(FOLDER / "generate-emoji.json")
    for cuts in ((), (5, 300), EVERY_BYTE):
        ollama_node.cue(Answer(raw=given.pieces(), cuts=cuts))
        assert (await generate(raw)).chunks == list(given.chunks)


class Pieces(asyncio.Protocol):
    """Keeps what each read of the socket gave."""

    def __init__(self) -> None:
        self.read: list[bytes] = []
        self.ended = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.read.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()


async def test_every_byte_is_a_write_of_its_own(ollama_node: FakeOllama) -> None:
    ollama_node.cue(Answer(raw=[b"0123456789" * 10], cuts=EVERY_BYTE, raw_ends=Fault.CLOSE))
    transport, pieces = await asyncio.get_running_loop().create_connection(Pieces, "127.0.0.1", ollama_node.port)
    transport.write(request_bytes("POST", "/api/chat", {}))
    async with asyncio.timeout(30):
        await pieces.ended.wait()
    assert b"".join(pieces.read) == b"0123456789" * 10
    assert len(pieces.read) > 10  # the kernel may join a few


@pytest.mark.parametrize("off", [10, -10])
async def test_a_wrong_content_length_is_announced(off: int, ollama_node: FakeOllama, raw: RawClient) -> None:
    ollama_node.cue(Answer(length_off=off, status=400, error="no such thing"))
    await raw.send(request_bytes("POST", "/api/generate", PROMPT))
    head = await raw.head()
    body = await raw.reader.read()
    announced = int(re.findall(r"Content-Length: (\d+)", head)[0])
    assert (announced - off, body) == (len(body), b'{"error":"no such thing"}')


# What the node does with the request


async def test_a_final_answer_can_come_while_the_body_is_still_coming(ollama_node: FakeOllama, raw: RawClient) -> None:
    ollama_node.cue(Answer(reads=0, status=413, error="too large"))
    await raw.send(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 200\r\n\r\n" + b"x" * 100)
    got = await raw.answer()
    assert (got.status, got.json()) == (413, {"error": "too large"})
    assert ("Connection", "close") in got.headers
    raw.writer.write_eof()
    assert await raw.reader.read() == b""
    seen = await ollama_node.request_for("/api/chat")
    assert seen.body == b""


async def test_a_node_that_reads_nothing_does_not_ask_for_the_body(ollama_node: FakeOllama, raw: RawClient) -> None:
    ollama_node.cue(Answer(reads=0, status=401, error="who are you"))
    head = b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    await raw.send(head)
    assert (await raw.answer()).status == 401


async def test_a_node_can_stop_reading_the_body(ollama_node: FakeOllama, raw: RawClient) -> None:
    ollama_node.cue(Answer(reads=1000))
    await raw.send(b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n" + b"x" * 1000)
    seen = await ollama_node.request_for("/api/chat")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await raw.send(b"x" * 64_000_000)
    assert raw.writer.transport.get_write_buffer_size() > 0
    assert seen.body == b"x" * 1000
    assert not seen.done.is_set()


# Heads


async def test_heads_of_1xx_come_before_the_answer(ollama_node: FakeOllama, raw: RawClient) -> None:
    gate = asyncio.Event()
    ollama_node.cue(Answer(interim=[100, 103], hold_head=gate))
    await raw.send(request_bytes("POST", "/api/generate", PROMPT))
    heads = [await raw.head() for _ in range(2)]
    assert heads == ["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\n\r\n"]
    gate.set()
    assert (await raw.answer()).lines()[-1]["done"]


async def test_a_head_can_have_any_length(ollama_node: FakeOllama) -> None:
    ollama_node.cue(Answer(error="x", headers=[("X-Long", "x" * 2**20)]))
    ollama_node.cue(Answer(raw=chain([b"HTTP/1.1 200 OK\r\n"], repeat(b"X-More: and more\r\n" * 1000))))
    reader, writer = await asyncio.open_connection("127.0.0.1", ollama_node.port, limit=2**22)
    writer.write(request_bytes("POST", "/api/chat", {}) * 2)
    head = await reader.readuntil(b"\r\n\r\n")
    assert 2**20 < len(head) < 2**20 + 1000
    assert await reader.readexactly(len(b'{"error":"x"}')) == b'{"error":"x"}'
    endless = await reader.readexactly(2**21)
    assert b"\r\n\r\n" not in endless
    writer.transport.abort()
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    async with asyncio.timeout(30):
        await ollama_node.requests[1].client_left.wait()


@pytest.mark.parametrize("answer", [*BAD_HEADS.values(), *BAD_CHUNKS.values()], ids=[*BAD_HEADS, *BAD_CHUNKS])
async def test_what_is_no_http_is_no_answer_to_a_strict_reader(
    answer: Answer, ollama_node: FakeOllama, raw: RawClient
) -> None:
    ollama_node.cue(answer)
    await raw.send(request_bytes("POST", "/api/chat", {}))
    sent = await raw.reader.read()
    assert sent == b"".join(answer.raw or ())
    ended: list[bool] = []
    with suppress(httptools.HttpParserError):
        httptools.HttpResponseParser(SimpleNamespace(on_message_complete=lambda: ended.append(True))).feed_data(sent)
    assert not ended


# Bodies


async def test_a_body_can_end_with_its_connection(ollama_node: FakeOllama) -> None:
    for cue in (Answer(until_close=True), Answer(until_close=True, status=500, error="x")):
        ollama_node.cue(cue)
        async with raw_client(ollama_node.port) as raw:
            got = await generate(raw)
        assert (got.framing, got.status) == ("close", cue.status)
        assert not {"Content-Length", "Transfer-Encoding"} & {name for name, _ in got.headers}
        assert "error" in got.json() if cue.error else got.lines()[-1]["done"]


async def test_bytes_can_follow_the_end_of_the_answer(ollama_node: FakeOllama, raw: RawClient) -> None:
    second = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    for cue in (Answer(extra=second), Answer(extra=second, error="x", status=500)):
        ollama_node.cue(cue)
        assert (await generate(raw)).status == cue.status
        assert await raw.reader.readexactly(len(second)) == second
    assert (await generate(raw)).status == 200


async def test_a_slow_drip_waits_before_each_write(ollama_node: FakeOllama, raw: RawClient) -> None:
    drops = asyncio.Semaphore(0)
    ollama_node.cue(Answer(raw=[b"HTTP/1.1 ", b"200"], cuts=EVERY_BYTE, hold_writes=drops))
    await raw.send(request_bytes("POST", "/api/chat", {}))
    assert await raw.reader.readexactly(1) == b"H"
    for byte in b"TTP/1.1 200":
        drop = asyncio.get_running_loop().create_task(raw.reader.readexactly(1), name="drop")
        assert await still_waits(drop)
        drops.release()
        assert await drop == bytes([byte])


async def test_a_flood_goes_on_until_the_client_leaves(ollama_node: FakeOllama) -> None:
    line = b'{"response":"x","done":false}\n'
    ollama_node.cue(Answer(lines=repeat(line * 100)))
    async with raw_client(ollama_node.port) as raw:
        await raw.send(request_bytes("POST", "/api/generate", PROMPT))
        await raw.head()
        for _ in range(2000):
            assert await raw.chunk() == line * 100
    async with asyncio.timeout(30):
        await ollama_node.requests[0].client_left.wait()


# Faults


BREAKS = [Fault.CLOSE, Fault.RESET, Fault.HANG]


@pytest.mark.parametrize("fault", BREAKS)
@pytest.mark.parametrize("size", [None, 0, 10])
async def test_an_answer_breaks_before_or_within_its_head(
    fault: Fault, size: int | None, ollama_node: FakeOllama, raw: RawClient
) -> None:
    ollama_node.cue(Answer(fault=fault, after_head=size))
    await raw.send(request_bytes("POST", "/api/generate", PROMPT))
    received = await broken(raw.reader, fault, lambda data: len(data) == (size or 0))
    assert received == b"HTTP/1.1 200 OK"[: size or 0]
    await is_over(ollama_node, fault)


@pytest.mark.parametrize("fault", BREAKS)
@pytest.mark.parametrize("size", [0, 120, 10**6])
async def test_an_answer_breaks_within_its_body_or_before_the_terminator(
    fault: Fault, size: int, ollama_node: FakeOllama, raw: RawClient
) -> None:
    ollama_node.cue(Answer(fault=fault, after_body=size))
    await raw.send(request_bytes("POST", "/api/generate", PROMPT))
    assert (await raw.head()).startswith("HTTP/1.1 200 OK")
    body = await broken(
        raw.reader,
        fault,
        lambda data: len(payload(data)) == size or (data.endswith(b"}\n\r\n") and b'"done":true' in data),
    )
    assert len(payload(body)) == size or json.loads(payload(body).splitlines()[-1])["done"]
    assert not body.endswith(b"0\r\n\r\n")
    await is_over(ollama_node, fault)


async def broken(reader: asyncio.StreamReader, fault: Fault, whole: Callable[[bytes], bool]) -> bytes:
    """What comes before the connection ends as `fault` says. HANG: until it is `whole`, and then nothing more."""
    received = b""
    try:
        while not (fault is Fault.HANG and whole(received)) and (piece := await reader.read(65536)):
            received += piece
    except ConnectionResetError:
        assert fault is Fault.RESET
        return received
    assert fault is not Fault.RESET
    more = asyncio.get_running_loop().create_task(reader.read(1), name="more")
    assert await still_waits(more) is (fault is Fault.HANG)
    more.cancel()
    return received


async def is_over(node: FakeOllama, fault: Fault) -> None:
    """The node is done with the request, unless it hangs, and does not blame the client."""
    seen = await node.request_for("/api/generate")
    if fault is not Fault.HANG:
        await seen.done.wait()
    assert seen.done.is_set() is (fault is not Fault.HANG)
    assert not seen.client_left.is_set()


def payload(chunked: bytes) -> bytes:
    """The data in a chunked body that may break off anywhere."""
    found = b""
    while chunked:
        size, _, chunked = chunked.partition(b"\r\n")
        found += chunked[: int(size, 16)]
        chunked = chunked[int(size, 16) + 2 :]
    return found


async def test_a_broken_answer_leaves_the_node_ready(ollama_node: FakeOllama) -> None:
    for _ in range(8):
        ollama_node.cue(Answer(fault=Fault.RESET, after_body=10))
        async with raw_client(ollama_node.port) as raw:
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await generate(raw)
    async with raw_client(ollama_node.port) as raw:
        assert (await generate(raw)).status == 200


async def test_an_error_line_comes_after_a_200_and_ends_cleanly(ollama_node: FakeOllama, raw: RawClient) -> None:
    ollama_node.cue(Answer(fault=Fault.ERROR_LINE, after_lines=2))
    got, real = await generate(raw), load_recording(FOLDER / "runner-killed-generate.json")
    assert got.status == 200
    assert [line.get("done") for line in got.lines()] == [False, False, None]
    assert got.chunks[-1] == real.chunks[-1]
    ollama_node.cue(Answer(fault=Fault.ERROR_LINE, after_lines=0, error="out of memory"))
    assert (await generate(raw)).lines() == [{"error": "out of memory"}]


@pytest.mark.parametrize("stream", [True, False])
async def test_bad_json_takes_the_place_of_one_line(stream: bool, ollama_node: FakeOllama, raw: RawClient) -> None:
    ollama_node.cue(Answer(fault=Fault.BAD_JSON, after_lines=1 if stream else 0))
    got = await generate(raw, stream=stream)
    bad = got.chunks.pop(1 if stream else 0)
    with pytest.raises(ValueError):
        json.loads(bad)
    assert len(got.lines()) == (4 if stream else 0)


async def test_a_stream_can_end_cleanly_without_its_last_line(ollama_node: FakeOllama, raw: RawClient) -> None:
    ollama_node.cue(Answer(fault=Fault.NO_DONE))
    assert [line["done"] for line in (await generate(raw)).lines()] == [False] * 4
    ollama_node.cue(Answer(fault=Fault.NO_DONE))
    assert "success" not in (await raw.ask("POST", "/api/pull", {"model": "mistral"})).body.decode()


# Recordings


@pytest.mark.parametrize("name", RECORDINGS)
async def test_a_replay_is_the_recording_byte_for_byte(name: str, ollama_node: FakeOllama) -> None:
    recording = load_recording(FOLDER / name)
    ollama_node.replay(recording)
    async with raw_client(ollama_node.port) as raw:
        await raw.send(request_bytes("POST", "/api/chat", {}))
        expected = recording.response_bytes()
        assert await raw.reader.readexactly(len(expected)) == expected
        if recording.end in ("closed inside", "closed without an answer"):
            assert await raw.reader.read() == b""
        elif recording.complete and Answer.of(recording).raw_ends is None:
            assert (await raw.ask("GET", "/")).body == b"Ollama is running"


async def test_there_are_recordings() -> None:
    assert len(RECORDINGS) > 100


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_recording_agrees_with_itself(name: str) -> None:
    recording: Recording = load_recording(FOLDER / name)
    headers = {key.lower(): value for key, value in recording.headers}
    assert recording.request_head.endswith(b"\r\n\r\n")
    if recording.framing is Framing.LENGTH:
        assert int(headers["content-length"]) == len(recording.body)
    assert (recording.framing is Framing.CHUNKED) == ("transfer-encoding" in headers)
    assert (recording.status is None) == (recording.head is None)
    if recording.framing is Framing.CHUNKED and recording.complete:
        assert recording.response_bytes().endswith(b"\r\n0\r\n\r\n")


def test_bytes_that_are_no_text_and_bodies_that_were_not_kept_are_told_apart() -> None:
    odd = load_recording(FOLDER / "json-invalid-utf8-model.json")
    assert odd.request_body == b'{"model":"wor\xffdy","prompt":"ab","stream":false}'
    assert load_recording(FOLDER / "json-deep.json").request_body is None
    assert load_recording(FOLDER / "copy.json").request_bytes().endswith(b'"destination": "wordy-copy"}')


def test_a_file_that_is_no_recording_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"name": "x"}')
    with pytest.raises(KeyError):
        load_recording(tmp_path / "x.json")


def test_fragmentations_join_to_the_data_and_cut_inside_characters() -> None:
    data = '{"response":"Grüße 😂"}\n'.encode()
    found = list(fragmentations(data, seed=1))
    assert all(b"".join(pieces) == data and all(pieces) for pieces in found)
    assert found[0] == [data]
    assert found[1] == [bytes([byte]) for byte in data]
    assert b"\x9f" in found[2]
    assert list(fragmentations(data, seed=1)) == found != list(fragmentations(data, seed=2))
    assert next(fragmentations(b"", seed=1)) == []


def test_cuts_outside_the_data_do_nothing() -> None:
    assert cut_at(b"abc", [-1, 0, 1, 3, 9]) == [b"a", b"bc"]


# The kit itself


async def test_a_node_of_ones_own_has_the_models_that_were_asked_for() -> None:
    async with fake_ollama(["one", "two-embed"], answer_tokens=5) as node, raw_client(node.port) as raw:
        tags = (await raw.ask("GET", "/api/tags")).json()["models"]
        assert {model["name"] for model in tags} == {"one:latest", "two-embed:latest"}
        lines = (await raw.ask("POST", "/api/generate", {"model": "one", "prompt": "Why?"})).lines()
        assert len(lines) == 5 + 1
        assert lines[-1]["eval_count"] == 5 + 1  # the end token counts
        assert (await raw.ask("POST", "/api/embed", {"model": "two-embed", "input": "x"})).status == 200


# The plugin and the page


def run_pytest(folder: Path, *options: str, path: str = "", alone: bool = True, before: str = "") -> str:
    """What pytest prints about the tests in `folder`; `alone`: without the plugins that are installed."""
    code = f"import sys; {before}\nimport pytest\nsys.exit(pytest.main(sys.argv[1:]))"
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")} | {"PYTHONPATH": path}
    env |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"} if alone else {}
    command = [sys.executable, "-c", code, "-W", "error", "-p", "no:cacheprovider", "--rootdir", str(folder), *options]
    ran = subprocess.run(
        [*command, str(folder)], env=env, cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    return ran.stdout + ran.stderr


PLUGIN = ("-p", "parallama.testing.plugin")
ASYNCIO = (
    "-p",
    "pytest_asyncio.plugin",
    "-o",
    "asyncio_mode=auto",
    "-o",
    "asyncio_default_fixture_loop_scope=function",
)


def test_whoever_has_installed_parallama_has_the_fixture(tmp_path: Path) -> None:
    entries = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    installed = tmp_path / "site" / "stranger-1.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1\n")
    lines = [f"{name} = {module}" for name, module in entries.items()]
    (installed / "entry_points.txt").write_text("\n".join(["[pytest11]", *lines]))
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "test_it.py").write_text("async def test_it(ollama_node):\n    assert ollama_node.port\n")
    said = run_pytest(tests, *ASYNCIO[2:], path=str(installed.parent), alone=False)
    assert "1 passed" in said, said


def test_the_plugin_imports_nothing_until_a_test_asks(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import sys\n\ndef test_it():\n"
        "    assert 'parallama.testing.plugin' in sys.modules\n"
        "    found = {name for name in sys.modules if name.startswith(('aiohttp', 'parallama'))}\n"
        "    assert found == {'parallama', 'parallama.version', 'parallama.testing', 'parallama.testing.plugin'}\n"
    )
    without = "sys.modules['pytest_asyncio'] = None"
    said = run_pytest(tmp_path, *PLUGIN, before=without)
    assert "1 passed" in said, said


def blocks() -> dict[str, str]:
    """The files in docs/testing.md, by name."""
    return dict(re.findall(r"`(\w+\.py)`[^`]*(?:\[[^]]*\]\([^)]*\)[^`]*)?```python\n(.*?)```", DOCS, re.S))


def test_the_examples_of_the_page_work_as_they_stand(tmp_path: Path) -> None:
    files = blocks()
    assert set(files) == {"test_node.py", "parallama_say.py", "test_say.py"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    said = run_pytest(tmp_path, *ASYNCIO, *PLUGIN, path=str(tmp_path))
    assert "6 passed" in said, said


def fault_cells() -> list[str]:
    table = DOCS.partition("## Every fault")[2].partition("\n## ")[0]
    return [line.split("|")[2] for line in table.splitlines() if line.startswith("| ")][1:]


def test_every_answer_in_the_table_of_faults_can_be_given() -> None:
    import parallama.testing as kit

    names = {name: getattr(kit, name) for name in kit.__all__} | {"LINE": b"{}\n", "chain": chain, "repeat": repeat}
    given = [text for cell in fault_cells() for text in re.findall(r"`(Answer\(.*?\))`", cell)]
    assert len(given) >= 20
    for text in given:
        assert isinstance(eval(text, dict(names)), Answer), text


def test_everything_in_the_kit_is_documented() -> None:
    import parallama.testing as kit

    names = [*kit.__all__, *(fault.name for fault in Fault), *Answer.__dataclass_fields__]
    names += [
        name for name in vars(FakeOllama) if not name.startswith("_") and name not in ("request", "responder", "answer")
    ]
    assert [name for name in names if f"`{name}" not in DOCS and f".{name}" not in DOCS] == []
