"""What the Python client makes of servers that are none of ours, and of those that are busy or broken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from python_client import Client, awaited, foreign, using

from parallama import AsyncParallamaClient
from parallama.errors import ApiError, NotFound, OverLimit, Unavailable, UpstreamFailed

__all__ = ["awaited"]


async def of(url: str, awaited: bool, call: Any, **credential: str) -> Any:
    async with using(awaited, base_url=url, **(credential or {"api_key": "x"})) as admin:
        return await call(admin)


CALLS = {
    "list": lambda admin: admin.list_users(),
    "get": lambda admin: admin.get_user("x"),
    "create": lambda admin: admin.create_user("x"),
    "delete": lambda admin: admin.delete_user("x"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_a_page_of_a_server_that_is_none_of_ours_is_no_answer(awaited: bool, call: Any) -> None:
    async with foreign((200, "<html>Welcome</html>")) as server:
        with pytest.raises(UpstreamFailed, match="none of a Parallama"):
            await of(server.url, awaited, call)


async def test_a_page_in_place_of_tokens_is_no_answer(awaited: bool) -> None:
    async with foreign((200, "<html>Welcome</html>")) as server:
        with pytest.raises(UpstreamFailed, match="none of a Parallama"):
            await of(server.url, awaited, CALLS["get"], username="x", password="y")
        assert server.asked == ["POST"]


@pytest.mark.parametrize(("status", "error"), [(301, UpstreamFailed), (404, NotFound), (502, UpstreamFailed)])
async def test_a_page_that_tells_of_an_error_is_told_by_its_status(
    awaited: bool, status: int, error: type[ApiError]
) -> None:
    async with foreign((status, "<html>Sorry</html>")) as server:
        with pytest.raises(error, match=f"^the gateway answered {status}$"):
            await of(server.url, awaited, CALLS["delete"])


async def test_what_may_have_been_done_is_not_done_again(awaited: bool) -> None:
    for change in (CALLS["create"], CALLS["delete"]):
        async with foreign((503, "the database does not answer"), (204, "")) as server:
            with pytest.raises(Unavailable, match="does not answer"):
                await of(server.url, awaited, change)
            assert len(server.asked) == 1


async def test_what_was_refused_and_what_only_reads_is_asked_again(awaited: bool) -> None:
    async with foreign((429, "too many"), (204, "")) as server:
        await of(server.url, awaited, CALLS["delete"])
        assert server.asked == ["DELETE", "DELETE"]
    async with foreign((503, "busy"), (503, "busy"), (200, '{"items": [], "next_cursor": null}')) as server:
        assert await of(server.url, awaited, CALLS["list"]) == []
        assert server.asked == ["GET"] * 3
    async with foreign((429, "too many")) as server:
        with pytest.raises(OverLimit, match="too many"):
            await of(server.url, awaited, CALLS["create"])
        assert server.asked == ["POST"] * 3


@pytest.mark.parametrize(
    ("retry_after", "asked"),
    [
        ("-1", 2),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 2),
        ("Fri, 21 Oct 2225 07:28:00 GMT", 1),
        ("61", 1),
        ("soon", 1),
        ("nan", 1),
    ],
)
async def test_it_is_asked_again_when_the_gateway_says(awaited: bool, retry_after: str, asked: int) -> None:
    async with foreign((429, "too many")) as server:
        server.retry_after = retry_after
        with pytest.raises(OverLimit):
            await Client(awaited, {"base_url": server.url, "api_key": "x", "max_retries": 1})(
                lambda one: one.list_models()
            )
        assert len(server.asked) == asked


async def test_a_login_waits_when_it_is_asked_to(awaited: bool) -> None:
    tokens = '{"access_token": "x", "refresh_token": "y"}'
    for status in (429, 503):
        async with foreign((status, "too many"), (200, tokens), (204, "")) as server:
            await of(server.url, awaited, CALLS["delete"], username="x", password="y")
            assert server.asked == ["POST", "POST", "DELETE"]


async def test_a_wrong_password_is_tried_once_for_all_who_wait() -> None:
    async with foreign((401, "wrong user name or password")) as server:
        async with AsyncParallamaClient(base_url=server.url, username="x", password="y") as client:
            for logins in (1, 2):
                found = await asyncio.gather(*(client.list_models() for _ in range(20)), return_exceptions=True)
                assert {str(one) for one in found} == {"wrong user name or password"}
                assert server.asked == ["POST"] * logins


@pytest.mark.parametrize("key", ["", " ", "plm_x\n", "ключ"])
async def test_a_key_that_no_header_can_hold_is_told_at_once(awaited: bool, key: str) -> None:
    with pytest.raises(ValueError, match=r"^api_key= must be one line of ASCII"):
        await Client(awaited, {"api_key": key})(lambda one: one.list_models())


STREAMS = {
    "no end": ("ollama", '{"text": "a"}\n', "ended before the answer did"),
    "no end of events": (
        "openai",
        'data: {"choices": [{"text": "a"}]}\n\ndata: [DONE]\n\n',
        "ended before the answer did",
    ),
    "nothing": ("openai", " ", "ended before the answer did"),
    "no text": ("ollama", '{"text": 5}\n', "none of a Parallama"),
    "no messages": ("ollama", '{"messages": [1]}\n', "none of a Parallama"),
    "no counts": ("ollama", '{"usage": {"prompt_tokens": "x"}, "done": true}\n', "none of a Parallama"),
    "no object": ("openai", "data: [1]\n\n", "none of a Parallama"),
    "no choices": ("openai", 'data: {"choices": null}\n\n', "none of a Parallama"),
    "deep": ("openai", f"data: {'[' * 2000}\n\n", "none of a Parallama"),
    "a failure": ("openai", 'data: {"error": {"message": "the node is gone"}}\n\n', "the node is gone"),
}


@pytest.mark.parametrize(("gateway", "text", "told"), STREAMS.values(), ids=STREAMS)
async def test_a_stream_that_is_no_whole_answer_has_failed(awaited: bool, gateway: str, text: str, told: str) -> None:
    async with foreign((200, text)) as server:
        client = Client(awaited, {"base_url": server.url, "api_key": "x", "gateway": gateway})
        with pytest.raises(UpstreamFailed, match=told):
            await client(lambda one: one.generate(model="m", prompt="x", stream=True))


async def test_an_error_that_breaks_off_is_no_answer(awaited: bool) -> None:
    async def broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 500 Oh\r\nContent-Length: 100\r\n\r\nshort")
        writer.close()

    async with await asyncio.start_server(broken, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        client = Client(awaited, {"base_url": f"http://{host}:{port}", "api_key": "x"})
        with pytest.raises(Unavailable, match="does not answer"):
            await client(lambda one: one.generate(model="m", prompt="x", stream=True))


async def test_many_streams_are_open_at_once(awaited: bool) -> None:
    read = asyncio.Event()

    async def held(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"text": "a"}\n')
        await read.wait()
        await response.write(b'{"text": "b", "done": true}\n')
        return response

    app = web.Application()
    app.router.add_post("/ollama/v1/generate", held)
    loop = asyncio.get_running_loop()
    async with TestServer(app) as server:
        client = Client(awaited, {"base_url": str(server.make_url("/")), "api_key": "x", "timeout_s": 10})
        work = _awaited_at_once if awaited else _at_once
        assert await client(lambda one: work(one, lambda: loop.call_soon_threadsafe(read.set))) == ["ab"] * 101


def _at_once(client: Any, ends: Callable[[], object]) -> list[str]:
    """What 101 streams say, each begun before one is read on."""
    streams = [client.generate(model="m", prompt="x", stream=True) for _ in range(101)]
    begun = [next(stream).text for stream in streams]
    ends()
    return [first + "".join(delta.text for delta in stream) for first, stream in zip(begun, streams, strict=True)]


async def _awaited_at_once(client: Any, ends: Callable[[], object]) -> list[str]:
    streams = [await client.generate(model="m", prompt="x", stream=True) for _ in range(101)]
    begun = [(await anext(stream)).text for stream in streams]
    ends()
    return [first + "".join([delta.text async for delta in rest]) for first, rest in zip(begun, streams, strict=True)]
