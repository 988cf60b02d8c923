"""A stranger's gateway that misbehaves costs its own clients their answers, and nobody else anything."""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

import pytest
from aiohttp import ClientPayloadError
from running import RunningGateway, running_gateway

from parallama import Codec, Gateway, Head, NdjsonCodec, Outbound, Reply, Route, Usage, Use, hookimpl
from parallama.app import SHIPPER
from parallama.errors import BadRequest, ConfigError
from parallama.gateway import plugins
from parallama.testing import Answer, FakeOllama, Fault

MODEL = "llama3.2:1b"


class Text(NdjsonCodec):
    """Says what the model says; how it misbehaves is its request's path."""

    reply = Head(200, (("Content-Type", "text/plain"),))
    wrong: Any = None

    def line(self, message: dict[str, Any]) -> bytes:
        if self.wrong == "exit in line":
            raise SystemExit(3)
        return str(message.get("response", "")).encode()

    def fail(self, error: Any) -> bytes:
        return b"" if self.wrong == "says nothing" else super().fail(error)

    @property
    def usage(self) -> Any:
        odd = {
            "no usage": None,
            "below zero": Usage(prompt_tokens=-1),
            "too many": Usage(output_tokens=2**70),
            "a text": Usage(prompt_tokens="abc"),  # type: ignore[arg-type]
            "a truth": Usage(prompt_tokens=True, final=True),
        }
        return odd.get(self.wrong, super().usage)


class Strange(Gateway):
    name = "strange"
    paths = ("/strange",)

    def routes(self) -> Any:
        return [Route(method="POST", path="/{how}/{streams}", use=Use.GENERATE, open=self.open)]

    def open(self, inbound: Any) -> Codec:
        how = inbound.params["how"]
        if how == "exit in open":
            raise SystemExit(3)
        body = {"model": MODEL, "prompt": "hi", "stream": True}
        sent = Outbound(method="POST", path="/api/generate", model=MODEL, body=body)
        codec = Text(inbound, sent, streams=inbound.params["streams"] == "stream")
        codec.wrong = how
        if how == "odd names":
            codec.ignored, codec.end_user = [7, "x" * 999], {"no": "text"}  # type: ignore[list-item, assignment]
        return codec

    def headers(self, facts: Any) -> Any:
        return {"x-odd": 5, "x-cut": "a\r\nb: c"}

    def render_error(self, error: Any) -> Reply:
        return Reply(error.status, {"Content-Type": "text/plain"}, str(error).encode())


def install(monkeypatch: pytest.MonkeyPatch, gateway: type[Gateway]) -> None:
    """As pip does: an entry point that leads to a module with the hook."""

    @hookimpl
    def register_gateways() -> list[type[Gateway]]:
        return [gateway]

    module = ModuleType("strange_plugin")
    module.register_gateways = register_gateways  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    entry = EntryPoint("strange", module.__name__, "parallama")
    monkeypatch.setattr(plugins, "entry_points", lambda group: [*entry_points(group=group), entry])


@pytest.fixture
async def gateway(
    monkeypatch: pytest.MonkeyPatch, database_url: str, node: FakeOllama
) -> AsyncIterator[RunningGateway]:
    install(monkeypatch, Strange)
    async with running_gateway(database_url, node.url) as running:
        yield running


async def asked(gateway: RunningGateway, how: str, streams: str) -> tuple[int, bytes]:
    async with gateway.http.post(f"{gateway.url}/strange/{how}/{streams}", headers=gateway.auth) as got:
        assert "x-odd" not in got.headers
        assert "b" not in got.headers
        return got.status, await got.read()


@pytest.mark.parametrize("streams", ["stream", "document"])
@pytest.mark.parametrize("how", ["no usage", "below zero", "too many", "a text", "a truth", "odd names"])
async def test_what_a_codec_says_wrongly_of_its_exchange_costs_nobody_a_row(
    gateway: RunningGateway, how: str, streams: str
) -> None:
    for _ in range(3):
        status, said = await asked(gateway, how, streams)
        assert (status, bool(said)) == (200, True)
        async with gateway.http.get(gateway.url + "/api/tags", headers=gateway.auth) as got:
            assert got.status == 200
    rows = await gateway.rows(6)
    assert [row["gateway"] for row in rows] == ["strange", "ollama"] * 3
    assert gateway.app[SHIPPER].lost == 0
    if how == "odd names":
        assert rows[0]["output_tokens"] > 0
    else:
        assert (rows[0]["prompt_tokens"], rows[0]["output_tokens"], rows[0]["outcome"]) == (None, None, "ok")


