"""Pages of listed origins may ask, with keys and without credentials; all others are told nothing."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web
from asking import CHAT, bearer
from multidict import CIMultiDict
from one_gateway import gateway as gateway
from one_gateway import in_one_loop
from one_gateway import node as node
from one_gateway import served as served
from raw_http import raw_client
from running import RunningGateway

from parallama.proxy import cors
from parallama.testing import FakeOllama

pytestmark = in_one_loop

OURS, OTHER = "https://chat.example.org", "http://localhost:3000"
STRANGERS = [
    *("https://evil.example", "null", "*", "http://chat.example.org", "https://chat.example.org:8443", ""),
    *("https://chat.example.org.evil.example", "https://chat.example.org/", "HTTPS://CHAT.EXAMPLE.ORG"),
]
PATHS = ["/api/chat", "/v1/chat/completions", "/v1/messages", "/healthz", "/admin/v1/users", "/nothing"]


@pytest.fixture(scope="module")
def gateway_settings() -> dict[str, Any]:
    return {"server": {"cors_origins": [OURS, OTHER]}}


async def ask(
    gateway: RunningGateway, method: str, path: str, *headers: str, body: Any = None
) -> tuple[int, CIMultiDict[str]]:
    async with raw_client(gateway.port) as client:
        got = await client.ask(method, path, body, *headers)
    return got.status, CIMultiDict(got.headers)


def of_cors(headers: CIMultiDict[str]) -> set[str]:
    return {name.lower() for name in headers if name.lower().startswith("access-control-")}


def preflight(origin: str, *headers: str) -> list[str]:
    return [f"Origin: {origin}", "Access-Control-Request-Method: POST", *headers]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("origin", [OURS, OTHER])
async def test_a_preflight_of_a_listed_origin_is_answered_without_a_key(
    gateway: RunningGateway, path: str, origin: str
) -> None:
    asked = "Authorization, x-api-key, content-type, anthropic-version, x-stainless-os"
    line = f"Access-Control-Request-Headers: {asked}"
    status, headers = await ask(gateway, "OPTIONS", path, *preflight(origin, line))
    assert status == 204
    assert headers["Access-Control-Allow-Origin"] == origin
    assert {"GET", "POST", "PATCH", "DELETE"} <= set(headers["Access-Control-Allow-Methods"].split(", "))
    assert headers["Access-Control-Allow-Headers"] == asked.lower()
    assert headers["Access-Control-Max-Age"] == "600"
    assert headers.getall("Vary") == ["Origin"]
    assert "x-request-id" in headers
    assert "Access-Control-Allow-Credentials" not in headers


async def test_only_what_can_be_a_header_is_allowed_and_not_without_end(gateway: RunningGateway) -> None:
    line = f"Access-Control-Request-Headers: x-ok, *, a b, {'y' * 65}, é, , x-fine"
    _status, headers = await ask(gateway, "OPTIONS", "/v1/models", *preflight(OURS, line))
    assert headers["Access-Control-Allow-Headers"] == "x-ok, x-fine"
    many = "Access-Control-Request-Headers: " + ", ".join(f"x-{number}" for number in range(1000))
    _status, headers = await ask(gateway, "OPTIONS", "/v1/models", *preflight(OURS, many))
    assert len(headers["Access-Control-Allow-Headers"].split(", ")) == 64


@pytest.mark.parametrize("origin", STRANGERS)
async def test_other_origins_are_told_nothing(gateway: RunningGateway, origin: str) -> None:
    for path in PATHS:
        asked = await ask(gateway, "OPTIONS", path, *preflight(origin))
        plain = await ask(gateway, "OPTIONS", path)
        for headers in (asked[1], plain[1]):
            assert (of_cors(headers), "Vary" in headers) == (set(), False)
        assert asked[0] == plain[0]
    status, headers = await ask(gateway, "GET", "/v1/models", f"Origin: {origin}", bearer(gateway.key))
    assert (status, of_cors(headers)) == (200, set())
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
async def test_an_answer_may_be_read_by_a_page_of_a_listed_origin(
    gateway: RunningGateway, node: FakeOllama, path: str
) -> None:
    for key, expected in ((gateway.key, 200), ("wrong", 401)):
        status, headers = await ask(gateway, "POST", path, f"Origin: {OURS}", bearer(key), body=CHAT)
        assert (status, headers["Access-Control-Allow-Origin"]) == (expected, OURS)
        exposed = headers["Access-Control-Expose-Headers"].split(", ")
        assert {"x-request-id", "retry-after", "x-parallama-node", "x-parallama-model", "etag"} <= set(exposed)
        assert headers.getall("Vary") == ["Origin"]
        assert "Cross-Origin-Resource-Policy" not in headers
        assert "Access-Control-Allow-Credentials" not in headers
        assert headers["X-Content-Type-Options"] == "nosniff"


async def test_an_answer_to_nobodys_page_is_as_ever(gateway: RunningGateway) -> None:
    status, headers = await ask(gateway, "GET", "/v1/models", bearer(gateway.key))
    assert (status, of_cors(headers), "Vary" in headers) == (200, set(), False)


async def test_an_options_request_that_is_no_preflight_is_not_answered_as_one(gateway: RunningGateway) -> None:
    status, headers = await ask(gateway, "OPTIONS", "/healthz", f"Origin: {OURS}")
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


async def test_without_origins_nothing_is_added() -> None:
    app = web.Application()
    cors.allow(app, ())
    assert (list(app.middlewares), list(app.on_response_prepare)) == ([], [])
