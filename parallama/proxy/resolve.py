"""The core's say over a request before it goes to a node: permission, what the key is for, and names that would leave
the node.

Codecs see only the name that the client wrote; whoever asks is known here.
"""

from __future__ import annotations

from collections.abc import Iterable

from parallama.config import ModelsSettings
from parallama.errors import NotAllowed
from parallama.exchange import Caller, KeyPolicy
from parallama.gateway.api import Codec, Gateway, Outbound, Route, Use
from parallama.gateway.listing import not_for
from parallama.gateway.mappings import Aliases
from parallama.gateway.names import leaves_node, matches
from parallama.nodes.catalog import Catalog

_PROMPTED = (Use.CHAT, Use.GENERATE, Use.EMBED)


def admit(caller: Caller, gateway: Gateway, route: Route) -> None:
    """Raise NotAllowed, naming the permission, or the gateway that the key is not for, when the caller may not use this
    route. Needs no body."""
    permission = f"use_{gateway.name}"
    if not caller.may(permission):
        raise NotAllowed(f"you need the permission {permission}")
    if route.use is Use.MANAGE and not caller.may("manage_models"):
        raise NotAllowed("you need the permission manage_models")
    policy = caller.policy
    if policy and policy.gateways is not None and gateway.name not in policy.gateways:
        raise NotAllowed(f"this key is not for the gateway {gateway.name}", code="gateway_access_denied")


def resolve(codec: Codec, aliases: Aliases, use: Use) -> None:
    """Give the node's names to `codec` in place of the family's own, with the parameters that go with them.

    What is managed on a node is named as the node names it: an alias stands for a model in use only.
    """
    if use is Use.MANAGE or not aliases.names:
        return
    resolved = [aliases.resolve(outbound, parameters=use in _PROMPTED) for outbound in codec.outbounds]
    if any(outbound.target for outbound in resolved):
        codec.resolved(resolved)


def limit(outbounds: Iterable[Outbound], policy: KeyPolicy | None) -> None:
    """Raise NotAllowed for a model that the key is not for; an alias is judged by what it stands for."""
    if policy is None or policy.models is None:
        return
    for outbound in outbounds:
        asked = (outbound.model, *outbound.names)
        for named, name in zip(asked, (outbound.target or outbound.model, *outbound.names), strict=True):
            if named and name and not matches(policy.models, name):
                raise not_for(named)


def judge(outbounds: Iterable[Outbound], catalog: Catalog, settings: ModelsSettings) -> None:
    """Raise NotAllowed for a request that a node would send on to another host, unless the settings allow that."""
    if settings.allow_cloud:
        return
    for outbound in outbounds:
        leaves = outbound.leaves_node
        for name in (outbound.target or outbound.model, *outbound.names):
            if name and (leaves_node(name) or catalog.remote(name)):
                leaves = True
        if leaves:
            raise NotAllowed("this request would leave the node for a cloud, which models.allow_cloud does not allow")
