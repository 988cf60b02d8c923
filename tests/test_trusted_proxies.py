"""Who the client is when proxies are on the way: trusted ones are believed, anybody else is not."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request
from asking import bearer
from multidict import CIMultiDict
from one_gateway import gateway as gateway
from one_gateway import in_one_loop, limited_key
from one_gateway import node as node
from one_gateway import served as served
from raw_http import raw_client
from running import RunningGateway, eventually

from parallama.app import BOOKS
from parallama.arrival import client_of
from parallama.networks import networks

pytestmark = in_one_loop

TRUSTED = ["10.0.0.0/8", "fd00::/8"]


@pytest.fixture(scope="module")
def gateway_settings() -> dict[str, Any]:
    return {"server": {"trusted_proxies": ["127.0.0.1", "10.0.0.0/8"]}}


def client(peer: str, *forwarded: str, proto: str | None = None, trusted: list[str] = TRUSTED) -> Any:
    headers = CIMultiDict([("X-Forwarded-For", line) for line in forwarded])
    if proto is not None:
        headers["X-Forwarded-Proto"] = proto
    return client_of(make_mocked_request("GET", "/", headers=headers).clone(remote=peer), networks(trusted))


@pytest.mark.parametrize("peer", ["192.0.2.1", "2001:db8::1", "not an address", "11.0.0.1"])
async def test_a_peer_that_is_not_trusted_is_the_client_whatever_it_says(peer: str) -> None:
    assert client(peer, "198.51.100.7", proto="https") == (peer, False)
    assert client(peer, "10.0.0.1", trusted=[]) == (peer, False)


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        (["198.51.100.7"], "198.51.100.7"),
        (["1.1.1.1, 198.51.100.7"], "198.51.100.7"),
        (["1.1.1.1, 10.9.9.9, 198.51.100.7"], "198.51.100.7"),
        (["198.51.100.7, 10.0.0.2, 10.0.0.3"], "198.51.100.7"),
        (["1.1.1.1", "198.51.100.7, 10.0.0.2"], "198.51.100.7"),
        (["198.51.100.7,fd00::5"], "198.51.100.7"),
        (["2001:db8::7"], "2001:db8::7"),
        (["1.1.1.1, ::ffff:10.0.0.2"], "1.1.1.1"),
        (["10.0.0.2, 10.0.0.3"], "10.0.0.2"),
        ([], "10.0.0.1"),
        ([""], "10.0.0.1"),
        (["unknown"], "10.0.0.1"),
        (["1.1.1.1, <script>"], "10.0.0.1"),
        (["1.1.1.1, 198.51.100.7:1234"], "10.0.0.1"),
        (["1.1.1.1, , 10.0.0.2"], "10.0.0.2"),
    ],
)
async def test_the_chain_is_read_from_the_right_as_far_as_it_is_trusted(forwarded: list[str], address: str) -> None:
    assert client("10.0.0.1", *forwarded) == (address, False)


@pytest.mark.parametrize(
    ("proto", "secure"), [("https", True), (" HTTPS ", True), ("http", False), ("wss", False), ("", False)]
)
async def test_a_trusted_proxy_says_how_the_client_came(proto: str, secure: bool) -> None:
    assert client("fd00::1", "198.51.100.7", proto=proto) == ("198.51.100.7", secure)


async def status(gateway: RunningGateway, key: str, forwarded: str) -> int:
    async with raw_client(gateway.port) as one:
        return (await one.ask("GET", "/api/version", None, bearer(key), f"X-Forwarded-For: {forwarded}")).status


async def test_the_networks_of_a_key_are_those_of_the_client_and_not_of_its_proxy(gateway: RunningGateway) -> None:
    key = await limited_key(gateway, networks=["198.51.100.0/24"])
    assert await status(gateway, key, "198.51.100.7, 10.0.0.2") == 200
    assert await status(gateway, key, "198.51.100.7, 203.0.113.5") == 403, "the client's own words are no proxy's"
    assert await status(gateway, key, "") == 403
    assert await status(gateway, await limited_key(gateway, networks=["127.0.0.1"]), "198.51.100.7") == 403


async def test_the_log_of_requests_names_the_client(gateway: RunningGateway, caplog: pytest.LogCaptureFixture) -> None:
    def named() -> bool:
        gateway.app[BOOKS].settle()
        lines = [vars(record)["fields"] for record in caplog.records if record.name == "parallama.api"]
        return "198.51.100.9" in [line["remote"] for line in lines]

    with caplog.at_level(logging.INFO, logger="parallama.api"):
        assert await status(gateway, gateway.key, "1.1.1.1, 198.51.100.9") == 200
        await eventually(named)
