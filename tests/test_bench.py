"""The bench runs, and does not believe a wrong answer."""

import asyncio
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

import orjson
import pytest
from parallama_anthropic.answers import open_messages
from parallama_openai.chat import open_chat
from parallama_openai.responses import open_response
from usage_rows import eventually

from parallama.gateway.api import Codec, Head, Inbound
from parallama.testing import inbound

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from bench import accounting, chat  # noqa: E402 - it is run from the root, not installed
from bench.accounting import Clients  # noqa: E402
from bench.client import Wrong  # noqa: E402
from bench.dialects import DIALECTS, NATIVE  # noqa: E402
from bench.load import Generator, Load  # noqa: E402
from bench.rounds import LOADS, TRANSLATED  # noqa: E402
from bench.systems import Failed, System  # noqa: E402

FIRST = chat.line(b"bench:2x0us", 0, 1)
SECOND = chat.line(b"bench:2x0us", 1, 1)
LAST = chat.last_line(b"bench:2x0us", 2)
OPEN: dict[str, Callable[[Inbound], Codec]] = {
    "openai": open_chat,
    "responses": open_response,
    "anthropic": open_messages,
}


async def _python(*arguments: str) -> tuple[int | None, str, str]:
    """Run a module from the root: exit code, stdout, stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def _load(kind: str, answer: bytes) -> tuple[int | None, str, str]:
    """One load on a node that says `answer` to every request, then closes."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(say, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        load = Load(kind=kind, port=port, key="none", connections=1, seconds=0, watch={}, chunks=2)
        return await _python("bench.load", json.dumps(asdict(load)))


