"""The Ollama gateway: the native API byte for byte, and a simplified dialect beside it."""

from __future__ import annotations

from collections.abc import Iterable

from parallama.gateway.api import Gateway
from parallama.gateway.hookspecs import hookimpl
from parallama_ollama.native import OllamaNative
from parallama_ollama.simple import OllamaSimple

__all__ = ["OllamaNative", "OllamaSimple", "register_gateways"]


@hookimpl
def register_gateways() -> Iterable[type[Gateway]]:
    """Both classes of the family."""
    return (OllamaNative, OllamaSimple)
