"""Whether Redis answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from redis_server import redis_server

from parallama.db.redis import connected, options_of, ping
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


@pytest.mark.parametrize(
    ("url", "problem"),
    [("http://:s3cret@localhost/0", "must be redis://"), ("redis://:s3cret@localhost/0?protocol=3", "protocol")],
)
def test_a_url_that_nobody_can_connect_to_is_refused_at_once(url: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as wrong:
        options_of(url)
    assert "s3cret" not in str(wrong.value)


@pytest.mark.parametrize("talk", [silence, nonsense])
async def test_a_connection_to_one_that_hangs_or_is_none_is_given_up(talk: Talk) -> None:
    async with redis(talk) as (address, left):
        with pytest.raises(Unavailable, match=r"^Redis"):
            async with connected(options_of(f"redis://{address}/0")):
                pass
        await asyncio.wait_for(left.wait(), CEILING_S)


async def test_what_is_asked_together_is_answered_in_its_order() -> None:
    with redis_server() as server:
        async with connected(options_of(server.url)) as connection:
            answers = [connection.ask("ECHO", number) for number in range(1000)]
            answers[500].cancel()
            wrong, last = connection.ask("NONSENSE"), connection.ask("PING")
            assert await last == b"PONG"
            assert [await answer for answer in answers[:500]] == [b"%d" % number for number in range(500)]
            with pytest.raises(Unavailable, match="NONSENSE"):
                await wrong
            server.kill()
            with pytest.raises(Unavailable):
                await connection.ask("PING")


async def test_a_password_opens_a_server_that_has_one() -> None:
    with redis_server() as server:
        server.say("CONFIG", "SET", "requirepass", "s3cret")
        with pytest.raises(Unavailable) as refused:
            async with connected(options_of(server.url)):
                pass
        assert "NOAUTH" in str(refused.value)
        async with connected(options_of(server.url.replace("unix://", "unix://:s3cret@") + "?db=3")) as connection:
            assert b" db=3 " in await connection.ask("CLIENT", "LIST")
