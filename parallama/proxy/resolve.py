"""The core's say over a request before it goes to a node: permission, and names that would leave the node.

Codecs see only the name that the client wrote; whoever asks is known here.
"""

from __future__ import annotations

from collections.abc import Iterable

from parallama.config import ModelsSettings
from parallama.errors import NotAllowed
from parallama.exchange import Caller
from parallama.gateway.api import Codec, Gateway, Outbound, Route, Use
from parallama.gateway.mappings import Aliases
from parallama.gateway.names import leaves_node
from parallama.nodes.catalog import Catalog

_PROMPTED = (Use.CHAT, Use.GENERATE, Use.EMBED)


def admit(caller: Caller, gateway: Gateway, route: Route) -> None:
    """Raise NotAllowed, naming the permission, when the caller may not use this route. Needs no body."""
    permission = f"use_{gateway.name}"
    if not caller.may(permission):
        raise NotAllowed(f"you need the permission {permission}")
    if route.use is Use.MANAGE and not caller.may("manage_models"):
        raise NotAllowed("you need the permission manage_models")


def resolve(codec: Codec, aliases: Aliases, use: Use) -> None:
    """Give the node's names to `codec` in place of the family's own, with the parameters that go with them.

    What is managed on a node is named as the node names it: an alias stands for a model in use only.
    """
    if use is Use.MANAGE or not aliases.names:
        return
    resolved = [aliases.resolve(outbound, parameters=use in _PROMPTED) for outbound in codec.outbounds]
    if any(outbound.target for outbound in resolved):
        codec.resolved(resolved)


def judge(outbounds: Iterable[Outbound], catalog: Catalog, settings: ModelsSettings) -> None:
    """Raise NotAllowed for a request that a node would send on to another host, unless the settings allow that."""
    if settings.allow_cloud:
        return
    for outbound in outbounds:
        leaves = outbound.leaves_node
        for name in (outbound.target or outbound.model, *outbound.names):
            if name:
                leaves = leaves or leaves_node(name) or catalog.remote(name)
        if leaves:
            raise NotAllowed("this request would leave the node for a cloud, which models.allow_cloud does not allow")
