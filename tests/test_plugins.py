"""Plugins are found through their entry points; a broken one is named and the others work."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from types import ModuleType

import click
import pytest

from parallama.errors import ConfigError
from parallama.gateway.api import API, Gateway, Reply
from parallama.gateway.hookspecs import hookimpl
from parallama.gateway.plugins import Plugins, make_gateways

Install = Callable[..., EntryPoint]


@dataclass(frozen=True)
class EchoOptions:
    shout: bool = False
    times: int = 1


class Echo(Gateway):
    name = "echo"
    paths = ("/echo/v1",)
    Options = EchoOptions

    def routes(self):
        return ()

    def render_error(self, error):
        return Reply(error.status, {}, str(error).encode())


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    def install(name: str, **members: object) -> EntryPoint:
        module = ModuleType(f"plugin_{name}")
        for key, value in members.items():
            setattr(module, key, value)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return EntryPoint(name, module.__name__, "parallama")

    return install


def _offers(*gateways: type[Gateway]) -> dict[str, object]:
    @hookimpl
    def register_gateways():
        return gateways

    return {"register_gateways": register_gateways}


def test_the_ollama_gateway_comes_through_its_entry_point() -> None:
    plugins = Plugins.load()
    assert {path for gateway in plugins.classes() for path in gateway.paths} >= {"/api", "/ollama/api", "/ollama/v1"}
    assert plugins.problems == []


def test_a_strangers_gateway_is_found(install: Install) -> None:
    assert Plugins.load([install("echo", **_offers(Echo))]).classes() == [Echo]


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"api": API + 1}, "generation"),
        ({"name": "No Good"}, "lower-case"),
        ({"paths": ("echo",)}, "begin with a slash"),
        ({"paths": ("/echo/",)}, "end without"),
    ],
)
def test_a_gateway_that_cannot_work_is_named(install: Install, attributes: dict[str, object], said: str) -> None:
    bad = type("Bad", (Echo,), attributes)
    plugins = Plugins.load([install("bad", **_offers(bad)), install("echo", **_offers(Echo))])
    assert plugins.classes() == [Echo]
    assert len(plugins.problems) == 1
    assert "'bad'" in plugins.problems[0]
    assert said in plugins.problems[0]


def test_two_gateways_cannot_have_one_mount(install: Install) -> None:
    twin = type("Twin", (Echo,), {"name": "twin"})
    plugins = Plugins.load([install("a", **_offers(Echo)), install("b", **_offers(twin))])
    assert plugins.classes() == [Echo]
    assert "'b'" in plugins.problems[0]
    assert "'a' has already" in plugins.problems[0]


def test_a_plugin_that_cannot_be_imported_is_named(install: Install) -> None:
    broken = EntryPoint("broken", "no_such_module_anywhere", "parallama")
    plugins = Plugins.load([broken, install("echo", **_offers(Echo))])
    assert plugins.classes() == [Echo]
    assert "'broken'" in plugins.problems[0]
    assert "no_such_module_anywhere" in plugins.problems[0]


def test_a_misspelt_hook_is_caught(install: Install) -> None:
    @hookimpl
    def register_gateway():
        return ()

    plugins = Plugins.load([install("typo", register_gateway=register_gateway), install("echo", **_offers(Echo))])
    assert plugins.classes() == [Echo]
    assert "register_gateway" in plugins.problems[0]
    assert "register_gateways and register_commands" in plugins.problems[0]


def test_a_hook_that_raises_is_named(install: Install) -> None:
    @hookimpl
    def register_gateways():
        raise RuntimeError("out of order")

    plugins = Plugins.load([install("bad", register_gateways=register_gateways), install("echo", **_offers(Echo))])
    assert plugins.classes() == [Echo]
    assert "out of order" in plugins.problems[0]


def test_a_plugin_adds_commands(install: Install) -> None:
    @hookimpl
    def register_commands(cli):
        cli.add_command(click.Command("greet"))

    group = click.Group()
    Plugins.load([install("greeter", register_commands=register_commands)]).add_commands(group)
    assert "greet" in group.commands


def test_options_are_typed() -> None:
    (gateway,) = make_gateways([Echo], {"echo": {"shout": True}})
    assert gateway.options == EchoOptions(shout=True)
    assert make_gateways([Echo], {})[0].options == EchoOptions()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ecco": {}}, "did you mean echo"),
        ({"echo": {"shoud": True}}, "did you mean shout"),
        ({"echo": {"zzz": True}}, "there are shout, times"),
        ({"echo": {"times": "many"}}, "gateways.echo.times"),
    ],
)
def test_options_that_nobody_takes_are_refused(options: dict[str, dict[str, object]], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_gateways([Echo], options)
