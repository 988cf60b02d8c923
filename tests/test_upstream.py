"""The client of a node, against the kit: what of an answer it gives out, what it refuses, what it uses again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import chain, repeat

import pytest
from running import eventually
from upstream_client import CHUNK, CHUNKED, LINE, OK, PATH, WHOLE, accepted, client, drain, is_right, pipe, read

from parallama.errors import UpstreamFailed
from parallama.gateway.api import Head
from parallama.testing import BAD_CHUNKS, BAD_HEADS, EVERY_BYTE, Answer, FakeOllama, Fault

Way = Callable[..., Awaitable[tuple[Head, bytes]]]
WAYS = pytest.mark.parametrize("way", [read, pipe])


TAILS = {
    "garbage": b"garbage",
    "another answer": b"HTTP/1.1 500 No\r\nContent-Length: 5\r\n\r\nwrong",
    "half an answer": b"HTTP/1.1 500 No\r\nContent-Le",
    "an interim answer": b"HTTP/1.1 103 Early Hints\r\n\r\n",
    "zeros": b"\x00" * 70_000,
}


@WAYS
@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("at_once", [True, False])
async def test_bytes_behind_an_answer_belong_to_nothing_and_cost_the_connection(
    node: FakeOllama, way: Way, kind: str, tail: str, at_once: bool
) -> None:
    data, status, body = WHOLE[kind]
    node.cue(Answer(raw=[data + TAILS[tail]] if at_once else [data, TAILS[tail]]))
    connections = accepted(node)
    async with client(node.url) as upstream:
        head, got = await way(upstream)
        assert (head.status, got) == (status, body)
        await is_right(upstream)
        await eventually(lambda: len(connections) < 2 or connections[0].done())
        await is_right(upstream)
    assert len(connections) == 2 or not at_once


@WAYS
async def test_a_head_request_has_no_body_whatever_the_node_sends(node: FakeOllama, way: Way) -> None:
    node.cue(Answer(raw=[OK + b"Content-Length: 5\r\n\r\nwrong"]), PATH)
    connections = accepted(node)
    async with client(node.url) as upstream:
        head, body = await way(upstream, "HEAD")
        assert (head.status, head.header("content-length"), body) == (200, "5", b"")
        await is_right(upstream)
    assert len(connections) == 2


# what is used again

AGAIN: dict[str, tuple[str, list[bytes], bool]] = {
    "a length": ("POST", [OK + b"Content-Length: 2\r\n\r\n{}"], True),
    "chunks": ("POST", [CHUNKED, CHUNK, b"0\r\n\r\n"], True),
    "chunks with trailers": ("POST", [CHUNKED, CHUNK, b"0\r\nX-Sum: 1\r\n\r\n"], True),
    "an error": ("POST", [b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\n{}"], True),
    "204": ("POST", [b"HTTP/1.1 204 No Content\r\n\r\n"], True),
    "HEAD": ("HEAD", [OK + b"Content-Length: 2\r\n\r\n"], True),
    "interim answers": ("POST", [b"HTTP/1.1 102 Processing\r\nX-A: 1\r\n\r\n" * 9, WHOLE["a length"][0]], True),
    "no reason": ("POST", [b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\n{}"], True),
    "an empty line before it": ("POST", [b"\r\n" + WHOLE["a length"][0]], True),
    "HTTP/1.0 that stays": (
        "POST",
        [b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n{}"],
        True,
    ),
    "Connection: close": ("POST", [WHOLE["close"][0]], False),
    "close among others": ("POST", [OK + b"Connection: x, Close\r\nContent-Length: 2\r\n\r\n{}"], False),
    "another version": ("POST", [b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\n{}"], False),
    "HTTP/1.0": ("POST", [b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}"], False),
}


@pytest.mark.parametrize("kind", AGAIN)
async def test_a_connection_is_used_again_when_and_only_when_the_answer_allows_it(node: FakeOllama, kind: str) -> None:
    method, raw, reusable = AGAIN[kind]
    node.cue(Answer(raw=raw), PATH, times=5)
    connections = accepted(node)
    async with client(node.url) as upstream:
        for _ in range(5):
            assert (await read(upstream, method))[0].status in (200, 204, 500)
    assert len(connections) == (1 if reusable else 5)


async def test_an_answer_that_is_not_read_to_its_end_costs_the_connection(node: FakeOllama) -> None:
    node.cue(Answer(lines=repeat(LINE)))
    connections = accepted(node)
    async with client(node.url) as upstream:
        with await upstream.send("POST", PATH, {}) as answer:
            assert (await answer.some()).startswith(LINE)
        await node.seen(PATH)[0].client_left.wait()
        await is_right(upstream)
    assert len(connections) == 2


# what is refused

HUGE: dict[str, Callable[[], Answer]] = {
    "a header of 1 MB": lambda: Answer(raw=[OK + b"X-Long: " + b"x" * (1 << 20) + b"\r\n\r\n"]),
    "a reason of 100 KB": lambda: Answer(raw=[b"HTTP/1.1 200 " + b"x" * 100_000 + b"\r\nContent-Length: 0\r\n\r\n"]),
    "many headers": lambda: Answer(raw=[OK + b"X-More: 1\r\n" * 7000 + b"Content-Length: 0\r\n\r\n"]),
    "headers without end": lambda: Answer(raw=chain([OK], repeat(b"X-More: 1\r\n" * 1000))),
    "a status line without end": lambda: Answer(raw=repeat(b"x" * 5000)),
    "a reason without end": lambda: Answer(raw=chain([b"HTTP/1.1 200 "], repeat(b"x" * 5000))),
    "interim answers without end": lambda: Answer(raw=repeat(b"HTTP/1.1 102 Processing\r\n\r\n" * 50)),
}


@pytest.mark.parametrize("kind", HUGE)
async def test_a_head_that_is_too_large_or_has_no_end_is_refused(node: FakeOllama, kind: str) -> None:
    node.cue(HUGE[kind]())
    async with client(node.url) as upstream:
        with pytest.raises(UpstreamFailed, match=r"larger than 64 KB|not well-formed"):
            await read(upstream)
        await node.seen(PATH)[0].done.wait()
        await is_right(upstream)


@pytest.mark.parametrize("kind", BAD_HEADS)
async def test_a_malformed_head_is_refused(node: FakeOllama, kind: str) -> None:
    node.cue(BAD_HEADS[kind])
    async with client(node.url) as upstream:
        with pytest.raises(UpstreamFailed, match="not well-formed"):
            await read(upstream)
        await is_right(upstream)


@WAYS
@pytest.mark.parametrize("kind", BAD_CHUNKS)
async def test_malformed_chunks_are_refused_behind_what_was_right(node: FakeOllama, way: Way, kind: str) -> None:
    node.cue(BAD_CHUNKS[kind])
    got = bytearray()
    async with client(node.url) as upstream:
        with await upstream.send("POST", PATH, {}) as answer:
            with pytest.raises(UpstreamFailed, match=r"not well-formed|broke off|framing"):
                await (answer.pipe(got.extend) if way is pipe else drain(answer, got))
            assert got.startswith(b'{"model":"m"')
        await is_right(upstream)


ENDLESS = {
    "trailers": CHUNKED + CHUNK + b"0\r\n",
    "a chunk extension": CHUNKED + CHUNK + b"5;",
}


@pytest.mark.parametrize("kind", ENDLESS)
async def test_framing_without_end_is_refused(node: FakeOllama, kind: str) -> None:
    node.cue(Answer(raw=chain([ENDLESS[kind]], repeat(b"X-More: 1\r\n" * 100 if kind == "trailers" else b"x" * 1000))))
    async with client(node.url) as upstream:
        with pytest.raises(UpstreamFailed, match="framing"):
            await read(upstream)
        await is_right(upstream)


@pytest.mark.parametrize("status", [301, 302, 303, 304, 307, 308])
async def test_a_redirect_is_not_followed(node: FakeOllama, status: int) -> None:
    node.cue(Answer(status=status, error="elsewhere", headers=[("Location", f"{node.url}/api/version")]))
    async with client(node.url) as upstream:
        with pytest.raises(UpstreamFailed, match="redirect"):
            await read(upstream)
    assert [seen.path for seen in node.requests] == [PATH]


@pytest.mark.parametrize("upgrade", [b"Connection: Upgrade\r\nUpgrade: h2c\r\n", b""])
async def test_another_protocol_is_refused(node: FakeOllama, upgrade: bytes) -> None:
    node.cue(Answer(raw=[b"HTTP/1.1 101 Switching Protocols\r\n" + upgrade + b"\r\n", b"\x00\x01"]))
    async with client(node.url) as upstream:
        with pytest.raises(UpstreamFailed, match=r"protocol|not well-formed"):
            await read(upstream)
        await is_right(upstream)


@pytest.mark.parametrize("reason", [b"a\x01b", b"caf\xc3\xa9", b"\x80", b"", b"  "])
async def test_an_odd_reason_is_left_out(node: FakeOllama, reason: bytes) -> None:
    node.cue(Answer(raw=[b"HTTP/1.1 200 " + reason + b"\r\nContent-Length: 0\r\n\r\n"]))
    async with client(node.url) as upstream:
        assert (await read(upstream))[0].reason is None


# breaks and ends

BROKEN = {
    "short of its length": Answer(raw=[OK + b"Content-Length: 5\r\n\r\n", b"abc"], raw_ends=Fault.CLOSE),
    "short of its length, reset": Answer(raw=[OK + b"Content-Length: 5\r\n\r\nabc"], raw_ends=Fault.RESET),
    "without the last chunk": Answer(raw=[CHUNKED, CHUNK], raw_ends=Fault.CLOSE),
    "within a chunk": Answer(raw=[CHUNKED, CHUNK[:-5]], raw_ends=Fault.CLOSE),
    "within the last chunk": Answer(raw=[CHUNKED, CHUNK, b"0\r\n"], raw_ends=Fault.CLOSE),
    "until close, reset": Answer(lines=[LINE], until_close=True, fault=Fault.RESET, after_body=len(LINE)),
}


@WAYS
@pytest.mark.parametrize("kind", BROKEN)
async def test_a_body_that_is_not_whole_is_a_failure(node: FakeOllama, way: Way, kind: str) -> None:
    node.cue(BROKEN[kind])
    async with client(node.url) as upstream:
        with pytest.raises(UpstreamFailed, match="broke off"):
            await way(upstream)
        await is_right(upstream)


@WAYS
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_a_body_that_ends_with_its_connection_is_whole(node: FakeOllama, way: Way, version: bytes) -> None:
    node.cue(Answer(raw=[b"HTTP/" + version + b" 200 OK\r\n\r\n", b"some", b" more"], raw_ends=Fault.CLOSE))
    async with client(node.url) as upstream:
        assert (await way(upstream))[1] == b"some more"
        await is_right(upstream)


@pytest.mark.parametrize("fault", [Fault.CLOSE, Fault.RESET])
@pytest.mark.parametrize("after_head", [0, 1, 30])
async def test_no_answer_is_a_failure_and_the_request_is_not_sent_again(
    node: FakeOllama, fault: Fault, after_head: int
) -> None:
    node.cue(Answer(fault=fault, after_head=after_head))
    async with client(node.url) as upstream:
        with pytest.raises(UpstreamFailed, match="without an answer"):
            await read(upstream)
    assert len(node.requests) == 1


@WAYS
async def test_an_answer_that_comes_byte_by_byte_is_the_same(node: FakeOllama, way: Way) -> None:
    raw = [b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", CHUNKED, CHUNK * 3, b"0\r\nX: 1\r\n\r\n"]
    node.cue(Answer(raw=raw, cuts=EVERY_BYTE))
    connections = accepted(node)
    async with client(node.url) as upstream:
        head, body = await way(upstream)
        assert (head.status, head.reason, body) == (200, "OK", LINE * 3)
        assert [name for name, _ in head.headers] == ["Transfer-Encoding"]
        await is_right(upstream)
    assert len(connections) == 1


async def test_what_its_reader_raises_ends_the_exchange_and_is_raised(node: FakeOllama) -> None:
    def refuse(_: bytes) -> None:
        raise KeyError("mine")

    node.cue(Answer(lines=repeat(LINE)))
    async with client(node.url) as upstream:
        with await upstream.send("POST", PATH, {}) as answer:
            with pytest.raises(KeyError, match="mine"):
                await answer.pipe(refuse)
        await node.seen(PATH)[0].client_left.wait()