@pytest.mark.parametrize("streams", ["stream", "document"])
@pytest.mark.parametrize("how", ["exit in open", "exit in line"])
async def test_a_gateway_cannot_end_the_server(
    gateway: RunningGateway, caplog: pytest.LogCaptureFixture, how: str, streams: str
) -> None:
    assert (await asked(gateway, how, streams))[0] == 500
    async with gateway.http.get(gateway.url + "/healthz") as got:
        assert got.status == 200
    assert [row["outcome"] for row in await gateway.rows(1)] == ["failed"]
    assert any(record.levelno == logging.ERROR and record.exc_info for record in caplog.records)


async def test_a_stream_whose_gateway_cannot_tell_its_failure_is_broken_off(
    gateway: RunningGateway, node: FakeOllama
) -> None:
    node.cue(Answer(fault=Fault.CLOSE, after_body=300))
    with pytest.raises(ClientPayloadError):
        await asked(gateway, "says nothing", "stream")
    row = await gateway.row()
    assert (row["status"], row["outcome"], row["error"]) == (502, "failed", "upstream_failed")


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("/{a}/{a}", "two of its variables have one name"),
        ("/{a:(}", "the expression of a is none"),
    ],
)
async def test_a_path_that_cannot_be_routed_is_named_and_the_server_starts(
    monkeypatch: pytest.MonkeyPatch, database_url: str, node: FakeOllama, path: str, problem: str
) -> None:
    routes = [Route(method="GET", path=path, use=Use.LIST, open=lambda inbound: None)]  # type: ignore[arg-type, return-value]
    install(monkeypatch, type("Odd", (Strange,), {"routes": lambda self: routes}))
    found = plugins.Plugins.load()
    assert [problem in told for told in found.problems] == [True]
    with pytest.raises(ConfigError, match=problem):
        found.families({"strange": {}})
    async with running_gateway(database_url, node.url) as running:
        async with running.http.get(running.url + "/healthz") as got:
            assert got.status == 200


def told(word: str) -> Any:
    def open(inbound: Any) -> Codec:
        raise BadRequest(word)

    return open


async def test_of_two_routes_that_fit_a_path_the_first_has_it(
    monkeypatch: pytest.MonkeyPatch, database_url: str, node: FakeOllama
) -> None:
    both = ("/{way:.*}", "variable"), ("/", "plain")
    routes = [Route(method="GET", path=f"/a{path}", use=Use.LIST, open=told(word)) for path, word in both]
    routes += [Route(method="GET", path=f"/b{path}", use=Use.LIST, open=told(word)) for path, word in both[::-1]]
    install(monkeypatch, type("Odd", (Strange,), {"routes": lambda self: routes}))
    async with running_gateway(database_url, node.url) as running:
        for path, word in {"a/": "variable", "b/": "plain"}.items():
            async with running.http.get(f"{running.url}/strange/{path}", headers=running.auth) as got:
                assert (got.status, await got.text()) == (400, word)


@pytest.mark.parametrize(
    ("members", "problem"),
    [
        ({"render_error": Gateway.render_error}, "Odd lacks render_error; a gateway has routes() and render_error()"),
        ({"__init__": lambda self, options=None: None}, "must call super().__init__(options)"),
    ],
    ids=["a method is missing", "no super"],
)
def test_a_gateway_that_is_not_whole_is_named(
    monkeypatch: pytest.MonkeyPatch, members: dict[str, Any], problem: str
) -> None:
    install(monkeypatch, type("Odd", (Strange,), members))
    assert [problem in told for told in plugins.Plugins.load().problems] == [True]


async def _open(inbound: Any) -> Any:
    raise AssertionError(inbound)


def test_a_route_whose_open_would_have_to_be_awaited_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    routes = [Route(method="GET", path="/x", use=Use.LIST, open=_open)]
    install(monkeypatch, type("Odd", (Strange,), {"routes": lambda self: routes}))
    assert ["a gateway waits for nothing" in told for told in plugins.Plugins.load().problems] == [True]
