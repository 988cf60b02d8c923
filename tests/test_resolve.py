"""The core's say: permissions, and names that would leave the node."""

from uuid import uuid4

import pytest
from parallama_ollama import register_gateways

from parallama.config import ModelsSettings
from parallama.errors import NotAllowed
from parallama.exchange import Caller
from parallama.gateway.api import Outbound, Use
from parallama.nodes.catalog import Catalog
from parallama.proxy.resolve import admit, judge


def _caller(*, admin: bool) -> Caller:
    permissions = frozenset(("use_ollama",))
    return Caller(user_id=uuid4(), username="u", key_id=None, admin=admin, permissions=permissions)


def _catalog() -> Catalog:
    catalog = Catalog()
    stub = {"name": "harmless:latest", "digest": "1", "remote_host": "https://ollama.com:443", "remote_model": "m"}
    catalog.fill({"models": [{"name": "wordy:latest", "digest": "2"}, stub]}, {})
    return catalog


def _asks(model: str, *names: str, leaves: bool = False) -> list[Outbound]:
    return [Outbound(method="POST", path="/api/chat", model=model, names=names, leaves_node=leaves)]


@pytest.mark.parametrize(
    "name",
    [
        "gpt-oss:120b-cloud",
        "x:cloud",
        " x:CLOUD ",
        "X:120B-Cloud",
        "registry.ollama.ai/library/x:cloud",
        "x:cloud:local",
        "x-cloud",
        "harmless",
        "HARMLESS:latest",
        "library/harmless",
    ],
)
def test_a_name_that_leaves_the_node_is_refused_unless_allowed(name: str) -> None:
    with pytest.raises(NotAllowed, match="allow_cloud"):
        judge(_asks(name), _catalog(), ModelsSettings())
    with pytest.raises(NotAllowed):
        judge(_asks("wordy", name), _catalog(), ModelsSettings())
    judge(_asks(name), _catalog(), ModelsSettings(allow_cloud=True))


def test_a_request_that_makes_the_node_call_out_is_refused() -> None:
    with pytest.raises(NotAllowed):
        judge(_asks("wordy", leaves=True), _catalog(), ModelsSettings())


@pytest.mark.parametrize("name", ["wordy", "cloudy:7b", "cloud:7b", "unknown", "my/cloud:latest"])
def test_other_names_pass(name: str) -> None:
    judge(_asks(name), _catalog(), ModelsSettings())


def test_model_management_needs_its_permission() -> None:
    for gateway in [made() for made in register_gateways()]:
        for route in gateway.routes():
            admit(_caller(admin=True), gateway, route)
            if route.use is Use.MANAGE:
                with pytest.raises(NotAllowed, match="manage_models"):
                    admit(_caller(admin=False), gateway, route)
            else:
                admit(_caller(admin=False), gateway, route)
