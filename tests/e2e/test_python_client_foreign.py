"""What the Python client makes of servers that are none of ours, and of those that are busy or broken."""

from __future__ import annotations

from typing import Any

import pytest
from python_client import awaited, foreign, using

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
