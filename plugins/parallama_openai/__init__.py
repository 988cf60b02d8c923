"""The OpenAI gateway."""

from __future__ import annotations

from collections.abc import Iterable

from parallama.gateway.api import Gateway
from parallama.gateway.hookspecs import hookimpl


@hookimpl
def register_gateways() -> Iterable[type[Gateway]]:
    """The classes of the family."""
    return ()
