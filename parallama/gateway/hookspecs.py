"""The two hooks of a plugin. Hooks register; the registered objects work: no hook runs per request."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click
import pluggy

if TYPE_CHECKING:
    from parallama.gateway.api import Gateway

hookspec = pluggy.HookspecMarker("parallama")
hookimpl = pluggy.HookimplMarker("parallama")


@hookspec
def register_gateways() -> Iterable[type[Gateway]]:  # type: ignore[empty-body]
    """The gateway classes of this plugin. Called once at start."""


@hookspec
def register_commands(cli: click.Group) -> None:
    """Add click commands to `cli`, the group of the `parallama` command. Called when it is not a built-in one."""
