"""Whether Redis answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from parallama.db.redis import ping
from parallama.errors import ConfigError, Unavailable

CEILING_S = 30.0

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def pongs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As much of RESP as a ping needs: a command is an array of bulk strings, each on two lines."""
    while count := (await reader.readline())[1:].strip():
        words = [(await reader.readline(), await reader.readline())[1].strip() for _ in range(int(count))]
        answers = {b"PING": b"+PONG\r\n", b"HELLO": b"%1\r\n+proto\r\n:3\r\n", b"AUTH": b"-WRONGPASS no\r\n"}
        writer.write(answers.get(words[0].upper(), b"+OK\r\n"))
        await writer.drain()


async def silence(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def nonsense(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@asynccontextmanager
async def redis(talk: Talk) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """The address of a server that talks like this, and whether its client has left."""
    left = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await talk(reader, writer)
        await reader.read()
        writer.close()
        left.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", left


async def test_one_that_answers_is_left_at_once() -> None:
    async with redis(pongs) as (address, left):
        await ping(f"redis://{address}/0")
        await asyncio.wait_for(left.wait(), CEILING_S)


@pytest.mark.parametrize("talk", [silence, nonsense])
async def test_one_that_hangs_or_is_none_is_unavailable_and_left(talk: Talk) -> None:
    async with redis(talk) as (address, left):
        with pytest.raises(Unavailable, match=r"^Redis does not answer"):
            await asyncio.wait_for(ping(f"redis://{address}/0"), CEILING_S)
        await asyncio.wait_for(left.wait(), CEILING_S)


async def test_one_that_is_not_there_is_unavailable() -> None:
    async with redis(silence) as (address, _):
        pass
    with pytest.raises(Unavailable, match=r"^Redis does not answer"):
        await ping(f"redis://{address}/0")


async def test_a_url_that_cannot_be_used_is_the_operators_error_without_its_password() -> None:
    with pytest.raises(ConfigError, match=r"`redis\.url`") as wrong:
        await ping("http://:s3cret@localhost/0")
    assert "s3cret" not in str(wrong.value)


async def test_a_refused_password_is_not_repeated() -> None:
    async with redis(pongs) as (address, _):
        with pytest.raises(Unavailable) as refused:
            await ping(f"redis://:s3cret@{address}/0?protocol=2")
        assert "s3cret" not in str(refused.value)