def _framed(body: bytes, head: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return b"%s\r\nContent-Length: %d\r\n\r\n%s" % (head, len(body), body)


def _translated(dialect: str, *, stream: bool = True) -> bytes:
    """What the codec of a dialect makes of the node's answer."""
    body = DIALECTS[dialect].body("bench:2x0us", stream)
    codec = OPEN[dialect](inbound(orjson.dumps(body), models=["bench:2x0us"]))
    codec.begin(Head(200))
    return codec.feed(FIRST + SECOND + LAST) + codec.finish()


def _changed(answer: bytes, change: str) -> bytes:
    """A stream of events that is wrong; b"" behind the last one ends it."""
    *events, end = answer.split(b"\n\n")
    first = next(place for place, event in enumerate(events) if b" 0000000 " in event)
    before, chunks, after = events[:first], events[first : first + 2], events[first + 2 :]
    wrong: Mapping[str, list[bytes]] = {
        "the end is missing": [*events[:-1], end],
        "the end comes twice": [*events, events[-1], end],
        "the beginning is missing": [*events[1:], end],
        "a chunk is missing": [*before, chunks[1], *after, end],
        "chunks are exchanged": [*before, *reversed(chunks), *after, end],
        "a chunk is an error": [*before, b'data: {"error":{}}', *after, end],
        "other counts": [*before, *chunks, *(event.replace(b"224", b"225") for event in after), end],
        "another reason": [re.sub(rb'"(end_turn|stop|completed)"', b'"length"', event) for event in [*events, end]],
        "half an event more": [*events, b"data: {"],
    }
    return b"\n\n".join(wrong[change])


async def _found(answer: bytes, dialect: str, kind: str = "streams") -> dict[str, Any]:
    """What a load finds at a node that says `answer` to every request. Raises Wrong."""
    left = asyncio.Event()

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(int(re.findall(rb"Content-Length: (\d+)", head)[0]))
                writer.write(_framed(answer))
        writer.close()
        left.set()

    async with await asyncio.start_server(say, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        load = Load(kind=kind, port=port, key="none", connections=1, seconds=0.1, watch={}, chunks=2, dialect=dialect)
        try:
            return await Generator(load).run()
        finally:
            await left.wait()


@pytest.mark.parametrize("refused", [range(1), range(99, 100), range(1 << 30)], ids=["at first", "once", "always"])
async def test_where_redis_was_late_the_cost_of_the_ledger_is_measured_again(
    monkeypatch: pytest.MonkeyPatch, refused: range
) -> None:
    monkeypatch.setattr(accounting, "_REFUSED_S", 0.0)
    requests, serving = count(), set[asyncio.StreamWriter]()

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(int(re.findall(rb"(?i)content-length: (\d+)", head)[0]))
                late = next(requests) in refused
                right = _framed(chat.document(b"bench:1x0us", 1))
                writer.write(_framed(b"{}", b"HTTP/1.1 503 Service Unavailable") if late else right)
        writer.close()
        serving.remove(writer)

    async with await asyncio.start_server(say, "127.0.0.1", 0) as server:
        clients = Clients(System("late", server.sockets[0].getsockname()[1], os.getpid()))
        if len(refused) > 1:
            with pytest.raises(Failed, match=r"^late: refused: "):
                await asyncio.to_thread(clients.cpu_us)
        else:
            assert await asyncio.to_thread(clients.cpu_us) > 0
        clients.close()
        await eventually(lambda: not serving)


async def test_the_cost_of_the_ledger_is_not_told_of_wrong_answers() -> None:
    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(_framed(chat.document(b"bench:1x0us", 2)))
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(say, "127.0.0.1", 0) as server:
        clients = Clients(System("wrong", server.sockets[0].getsockname()[1], os.getpid()))
        with pytest.raises(Failed, match=r"^wrong: wrong: "):
            await asyncio.to_thread(clients.cpu_us)
        clients.close()


@pytest.mark.timeout(300)
async def test_the_bench_measures_every_system_and_writes_its_table(tmp_path: Path) -> None:
    out = tmp_path / "results.md"
    code, said, err = await _python("bench", "--smoke", "--out", str(out))
    assert code == 0, err
    page = out.read_text("utf-8")
    for title in ("CPU per unary request", "CPU per chunk, fast", "memory per idle stream", "added to the first byte"):
        assert re.search(rf"^\| {title}[^|]*\| +-?[\d.,]+ +\| +-?[\d.,]+ +\| +-?[\d.,]+ +\|$", page, re.MULTILINE), page
    assert "parallama / bare" in said
    for name in ("no limits", "four limits"):
        cells = rf"^\| {name}( +\| \d+ +\| [+-]\d+){{3}} +\|$"
        assert re.search(cells, page, re.MULTILINE), page
        assert re.search(cells, said, re.MULTILINE), said
    assert len(re.findall(r"^\| [^|]+\| - / \d+ % +\| +\d+ % / \d+ % +\| +\d+ % / \d+ %", page, re.M)) == len(LOADS)
    lines = len(re.findall(r"\d+ % / \d+ %", page)) - 2 * len(LOADS)
    assert lines == sum(map(len, TRANSLATED.values())), page
    for name in ("openai", "responses", "anthropic"):
        number = r" +-?[\d.,]+ +\|"
        assert re.search(rf"^\| chunk, [^|]*\| {DIALECTS[name].title} +\|{number * 3}$", said, re.MULTILINE), said


@pytest.mark.parametrize(
    ("kind", "answer", "complaint"),
    [
        ("once", _framed(chat.document(b"bench:2x0us", 3)), "another document"),
        ("once", _framed(b"no", b"HTTP/1.1 502 Bad Gateway"), "status 502"),
        ("once", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", "lost"),
        ("once", b"nonsense\r\n\r\n", "HttpParser"),
        ("paced", _framed(FIRST + LAST), "event 2 is no chunk"),
        ("paced", _framed(SECOND + FIRST + LAST), "chunk 1 came where chunk 0"),
        ("paced", _framed(FIRST + SECOND), "a stream of 2 events"),
        ("paced", _framed(FIRST + SECOND + LAST + b"{"), "rest"),
        ("paced", _framed(FIRST + SECOND + LAST.replace(b"224", b"225")), "event 3 of 3 is another"),
        ("paced", _framed(FIRST + SECOND + LAST + LAST), "event 4 of 3 is another"),
    ],
)
async def test_a_wrong_answer_ends_the_load_with_one_line(kind: str, answer: bytes, complaint: str) -> None:
    code, said, err = await _load(kind, answer)
    assert (code, said) == (1, "")
    assert complaint in err
    assert err.count("\n") == 1, err


@pytest.mark.parametrize("dialect", OPEN)
async def test_a_right_translation_is_known_for_one(dialect: str) -> None:
    streamed = await _found(_translated(dialect), dialect)
    assert streamed["answers"] > 0
    assert streamed["chunks"] >= 2 * streamed["answers"]
    whole = await _found(_translated(dialect, stream=False), dialect, "once")
    assert whole["answers"] > 0


async def test_paced_streams_that_end_before_all_have_begun_are_asked_for_again() -> None:
    found = await _found(FIRST + SECOND + LAST, NATIVE, "paced")
    assert found["answers"] > 1


@pytest.mark.parametrize("dialect", OPEN)
@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("the end is missing", "a stream of"),
        ("the end comes twice", "is another"),
        ("the beginning is missing", "event 1 of"),
        ("a chunk is missing", "chunk 1 came where chunk 0"),
        ("chunks are exchanged", "chunk 1 came where chunk 0"),
        ("a chunk is an error", "is no chunk"),
        ("other counts", "is another"),
        ("another reason", "is another"),
        ("half an event more", "rest b'data: {'"),
    ],
)
async def test_a_wrong_translation_ends_the_load(dialect: str, change: str, complaint: str) -> None:
    with pytest.raises(Wrong, match=complaint):
        await _found(_changed(_translated(dialect), change), dialect)


@pytest.mark.parametrize("dialect", OPEN)
async def test_a_wrong_document_ends_the_load(dialect: str) -> None:
    document = _translated(dialect, stream=False).replace(b" 0000001 ", b" 0000002 ")
    with pytest.raises(Wrong, match="another document"):
        await _found(document, dialect, "once")


async def test_a_node_that_is_not_there_ends_the_load_with_one_line() -> None:
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    load = Load(kind="once", port=port, key="none", connections=1, seconds=0, watch={})
    code, said, err = await _python("bench.load", json.dumps(asdict(load)))
    assert (code, said, err.count("\n")) == (1, "", 1)
