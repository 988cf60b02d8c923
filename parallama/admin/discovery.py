"""`GET /discovery`: every gateway class that is registered, whether it is on, and the plugins that cannot be used.

For whoever has a key; nothing here depends on the caller.
"""

from __future__ import annotations

import time
from typing import Any

import orjson
from aiohttp import web

from parallama.admin.state import Handler
from parallama.gateway.api import Gateway
from parallama.gateway.families import Families
from parallama.gateway.plugins import Plugin, Plugins


def discovery(families: Families, plugins: Plugins, cache_s: float) -> Handler:
    """The handler; what it answers is given again for `cache_s` seconds."""
    kept, until = b"", 0.0

    async def discovery(_request: web.Request) -> web.Response:
        nonlocal kept, until
        now = time.monotonic()
        if now >= until:
            kept, until = orjson.dumps(describe(families, plugins)), now + cache_s
        return web.Response(body=kept, content_type="application/json", charset="utf-8")

    return discovery


def describe(families: Families, plugins: Plugins) -> dict[str, Any]:
    """`{gateways: {<family>: [{type, distribution, api, mounts, status, mounted}]}, unusable: [{plugin, distribution,
    families, problem}]}`. A plugin may be in both, when only some of its gateways can be used."""
    gateways: dict[str, list[dict[str, Any]]] = {family.name: [] for family in families}
    for plugin in plugins.found:
        for gateway in plugin.gateways:
            gateways[gateway.name].append(_class(gateway, plugin, families))
    return {"gateways": gateways, "unusable": [_unusable(plugin) for plugin in plugins.found if plugin.problems]}


def _class(gateway: type[Gateway], plugin: Plugin, families: Families) -> dict[str, Any]:
    family = families[gateway.name]
    return {
        "type": gateway.__name__,
        "distribution": plugin.distribution,
        "api": gateway.api,
        "mounts": gateway.paths,
        "status": "active" if family.settings.enabled else "disabled",
        "mounted": any(type(one.serving.gateway) is gateway for one in family.mounted),
    }


def _unusable(plugin: Plugin) -> dict[str, Any]:
    return {
        "plugin": plugin.name,
        "distribution": plugin.distribution,
        "families": plugin.families,
        "problem": "; ".join(plugin.problems),
    }
