"""The operations of `/admin/v1/gateways`: what is set for each family, and its figures. As `operations.py` has those on
users.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parallama.admin.api import PREFIX
from parallama.admin.gateway_operations import GatewayFigures, GatewayState
from parallama.client.uses import Use, every, nothing, one, part

_EVERY = f"{PREFIX}/gateways"


def list_gateways(*, limit: int | None = None) -> Use[list[GatewayState]]:
    """Gateways, and what is set for them."""
    return every(GatewayState, _EVERY, {}, limit)


def get_gateway(gateway: str) -> Use[GatewayState]:
    """What is set for a gateway."""
    return one(GatewayState, "GET", _one(gateway))


def update_gateway(gateway: str, changes: Mapping[str, Any], *, version: int | None = None) -> Use[GatewayState]:
    """Change what is set for a gateway: its section of the settings file, as far as it changes; None takes a value
    away."""
    return one(GatewayState, "PATCH", _one(gateway), changes, version)


def reset_gateway(gateway: str, *, version: int | None = None) -> Use[None]:
    """Forget what was recorded: the settings file alone is in force."""
    return nothing("DELETE", _one(gateway), version)


def gateway_metrics(gateway: str) -> Use[GatewayFigures]:
    """The figures of a gateway in the server that answers."""
    return one(GatewayFigures, "GET", f"{_one(gateway)}/metrics")


def _one(gateway: str) -> str:
    return f"{_EVERY}/{part(gateway)}"
