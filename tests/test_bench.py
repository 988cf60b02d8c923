"""The bench runs, and does not believe a wrong answer."""

import asyncio
import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import orjson
import pytest

from parallama.gateway.api import Codec, Inbound
from parallama.testing import inbound
from parallama_anthropic.answers import open_messages
from parallama_openai.chat import open_chat
from parallama_openai.responses import open_response

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from bench import chat  # noqa: E402 - it is run from the root, not installed
from bench.dialects import DIALECTS, NATIVE  # noqa: E402
from bench.load import Load  # noqa: E402
from bench.rounds import LOADS, TRANSLATED  # noqa: E402

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


async def _load(kind: str, answer: bytes, dialect: str = NATIVE) -> tuple[int | None, str, str]:
    """One load on a node that says `answer` to every request, then closes."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(say, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        load = Load(kind=kind, port=port, key="none", connections=1, seconds=0, watch={}, chunks=2, dialect=dialect)
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
    """A stream of events that is wrong."""
    *events, end = answer.split(b"\n\n")
    first = next(place for place, event in enumerate(events) if b" 0000000 " in event)
    wrong: Mapping[str, list[bytes]] = {
        "no end": events[:-1],
        "two ends": [*events, events[-1]],
        "no beginning": events[1:],
        "a chunk is lost": events[:first] + events[first + 1 :],
        "chunks are exchanged": [*events[:first], events[first + 1], events[first], *events[first + 2 :]],
        "an error": [*events[: first + 1], b'data: {"error":{}}', *events[first + 2 :]],
        "other counts": [event.replace(b"224", b"225") for event in events],
        "another reason": [re.sub(rb"end_turn|\"stop\"|\"completed\"", b'"length"', event) for event in events],
        "half an event more": [*events, b"data: {"],
    }
    return b"\n\n".join([*wrong[change], *([end] if change != "half an event more" else [])])


async def test_the_bench_measures_every_system_and_writes_its_table(tmp_path: Path) -> None:
    out = tmp_path / "results.md"
    code, said, err = await _python("bench", "--smoke", "--out", str(out))
    assert code == 0, err
    page = out.read_text("utf-8")
    for title in ("CPU per unary request", "CPU per chunk, fast", "memory per idle stream", "added to the first byte"):
        assert re.search(rf"^\| {title}[^|]*\| +-?[\d.,]+ +\| +-?[\d.,]+ +\| +-?[\d.,]+ +\|$", page, re.MULTILINE), page
    assert "parallama / bare" in said
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
async def test_a_translated_answer_is_known_for_right(dialect: str) -> None:
    streamed = await _load("paced", _framed(_translated(dialect)), dialect)
    once = await _load("once", _framed(_translated(dialect, stream=False)), dialect)
    for code, said, err in (streamed, once):
        assert "lost" in err or code == 0, err
_ends_the_load_with_one_line() -> None:
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    load = Load(kind="once", port=port, key="none", connections=1, seconds=0, watch={})
    code, said, err = await _python("bench.load", json.dumps(asdict(load)))
    assert (code, said, err.count("\n")) == (1, "", 1)
