"""Bodies of `/admin/v1`, `/auth` and `/me` on the wire: who is asked for one by a 100 Continue, and who is not."""

from __future__ import annotations

import json
from typing import Any

import pytest
from admin_api import Api, api, in_one_loop
from raw_http import raw_client

from parallama.admin.http import MAX_BODY_KB

__all__ = ["api"]
pytestmark = in_one_loop

CONTINUE = "HTTP/1.1 100 Continue\r\n\r\n"
EXPECT = "Expect: 100-continue"
JSON = "Content-Type: application/json"
TOO_LONG = MAX_BODY_KB * 1024 + 1


def head(path: str, key: str, *lines: str) -> bytes:
    bearer = [f"Authorization: Bearer {key}"] if key else []
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: localhost", *bearer, *lines, "", ""]).encode()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/admin/v1/users", {"username": "waits"}),
        ("/auth/register", {"username": "waiting", "password": "correct horse battery"}),
        ("/me/keys", {"description": "waited for"}),
    ],
)
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_who_waits_is_asked_for_the_body(api: Api, path: str, body: dict[str, Any], framing: str) -> None:
    named = {name: f"{value}-{framing}" if name == "username" else value for name, value in body.items()}
    data = json.dumps(named).encode()
    length = f"Content-Length: {len(data)}" if framing == "length" else "Transfer-Encoding: chunked"
    async with raw_client(api.gateway.port) as client:
        await client.send(head(path, "" if path.startswith("/auth") else api.root, JSON, EXPECT, length))
        assert await client.head() == CONTINUE
        await client.send(data if framing == "length" else b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data))
        assert (await client.answer("POST")).status == 201
        again = await client.ask("GET", "/me", None, f"Authorization: Bearer {api.root}")
        assert again.status == 200, "the connection can be used again"


@pytest.mark.parametrize(
    ("who", "lines", "status"),
    [
        ("nobody", (JSON, "Content-Length: 9"), 401),
        ("alice", (JSON, "Content-Length: 9"), 403),
        ("root", (JSON, f"Content-Length: {TOO_LONG}"), 413),
        ("root", ("Content-Type: text/plain", "Content-Length: 9"), 415),
    ],
)
async def test_nobody_is_asked_for_a_body_that_is_refused(
    api: Api, who: str, lines: tuple[str, ...], status: int
) -> None:
    key = {"nobody": "", "alice": api.gateway.key, "root": api.root}[who]
    async with raw_client(api.gateway.port) as client:
        await client.send(head("/admin/v1/users", key, EXPECT, *lines))
        assert (await client.answer("POST")).status == status, "the final answer comes first"


@pytest.mark.parametrize("path", ["/admin/v1/users", "/me/keys", "/auth/login"])
async def test_a_body_that_is_announced_as_too_large_is_not_waited_for(api: Api, path: str) -> None:
    async with raw_client(api.gateway.port) as client:
        await client.send(head(path, api.root, JSON, f"Content-Length: {TOO_LONG}"))
        got = await client.answer("POST")
        assert (got.status, got.json()["error"]["code"]) == (413, "body_too_large")


async def test_a_body_that_outgrows_its_limit_in_chunks_is_refused_after_the_100(api: Api) -> None:
    async with raw_client(api.gateway.port) as client:
        await client.send(head("/admin/v1/users", api.root, JSON, EXPECT, "Transfer-Encoding: chunked"))
        assert await client.head() == CONTINUE
        await client.send(b"%x\r\n%b\r\n" % (TOO_LONG, b" " * TOO_LONG))
        assert (await client.answer("POST")).status == 413
