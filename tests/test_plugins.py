"""Plugins are found through their entry points; a broken one is named and the others work."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

import click
import pytest

import parallama
from parallama.errors import ConfigError
from parallama.gateway.api import API, Body, Gateway, Reply, Route, Use
from parallama.gateway.hookspecs import hookimpl
from parallama.gateway.plugins import Plugins

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
        ({"paths": ("/",)}, "begin with a slash"),
        ({"paths": ("/echo/../api",)}, "begin with a slash"),
        ({"paths": "/echo"}, "a tuple of mounts"),
        ({"paths": ()}, "a tuple of mounts"),
        ({"paths": (1,)}, "a tuple of mounts"),
        ({"paths": ("/a", "/a")}, "twice"),
        ({"name": None}, "lower-case"),
        ({"api": "1"}, "generation '1' of the gateway API; this is generation 1"),
        ({"roles": "basic"}, "a tuple of roles"),
        ({"required_header": b"x"}, "the name of a header"),
        ({"Options": dict}, "a dataclass or a pydantic model"),
        ({"Options": EchoOptions()}, "a dataclass or a pydantic model"),
        ({"routes": None}, "TypeError"),
    ],
)
def test_a_gateway_that_cannot_work_is_named(install: Install, attributes: dict[str, object], said: str) -> None:
    bad = type("Bad", (Echo,), attributes)
    plugins = Plugins.load([install("bad", **_offers(bad)), install("echo", **_offers(Echo))])
    assert plugins.classes() == [Echo]
    assert len(plugins.problems) == 1
    assert "'bad'" in plugins.problems[0]
    assert said in plugins.problems[0]


OURS = ["/admin", "/auth", "/discovery", "/healthz", "/me", "/metrics", "/ollama", "/readyz", "/status", "/ui"]


@pytest.mark.parametrize("path", [*OURS, "/admin/v1", "/ui/echo"])
def test_the_servers_own_paths_are_no_mounts(install: Install, path: str) -> None:
    plugins = Plugins.load([install("bad", **_offers(type("Bad", (Echo,), {"paths": (path,)})))])
    assert plugins.classes() == []
    assert "the server's own" in plugins.problems[0]


ROUTE = Route(method="POST", path="/say", use=Use.CHAT, open=lambda inbound: None)  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize(
    ("routes", "said"),
    [
        (None, "TypeError"),
        (["/say"], "parallama.Route and nothing else"),
        ([replace(ROUTE, method="post")], "in capitals"),
        ([replace(ROUTE, method=None)], "in capitals"),
        ([replace(ROUTE, path="say")], "begin with a slash"),
        ([replace(ROUTE, path="/{say")], "begin with a slash"),
        ([replace(ROUTE, path="/{}")], "begin with a slash"),
        ([replace(ROUTE, use="chat")], "one of parallama.Use"),
        ([replace(ROUTE, body="json")], "one of parallama.Body"),
        ([replace(ROUTE, open=None)], "functions of an Inbound"),
        ([replace(ROUTE, wants="id")], "functions of an Inbound"),
        ([replace(ROUTE, endpoint=1)], "endpoint must be a name"),
        ([ROUTE, replace(ROUTE, body=Body.NONE)], "two routes for POST /say"),
        ([replace(ROUTE, path="/{a}"), replace(ROUTE, path="/{b}")], "two routes for POST /{b}"),
    ],
)
def test_routes_that_cannot_work_are_named(install: Install, routes: object, said: str) -> None:
    bad = type("Bad", (Echo,), {"routes": lambda self: routes})
    plugins = Plugins.load([install("bad", **_offers(bad)), install("echo", **_offers(Echo))])
    assert plugins.classes() == [Echo]
    assert len(plugins.problems) == 1
    assert said in plugins.problems[0]


def test_one_path_may_have_several_methods(install: Install) -> None:
    routes = [ROUTE, replace(ROUTE, method="GET"), replace(ROUTE, path="/say/"), replace(ROUTE, path="")]
    good = type("Good", (Echo,), {"routes": lambda self: routes})
    assert Plugins.load([install("good", **_offers(good))]).classes() == [good]


class Unspeakable(BaseException):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


RAISED = [RuntimeError("out of order"), SystemExit(3), Unspeakable()]


def _raising(error: BaseException) -> Callable[..., None]:
    def raising(*_args: object) -> None:
        raise error

    return raising


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("method", ["__init__", "routes"])
def test_a_gateway_that_raises_is_named(install: Install, method: str, error: BaseException) -> None:
    bad = type("Bad", (Echo,), {method: _raising(error)})
    plugins = Plugins.load([install("bad", **_offers(bad)), install("echo", **_offers(Echo))])
    assert plugins.classes() == [Echo]
    assert f"Bad cannot be made: {type(error).__name__}" in plugins.problems[0]


@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
def test_a_hook_may_raise_anything(install: Install, error: BaseException) -> None:
    hooks = {name: hookimpl(_raising(error), specname=name) for name in ("register_gateways", "register_commands")}
    plugins = Plugins.load([install("bad", **hooks), install("echo", **_offers(Echo))])
    plugins.add_commands(click.Group())
    assert plugins.classes() == [Echo]
    assert [problem.partition(": ")[2] for problem in plugins.problems] == [
        f"{name} failed: {type(error).__name__}{': ' + str(error) if not isinstance(error, Unspeakable) else ''}"
        for name in hooks
    ]


def test_a_module_that_exits_does_not_take_us_along(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "leaving_plugin.py").write_text("raise SystemExit('goodbye')\n")
    monkeypatch.syspath_prepend(tmp_path)
    leaving = EntryPoint("leaving", "leaving_plugin", "parallama")
    plugins = Plugins.load([leaving, install("echo", **_offers(Echo))])
    assert plugins.classes() == [Echo]
    assert plugins.problems == ["plugin 'leaving': cannot be loaded: SystemExit: goodbye"]


def test_a_plugin_that_registers_nothing_is_named(install: Install) -> None:
    plugins = Plugins.load([install("bare", register_gateways=lambda: [Echo])])
    assert plugins.classes() == []
    assert "mark its register_gateways or register_commands with @parallama.hookimpl" in plugins.problems[0]


@pytest.mark.parametrize("offered", [None, 1, [None], [1], ["Echo"], [Echo()], [int], [Gateway]])
def test_what_is_no_gateway_is_named(install: Install, offered: object) -> None:
    plugins = Plugins.load([install("bad", register_gateways=hookimpl(lambda: offered, specname="register_gateways"))])
    assert plugins.classes() == []
    assert len(plugins.problems) == 1


def test_options_need_defaults_that_work(install: Install) -> None:
    needy = dataclass(type("Needy", (), {"__annotations__": {"token": str}}))
    plugins = Plugins.load([install("needy", **_offers(type("Bad", (Echo,), {"Options": needy})))])
    assert plugins.classes() == []
    assert "gateways.echo.token" in plugins.problems[0]
    assert "need defaults" in plugins.problems[0]


def test_an_option_cannot_be_called_like_a_setting_of_every_family(install: Install) -> None:
    odd = dataclass(type("Odd", (), {"__annotations__": {"enabled": bool}, "enabled": True}))
    plugins = Plugins.load([install("odd", **_offers(type("Bad", (Echo,), {"Options": odd})))])
    assert "Bad.Options.enabled: that is a setting of every family" in plugins.problems[0]


def _gateway(name: str, *paths: str, routes: tuple[str, ...] = (), header: str = "") -> type[Gateway]:
    found = [replace(ROUTE, path=route) for route in routes]
    members = {"name": name, "paths": paths, "required_header": header, "routes": lambda self: found}
    return type(name.title(), (Echo,), members)


TALK = _gateway("talk", "/v9", routes=("/chat/completions", "/models", "/models/{model}", "/files/{path:.+}"))


@pytest.mark.parametrize(
    ("path", "hidden"),
    [
        ("/v9/chat", "/v9/chat/completions"),
        ("/v9/chat/completions", "/v9/chat/completions"),
        ("/v9/models", "/v9/models"),
        ("/v9/models/one", "/v9/models/{model}"),
        ("/v9/files/a/b/c", "/v9/files/{path:.+}"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_no_mount_lies_in_the_way_of_a_route(install: Install, path: str, hidden: str, first: bool) -> None:
    over = _gateway("over", path)
    pair = [install("a", **_offers(over if first else TALK)), install("b", **_offers(TALK if first else over))]
    plugins = Plugins.load(pair)
    assert plugins.classes() == [over if first else TALK]
    assert "'b'" in plugins.problems[0]
    assert "plugin 'a'" in plugins.problems[0]
    assert hidden in plugins.problems[0]


@pytest.mark.parametrize("path", ["/v9/messages", "/v9/chatter", "/v9/chat/completions/more", "/v9/models/a/b", "/v99"])
def test_a_mount_below_another_is_fine_where_no_route_is(install: Install, path: str) -> None:
    beside = _gateway("beside", path)
    plugins = Plugins.load([install("a", **_offers(TALK)), install("b", **_offers(beside))])
    assert plugins.problems == []
    assert plugins.classes() == [TALK, beside]


def test_a_mount_that_passes_requests_on_may_lie_over_a_route(install: Install) -> None:
    beside = _gateway("beside", "/v9/models", routes=("",), header="x-beside")
    assert Plugins.load([install("a", **_offers(TALK)), install("b", **_offers(beside))]).problems == []
    assert Plugins.load([install("a", **_offers(beside)), install("b", **_offers(TALK))]).problems == []


def test_a_family_belongs_to_one_plugin(install: Install) -> None:
    more, other = _gateway("echo", "/echo/v2"), _gateway("echo", "/other")
    plugins = Plugins.load([install("a", **_offers(Echo, more)), install("b", **_offers(other))])
    assert plugins.classes() == [Echo, more]
    assert plugins.problems == [
        "plugin 'b': Echo is of the family 'echo', which plugin 'a' has already; uninstall one of them"
    ]


def test_a_stranger_never_pushes_out_what_is_shipped(install: Install) -> None:
    shipped = [entry for entry in entry_points(group="parallama") if entry.dist and entry.dist.name == "parallama"]
    stranger = install("aaa", **_offers(_gateway("ollama", "/api")))
    plugins = Plugins.load([stranger, *shipped])
    assert "plugin 'aaa'" in plugins.problems[0]
    assert len(plugins.problems) == 1
    assert plugins.classes() == Plugins.load(shipped).classes()


def test_a_plugin_says_where_it_comes_from() -> None:
    ours = next(plugin for plugin in Plugins.load().found if plugin.name == "ollama")
    assert (ours.distribution, ours.version, ours.api) == ("parallama", parallama.__version__, API)
    assert set(ours.mounts) >= {"/api", "/ollama/api"}
    assert ours.problems == []


@pytest.mark.parametrize("section", ["bad", "late"])
def test_a_broken_plugin_is_fatal_where_the_settings_mount_it(install: Install, section: str) -> None:
    late = type("Late", (Echo,), {"name": "late", "api": API + 1})
    plugins = Plugins.load([install("bad", **_offers(late)), install("echo", **_offers(Echo))])
    plugins.require([])
    plugins.require(["echo"])
    with pytest.raises(ConfigError) as raised:
        plugins.require(["echo", section])
    said = str(raised.value)
    assert said.startswith(
        f"gateways.{section}: plugin 'bad' cannot be used: Late was written for generation {API + 1}"
    )
    assert "install a release of the plugin for it" in said


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


@pytest.mark.parametrize("section", ["old", "echo"], ids=["entry point", "family"])
def test_a_broken_plugin_keeps_the_server_from_starting_only_if_its_section_asks_for_it(
    install: Install, section: str
) -> None:
    class Old(Echo):
        api = API + 1

    plugins = Plugins.load([install("old", **_offers(Old))])
    assert list(plugins.families({})) == []
    assert list(plugins.families({section: {"enabled": False, "shout": True}})) == []
    with pytest.raises(ConfigError, match=f"gateways.{section}: .*generation"):
        plugins.families({section: {}})


@pytest.mark.parametrize("error", [RuntimeError("no"), SystemExit(3)], ids=repr)
def test_options_that_make_a_stranger_s_code_raise_are_the_operator_s_error(
    install: Install, error: BaseException
) -> None:
    class Moody(Echo):
        def __init__(self, options=None):
            super().__init__(options)
            if self.options.times > 1:
                raise error

    plugins = Plugins.load([install("moody", **_offers(Moody))])
    with pytest.raises(ConfigError, match=r"gateways.echo: Moody cannot be made"):
        plugins.families({"echo": {"times": 2}})
