"""The bench runs, and does not believe a wrong answer."""

import asyncio
import json
import re
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from bench import chat  # noqa: E402 - it is run from the root, not installed
from bench.load import Load  # noqa: E402
from bench.rounds import LOADS  # noqa: E402

FIRST = chat.line(b"bench:2x0us", 0, 1)
SECOND = chat.line(b"bench:2x0us", 1, 1)
LAST = chat.last_line(b"bench:2x0us", 2)


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


async def test_the_bench_measures_every_system_and_writes_its_table(tmp_path: Path) -> None:
    out = tmp_path / "results.md"
    code, said, err = await _python("bench", "--smoke", "--out", str(out))
    assert code == 0, err
    page = out.read_text("utf-8")
    for title in ("CPU per unary request", "CPU per chunk, fast", "memory per idle stream", "added to the first byte"):
        assert re.search(rf"^\| {title}[^|]*\| +-?[\d.,]+ +\| +-?[\d.,]+ +\| +-?[\d.,]+ +\|$", page, re.MULTILINE), page
    assert "parallama / bare" in said
    assert len(re.findall(r"\d+ % +\| +\d+ % / \d+ % +\| +\d+ % / \d+ %", page)) == len(LOADS)


@pytest.mark.parametrize(
    ("kind", "answer", "complaint"),
    [
        ("once", _framed(chat.document(b"bench:2x0us", 3)), "another document"),
        ("once", _framed(b"no", b"HTTP/1.1 502 Bad Gateway"), "status 502"),
        ("once", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", "lost"),
        ("once", b"nonsense\r\n\r\n", "HttpParser"),
        ("paced", _framed(FIRST + LAST), "no last line"),
        ("paced", _framed(SECOND + FIRST + LAST), "line 1 came where line 0"),
        ("paced", _framed(FIRST + SECOND), "a stream of 2 lines"),
        ("paced", _framed(FIRST + SECOND + LAST + b"{"), "rest"),
    ],
)
async def test_a_wrong_answer_ends_the_load_with_one_line(kind: str, answer: bytes, complaint: str) -> None:
    code, said, err = await _load(kind, answer)
    assert (code, said) == (1, "")
    assert complaint in err
    assert err.count("\n") == 1, err


async def test_a_node_that_is_not_there_ends_the_load_with_one_line() -> None:
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    load = Load(kind="once", port=port, key="none", connections=1, seconds=0, watch={})
    code, said, err = await _python("bench.load", json.dumps(asdict(load)))
    assert (code, said, err.count("\n")) == (1, "", 1)
