"""`GET /discovery`: what it tells, to whom, and for how long the same."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any

import pytest
from asking import ask
from running import RunningGateway, eventually

from parallama.admin.discovery import describe
from parallama.admin.gateways import GatewayRecords
from parallama.errors import ApiError
from parallama.gateway.api import API, Gateway, Reply
from parallama.gateway.families import Families
from parallama.gateway.hookspecs import hookimpl
from parallama.gateway.plugins import Plugins


async def found(gateway: RunningGateway) -> Any:
    async with gateway.http.get(f"{gateway.url}/discovery", headers=gateway.auth) as answer:
        assert (answer.status, answer.content_type) == (200, "application/json")
        return await answer.json()


async def switch(gateway: RunningGateway, *, enabled: bool) -> None:
    """Switch the family `ollama`, and return when the gateway follows."""
    families = Families(Plugins.load().classes(), {})
    await GatewayRecords(gateway.database).change(families["ollama"], lambda _: {"enabled": enabled})

    async def follows() -> bool:
        return (await ask(gateway, "/ollama/api/version")).status == (200 if enabled else 404)

    await eventually(follows)


async def test_it_tells_every_class_of_every_family_without_a_key(gateway: RunningGateway) -> None:
    told = await found(gateway)
    native, simple = told["gateways"]["ollama"]
    assert native == {
        "type": "OllamaNative",
        "distribution": "parallama",
        "api": API,
        "mounts": ["/ollama/api", "/api"],
        "status": "active",
        "mounted": True,
    }
    assert (simple["type"], simple["mounts"]) == ("OllamaSimple", ["/ollama/v1"])
    mounts = {path for classes in told["gateways"].values() for one in classes for path in one["mounts"]}
    assert mounts == {path for gateway in Plugins.load().classes() for path in gateway.paths}
    assert told["unusable"] == []


@pytest.mark.parametrize("gateway_settings", [{"discovery": {"cache_s": 0}}])
async def test_without_a_cache_a_switch_shows_at_once(gateway: RunningGateway) -> None:
    await switch(gateway, enabled=False)
    assert {one["status"] for one in (await found(gateway))["gateways"]["ollama"]} == {"disabled"}
    await switch(gateway, enabled=True)
    assert {one["status"] for one in (await found(gateway))["gateways"]["ollama"]} == {"active"}


@pytest.mark.parametrize("gateway_settings", [{"discovery": {"cache_s": 1e6}}])
async def test_an_answer_is_given_again_while_it_is_cached(gateway: RunningGateway) -> None:
    before = await found(gateway)
    await switch(gateway, enabled=False)
    assert await found(gateway) == before


@pytest.mark.parametrize("gateway_settings", [{"discovery": {"enabled": False}}])
async def test_it_is_not_there_when_it_is_switched_off(gateway: RunningGateway) -> None:
    async with gateway.http.get(f"{gateway.url}/discovery") as answer:
        assert answer.status == 404
        error = (await answer.json())["error"]
    assert (error["code"], error["message"]) == ("not_found", "there is nothing at /discovery")
    async with gateway.http.get(f"{gateway.url}/admin/v1/openapi.json", headers=gateway.auth) as answer:
        assert "/discovery" not in (await answer.json())["paths"]


async def test_it_is_for_those_who_have_a_key(gateway: RunningGateway) -> None:
    async with gateway.http.get(f"{gateway.url}/discovery") as answer:
        assert answer.status == 401
        assert (await answer.json())["error"]["code"] == "not_authenticated"


class Echo(Gateway):
    name = "echo"
    paths = ("/echo/v1",)

    def routes(self) -> Any:
        return ()

    def render_error(self, error: ApiError) -> Reply:
        return Reply(error.status, {}, str(error).encode())


class TooNew(Echo):
    name = "new"
    api = API + 1


def plugin(monkeypatch: pytest.MonkeyPatch, name: str, register: Callable[[], Any]) -> EntryPoint:
    module = ModuleType(f"plugin_{name}")
    module.register_gateways = hookimpl(register)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return EntryPoint(name, module.__name__, "parallama")


def test_it_tells_what_cannot_be_used_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def register_gateways() -> Any:
        return [Echo, TooNew]

    plugins = Plugins.load([plugin(monkeypatch, "half", register_gateways)])
    told = describe(Families(plugins.classes(), {}), plugins)
    (echo,) = told.gateways["echo"]
    assert (echo.type, echo.mounted, echo.distribution) == ("Echo", True, None)
    (half,) = told.unusable
    assert (half.plugin, half.families) == ("half", ["echo", "new"])
    assert "generation" in half.problem
