"""`GET /discovery`: every gateway class that is registered, whether it is on, and the plugins that cannot be used.

For whoever has a key; nothing here depends on the caller.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import orjson
from aiohttp import web

from parallama.admin.guards import KNOWN
from parallama.admin.views import View, page
from parallama.gateway.api import Gateway
from parallama.gateway.families import Families
from parallama.gateway.plugins import Plugin, Plugins


@dataclass(frozen=True, slots=True)
class GatewayClass:
    """A gateway class that can be used."""

    type: str
    """Its name."""
    distribution: str | None
    """The Python package that it comes with; null: none is known."""
    api: int
    """The generation of the plugin API that it was written for."""
    mounts: Sequence[str]
    """Where its paths begin."""
    status: Literal["active", "disabled"]
    """Whether its family is on."""
    mounted: bool
    """Whether it serves its mounts."""


@dataclass(frozen=True, slots=True)
class Unusable:
    """A plugin of which something cannot be used."""

    plugin: str
    distribution: str | None
    families: Sequence[str]
    problem: str
    """What is wrong with it."""


@dataclass(frozen=True, slots=True)
class Discovery:
    """What is installed. A plugin may be in both, when only some of its gateways can be used."""

    gateways: Mapping[str, Sequence[GatewayClass]]
    """By family."""
    unusable: Sequence[Unusable]


def discovery(families: Families, plugins: Plugins, cache_s: float) -> View:
    """The page; what it answers is given again for `cache_s` seconds."""
    kept, until = b"", 0.0

    async def discovery(_request: web.Request) -> web.Response:
        nonlocal kept, until
        now = time.monotonic()
        if now >= until:
            kept, until = orjson.dumps(describe(families, plugins)), now + cache_s
        return web.Response(body=kept, content_type="application/json", charset="utf-8")

    return View(
        name="discover",
        path="/discovery",
        tag="state",
        summary="Every gateway class that is registered, and the plugins that cannot be used.",
        guard=KNOWN,
        handler=discovery,
        answers=page("application/json", Discovery, "What there is; it may be as old as `discovery.cache_s` says."),
    )


def describe(families: Families, plugins: Plugins) -> Discovery:
    """What there is now."""
    gateways: dict[str, list[GatewayClass]] = {family.name: [] for family in families}
    for plugin in plugins.found:
        for gateway in plugin.gateways:
            gateways[gateway.name].append(_class(gateway, plugin, families))
    return Discovery(gateways, [_unusable(plugin) for plugin in plugins.found if plugin.problems])


def _class(gateway: type[Gateway], plugin: Plugin, families: Families) -> GatewayClass:
    family = families[gateway.name]
    return GatewayClass(
        type=gateway.__name__,
        distribution=plugin.distribution,
        api=gateway.api,
        mounts=gateway.paths,
        status="active" if family.settings.enabled else "disabled",
        mounted=any(type(one.serving.gateway) is gateway for one in family.mounted),
    )


def _unusable(plugin: Plugin) -> Unusable:
    return Unusable(plugin.name, plugin.distribution, plugin.families, "; ".join(plugin.problems))
