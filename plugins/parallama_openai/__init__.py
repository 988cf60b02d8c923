"""The OpenAI gateway: chat completions, completions, embeddings, responses and models in OpenAI's words."""

from __future__ import annotations

from collections.abc import Iterable

from parallama.gateway.api import Gateway
from parallama.gateway.hookspecs import hookimpl
from parallama_openai.gateway import OpenAI

__all__ = ["OpenAI", "register_gateways"]


@hookimpl
def register_gateways() -> Iterable[type[Gateway]]:
    """The one class of the family."""
    return (OpenAI,)
