"""Every answer, whoever gives it, tells browsers to do little with it."""

from __future__ import annotations

from typing import Any

import pytest
from asking import CHAT, bearer
from multidict import CIMultiDict
from one_gateway import gateway as gateway
from one_gateway import in_one_loop
from one_gateway import node as node
from one_gateway import served as served
from raw_http import Got, raw_client
from running import RunningGateway

from parallama.proxy.headers import for_client
from parallama.proxy.security import SECURITY, secure
from parallama.testing import Answer, FakeOllama

pytestmark = in_one_loop


@pytest.fixture(scope="module")
def gateway_settings() -> dict[str, Any]:
    return {"server": {"trusted_proxies": ["127.0.0.1"]}}


async def ask(gateway: RunningGateway, method: str, path: str, body: Any = None, *headers: str) -> Got:
    async with raw_client(gateway.port) as client:
        return await client.ask(method, path, body, bearer(gateway.key), *headers)


def is_secured(got: Got) -> bool:
    """Whether each header is there once, as promised."""
    found = CIMultiDict(got.headers)
    return all(found.getall(name, []) == [value] for name, value in SECURITY.items())


async def test_what_is_promised() -> None:
    assert dict(SECURITY) == {
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "X-Frame-Options": "DENY",
        "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
        "Cross-Origin-Resource-Policy": "same-origin",
    }


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        *(("GET", path, 200) for path in ("/", "/ollama", "/healthz", "/discovery", "/api/version", "/v1/models")),
        *(("GET", path, 404) for path in ("/nothing", "/api/nothing", "/v1/nothing", "/anthropic/v1/nothing")),
        *(("PUT", path, 405) for path in ("/healthz", "/api/chat", "/v1/chat/completions", "/v1/messages")),
        *(("OPTIONS", path, 405) for path in ("/healthz", "/api/chat", "/v1/chat/completions")),
        *(("POST", path, 400) for path in ("/api/chat", "/v1/chat/completions", "/v1/messages", "/ollama/v1/chat")),
        ("GET", "/api/tags/", 301),
        ("GET", "/status", 403),
        ("HEAD", "/api/tags", 200),
    ],
)
async def test_every_answer_is_secured(
    gateway: RunningGateway, node: FakeOllama, method: str, path: str, status: int
) -> None:
    got = await ask(gateway, method, path, b"{" if method == "POST" else None)
    assert (got.status, is_secured(got)) == (status, True)
    assert "Strict-Transport-Security" not in CIMultiDict(got.headers)


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
async def test_streams_and_failures_of_a_node_are_secured(gateway: RunningGateway, node: FakeOllama, path: str) -> None:
    assert is_secured(await ask(gateway, "POST", path, {**CHAT, "stream": True}))
    node.cue(Answer(status=500, error="broken"))
    got = await ask(gateway, "POST", path, CHAT)
    assert (got.status, is_secured(got)) == (500, True)


async def test_a_stranger_is_refused_with_them(gateway: RunningGateway) -> None:
    async with raw_client(gateway.port) as client:
        for path in ("/api/tags", "/v1/models", "/ollama/v1/models", "/me", "/admin/v1/users", "/status"):
            got = await client.ask("GET", path)
            assert (got.status, is_secured(got)) == (401, True)
            assert CIMultiDict(got.headers).getall("WWW-Authenticate") == ["Bearer"]


@pytest.mark.parametrize("line", ["GET  / HTTP/1.1", "TRACE / HTTP/1.1", "GET /api/tags HTTP/1.1\r\nHost: a b", "x"])
async def test_the_parsers_own_answers_are_secured(gateway: RunningGateway, line: str) -> None:
    async with raw_client(gateway.port) as client:
        await client.send(f"{line}\r\n\r\n".encode())
        got = await client.answer()
    assert (got.status >= 400, is_secured(got)) == (True, True)


async def test_a_client_behind_https_is_told_to_stay_there(gateway: RunningGateway) -> None:
    got = await ask(gateway, "GET", "/healthz", None, "X-Forwarded-Proto: https")
    assert CIMultiDict(got.headers).getall("Strict-Transport-Security") == ["max-age=31536000"]
    assert is_secured(got)


async def test_a_page_has_the_policy_that_its_handler_gave_it() -> None:
    headers = CIMultiDict({"content-security-policy": "default-src 'self'"})
    secure(headers, https=False)
    assert headers.getall("Content-Security-Policy") == ["default-src 'self'"]
    assert headers["X-Frame-Options"] == "DENY"


async def test_a_node_has_no_say() -> None:
    of_node = [("Content-Security-Policy", "x"), ("Strict-Transport-Security", "y"), ("X-Frame-Options", "ALLOWALL")]
    headers = for_client(of_node)
    secure(headers, https=False)
    assert dict(headers) == dict(SECURITY)
