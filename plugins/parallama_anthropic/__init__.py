"""The Anthropic gateway: messages, their tokens and models in Anthropic's words."""

from __future__ import annotations

from collections.abc import Iterable

from parallama.gateway.api import Gateway
from parallama.gateway.hookspecs import hookimpl
from parallama_anthropic.gateway import Anthropic, AnthropicMessages, AnthropicModels

__all__ = ["Anthropic", "AnthropicMessages", "AnthropicModels", "register_gateways"]


@hookimpl
def register_gateways() -> Iterable[type[Gateway]]:
    """The classes of the family: the whole dialect, and its two places at the root."""
    return (Anthropic, AnthropicMessages, AnthropicModels)
