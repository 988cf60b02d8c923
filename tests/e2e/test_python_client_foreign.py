"""What the Python client makes of servers that are none of ours, and of those that are busy or broken."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from python_client import Client, awaited, foreign, using

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


async def test_a_login_waits_when_it_is_asked_to(awaited: bool) -> None:
    tokens = '{"access_token": "x", "refresh_token": "y"}'
    for status in (429, 503):
        async with foreign((status, "too many"), (200, tokens), (204, "")) as server:
            await of(server.url, awaited, CALLS["delete"], username="x", password="y")
            assert server.asked == ["POST", "POST", "DELETE"]


@pytest.mark.parametrize("key", ["", " ", "plm_x\n", "ключ"])
async def test_a_key_that_no_header_can_hold_is_told_at_once(awaited: bool, key: str) -> None:
    with pytest.raises(ValueError, match="^api_key= must be one line of ASCII"):
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
