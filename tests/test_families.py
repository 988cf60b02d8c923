"""What is in force for the families of gateways: the settings file, and over it what was recorded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from parallama.errors import ApiError, ConfigError
from parallama.gateway.api import Gateway, Reply, Route, Use
from parallama.gateway.families import Families, merged, over


@dataclass(frozen=True)
class EchoOptions:
    shout: bool = False
    limit: int = 3


class Echo(Gateway):
    name = "echo"
    paths = ("/echo",)
    Options = EchoOptions

    def routes(self) -> Sequence[Route]:
        return [
            Route(method="POST", path="/say", use=Use.CHAT, open=_never),
            Route(method="POST", path="/think", use=Use.CHAT, open=_never, endpoint="think"),
        ]

    def render_error(self, error: ApiError) -> Reply:
        return Reply(error.status, {}, b"")


@dataclass(frozen=True)
class EchoTwoOptions:
    limit: int = 3
    other: str = ""


class EchoTwo(Echo):
    paths = ("/echo2",)
    Options = EchoTwoOptions


class Quiet(Echo):
    name = "quiet"
    paths = ("/quiet",)


def _never(inbound: Any) -> Any:
    raise AssertionError(inbound)


def test_each_class_of_a_family_gets_its_own_options() -> None:
    (family,) = Families([Echo, EchoTwo], {"echo": {"limit": 9, "shout": True, "other": "x"}})
    assert [one.serving.gateway.options for one in family.mounted] == [EchoOptions(True, 9), EchoTwoOptions(9, "x")]


def test_without_a_section_everything_is_on_and_at_its_default() -> None:
    family = Families([Echo], {})["echo"]
    serving = family.mounted[0].serving
    assert (serving.settings.enabled, serving.settings.default_model) == (True, None)
    assert all(serving.open(route) for route in serving.routes.values())
    assert serving.gateway.options == EchoOptions()
    assert family.switches == ["chat", "think"]


@pytest.mark.parametrize(
    ("sections", "wrong"),
    [
        ({"ecko": {}}, "gateways.ecko: no such gateway; did you mean echo?"),
        ({"echo": {"enable": False}}, "gateways.echo.enable: no such option; did you mean enabled?"),
        ({"echo": {"shouts": True}}, "gateways.echo.shouts: no such option; did you mean shout?"),
        ({"echo": {"limit": "many"}}, "gateways.echo.limit: Input should be a valid integer"),
        ({"echo": {"enabled": "perhaps"}}, "gateways.echo.enabled: Input should be a valid boolean"),
        (
            {"echo": {"endpoints": {"thinks": False}}},
            "gateways.echo.endpoints.thinks: no such endpoint; did you mean think?",
        ),
        (
            {"echo": {"model_mappings": {"gpt": {"model": "m", "num_ctx": -1}}}},
            "gateways.echo.model_mappings.gpt.num_ctx: ",
        ),
        ({"echo": {"model_mappings": {"a": "m", "A:latest": "n"}}}, "the same to Ollama: a:latest"),
        ({"echo": {"default_model": ""}}, "gateways.echo.default_model: "),
    ],
)
def test_a_section_that_cannot_be_is_refused_with_its_place_and_what_would_be_right(
    sections: dict[str, Any], wrong: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        Families([Echo], sections)
    assert wrong in str(raised.value)


def test_what_was_recorded_stands_over_the_file_and_what_is_forgotten_does_not() -> None:
    base = {"shout": True, "endpoints": {"think": False}, "model_mappings": {"a": "m", "b": "n"}, "default_model": "a"}
    families = Families([Echo], {"echo": base})
    mounted = families["echo"].mounted[0]
    record = {
        "enabled": False,
        "endpoints": {"think": True},
        "model_mappings": {"b": None, "c": "o"},
        "default_model": None,
        "limit": 7,
    }
    assert families.overlay({"echo": record, "gone": {"x": 1}}) == []
    serving = mounted.serving
    assert dict(serving.aliases.names) == {"a": "m", "c": "o"}
    assert (serving.settings.enabled, serving.settings.default_model) == (False, None)
    assert serving.gateway.options == EchoOptions(True, 7)
    assert all(serving.open(route) for route in serving.routes.values())
    assert families.overlay({}) == []
    assert dict(mounted.serving.aliases.names) == {"a": "m", "b": "n"}
    assert mounted.serving.settings.enabled


def test_a_gateway_is_made_anew_only_when_something_has_changed() -> None:
    families = Families([Echo], {})
    mounted = families["echo"].mounted[0]
    first = mounted.serving
    families.overlay({"echo": {}})
    assert mounted.serving is first
    families.overlay({"echo": {"limit": 4}})
    assert mounted.serving is not first
    assert (first.gateway.options.limit, mounted.serving.gateway.options.limit) == (3, 4)


def test_a_record_that_cannot_be_in_force_changes_nothing_and_is_told() -> None:
    families = Families([Echo], {"echo": {"limit": 5}})
    mounted = families["echo"].mounted[0]
    before = mounted.serving
    assert families.overlay({"echo": {"limit": "many", "enabled": False}}) == [
        "gateways.echo.limit: Input should be a valid integer, unable to parse string as an integer"
    ]
    assert mounted.serving is before


class Moody(Echo):
    """Its routes depend on its options."""

    def routes(self) -> Sequence[Route]:
        if self.options.limit > 8:
            raise SystemExit("too much")
        return super().routes()[: 1 if self.options.shout else 2]


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"limit": 9}, "gateways.echo: Moody has no routes with these options: SystemExit"),
        ({"shout": True}, "gateways.echo: these options change the routes, which takes a restart"),
    ],
)
def test_routes_that_fail_or_change_keep_a_gateway_as_it_is_and_others_are_set(
    record: dict[str, Any], problem: str
) -> None:
    families = Families([Moody, Quiet], {})
    before = families["echo"].mounted[0].serving
    assert families.overlay({"echo": record, "quiet": {"enabled": False}}) == [problem]
    assert families["echo"].mounted[0].serving is before
    assert not families["quiet"].settings.enabled


def test_what_is_set_later_stands_over_what_was_set_before() -> None:
    first = over({}, {"endpoints": {"a": False}, "model_mappings": {"x": "m"}, "shout": True})
    second = over(first, {"endpoints": {"b": False}, "model_mappings": {"x": None}, "shout": None})
    assert second == {"endpoints": {"a": False, "b": False}, "model_mappings": {"x": None}, "shout": None}
    assert merged({"model_mappings": {"x": "file"}, "shout": False}, second) == {
        "endpoints": {"a": False, "b": False},
        "model_mappings": {},
    }
